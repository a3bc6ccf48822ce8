# tests/<room>/test_*.c: one cmocka program each, named <room>.<name>. A test that needs data is
# registered only where the data is (NIBBLE_DATA); the groups left out are named at configure time.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)
if(NOT NIBBLE_DATA AND DEFINED ENV{NIBBLE_DATA})
  set(NIBBLE_DATA $ENV{NIBBLE_DATA})
endif()

file(GLOB TEST_SOURCES CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}
  tests/unit/test_*.c tests/kern/test_*.c tests/ops/test_*.c tests/onnx/test_*.c
  tests/codegen/test_*.c)
# Programs named *_data.c need NIBBLE_DATA.
set(SKIPPED "")
foreach(src ${TEST_SOURCES})
  get_filename_component(name ${src} NAME_WE)
  get_filename_component(dir ${src} DIRECTORY)
  get_filename_component(room ${dir} NAME)
  string(REPLACE "test_" "" short ${name})
  if(name MATCHES "_data$" AND NOT NIBBLE_DATA)
    list(APPEND SKIPPED ${room}.${short})
    continue()
  endif()
  add_executable(${name} ${src})
  target_link_libraries(${name} PRIVATE nibble_objects PkgConfig::CMOCKA nibble_dependencies)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE _POSIX_C_SOURCE=200809L
    NIBBLE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" NIBBLE_DATA="${NIBBLE_DATA}")
  add_test(NAME ${room}.${short} COMMAND ${name})
  set_tests_properties(${room}.${short} PROPERTIES TIMEOUT 240)
endforeach()

# Shell tests: tests/cli/test_*.sh get the program, the source folder and the data folder.
file(GLOB SHELL_TESTS CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*/test_*.sh)
foreach(src ${SHELL_TESTS})
  get_filename_component(name ${src} NAME_WE)
  get_filename_component(dir ${src} DIRECTORY)
  get_filename_component(room ${dir} NAME)
  string(REPLACE "test_" "" short ${name})
  if(name MATCHES "_data$" AND NOT NIBBLE_DATA)
    list(APPEND SKIPPED ${room}.${short})
    continue()
  endif()
  add_test(NAME ${room}.${short}
    COMMAND bash ${src} $<TARGET_FILE:nibble_cli> ${CMAKE_SOURCE_DIR} "${NIBBLE_DATA}")
  set_tests_properties(${room}.${short} PROPERTIES TIMEOUT 280)
endforeach()
if(SKIPPED)
  list(JOIN SKIPPED ", " SKIPPED_TEXT)
  message(STATUS "Tests left out because NIBBLE_DATA is not set: ${SKIPPED_TEXT}")
endif()
