# tests/<room>/test_*.c: one cmocka program each, named <room>.<name>. Shell tests
# tests/<room>/test_*.sh get the program, the source folder and the data folder; the build folder is
# the program's. A test is registered only where it can run:
#   *_data         needs NIBBLE_DATA
#   *_oracle       needs NIBBLE_ORACLE_PYTHON, a Python with numpy, onnx and onnxruntime
#   *_oracle_data  needs both
#   *_lpsolve      needs lp_solve (liblpsolve55-dev), an oracle
#   *_mpi          needs NIBBLE_MPI and mpirun
#   *_arm          needs arm-none-eabi-gcc, newlib and qemu-system-arm
# What is left out is named at configure time and in tests_left_out.txt.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
if(NOT NIBBLE_DATA AND DEFINED ENV{NIBBLE_DATA})
  set(NIBBLE_DATA $ENV{NIBBLE_DATA})
endif()
if(NOT NIBBLE_ORACLE_PYTHON AND DEFINED ENV{NIBBLE_ORACLE_PYTHON})
  set(NIBBLE_ORACLE_PYTHON $ENV{NIBBLE_ORACLE_PYTHON})
endif()
if(NIBBLE_ORACLE_PYTHON)
  execute_process(COMMAND ${NIBBLE_ORACLE_PYTHON} -c "import numpy, onnx, onnxruntime"
    RESULT_VARIABLE ORACLE_FAILED OUTPUT_QUIET ERROR_QUIET)
  if(ORACLE_FAILED)
    message(FATAL_ERROR "NIBBLE_ORACLE_PYTHON (${NIBBLE_ORACLE_PYTHON}) cannot import numpy, onnx \
and onnxruntime")
  endif()
endif()

find_path(LPSOLVE_INCLUDE_DIR lpsolve/lp_lib.h)
find_library(LPSOLVE_LIBRARY lpsolve55 PATH_SUFFIXES lp_solve)
find_program(ARM_GCC arm-none-eabi-gcc)
find_program(QEMU_ARM qemu-system-arm)

set(TEST_SECONDS 280)
set(TEST_ENVIRONMENT "NIBBLE_ORACLE_PYTHON=${NIBBLE_ORACLE_PYTHON}" "MPIEXEC=${MPIEXEC_EXECUTABLE}")
if(CMAKE_C_FLAGS MATCHES "-fsanitize")
  set(TEST_SECONDS 1500)
  # Without memory is an error to be handled here as everywhere. NIBBLE_SANITIZED: tests that bound
  # the address space, which the sanitizers' shadow fills, leave the bound out.
  list(APPEND TEST_ENVIRONMENT "ASAN_OPTIONS=allocator_may_return_null=1" "NIBBLE_SANITIZED=1")
endif()
set(LEFT_OUT "")
# Sets `name`, `short` (room.name) and `lacks`: empty, or what this machine lacks for the test.
function(describe_test source)
  get_filename_component(name ${source} NAME_WE)
  get_filename_component(dir ${source} DIRECTORY)
  get_filename_component(room ${dir} NAME)
  string(REGEX REPLACE "^test_" "" short ${name})
  set(lacks "")
  if(name MATCHES "_data$" AND NOT NIBBLE_DATA)
    list(APPEND lacks NIBBLE_DATA)
  endif()
  if(name MATCHES "_oracle(_data)?$" AND NOT NIBBLE_ORACLE_PYTHON)
    list(APPEND lacks NIBBLE_ORACLE_PYTHON)
  endif()
  if(name MATCHES "_lpsolve$" AND NOT (LPSOLVE_INCLUDE_DIR AND LPSOLVE_LIBRARY))
    list(APPEND lacks lp_solve)
  endif()
  if(name MATCHES "_mpi$" AND NOT (NIBBLE_MPI AND MPIEXEC_EXECUTABLE))
    list(APPEND lacks "NIBBLE_MPI and mpirun")
  endif()
  if(name MATCHES "_arm$" AND NOT (ARM_GCC AND QEMU_ARM))
    list(APPEND lacks "arm-none-eabi-gcc, newlib and qemu-system-arm")
  endif()
  list(JOIN lacks " and " lacks)
  set(short ${room}.${short} PARENT_SCOPE)
  set(name ${name} PARENT_SCOPE)
  set(lacks "${lacks}" PARENT_SCOPE)
endfunction()

file(GLOB TEST_SOURCES CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}
  tests/unit/test_*.c tests/kern/test_*.c tests/ops/test_*.c tests/onnx/test_*.c
  tests/codegen/test_*.c)
foreach(src ${TEST_SOURCES})
  describe_test(${src})
  if(lacks)
    list(APPEND LEFT_OUT "${short} (needs ${lacks})")
    continue()
  endif()
  add_executable(${name} ${src})
  target_link_libraries(${name} PRIVATE nibble_objects PkgConfig::CMOCKA nibble_dependencies
    nibble_warnings)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE _POSIX_C_SOURCE=200809L
    NIBBLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" NIBBLE_DATA="${NIBBLE_DATA}"
    NIBBLE_ORACLE_PYTHON="${NIBBLE_ORACLE_PYTHON}")
  if(name MATCHES "_lpsolve$")
    target_include_directories(${name} SYSTEM PRIVATE ${LPSOLVE_INCLUDE_DIR})
    target_link_libraries(${name} PRIVATE ${LPSOLVE_LIBRARY})
  endif()
  add_test(NAME ${short} COMMAND ${name})
  set_tests_properties(${short} PROPERTIES TIMEOUT ${TEST_SECONDS}
    ENVIRONMENT "${TEST_ENVIRONMENT}")
endforeach()

file(GLOB SHELL_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*/test_*.sh)
foreach(src ${SHELL_TESTS})
  describe_test(${src})
  if(lacks)
    list(APPEND LEFT_OUT "${short} (needs ${lacks})")
    continue()
  endif()
  add_test(NAME ${short} COMMAND bash ${src} ${CMAKE_BINARY_DIR}/nibble ${CMAKE_SOURCE_DIR}
    "${NIBBLE_DATA}")
  set_tests_properties(${short} PROPERTIES TIMEOUT ${TEST_SECONDS}
    ENVIRONMENT "${TEST_ENVIRONMENT}")
endforeach()

list(JOIN LEFT_OUT "\n" LEFT_OUT_TEXT)
if(LEFT_OUT)
  string(APPEND LEFT_OUT_TEXT "\n")
  foreach(line ${LEFT_OUT})
    message(STATUS "Test left out: ${line}")
  endforeach()
endif()
file(WRITE ${CMAKE_BINARY_DIR}/tests_left_out.txt "${LEFT_OUT_TEXT}")
