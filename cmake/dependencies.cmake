# Libraries: all from the system. oneDNN is optional, MPI is where it is asked for, the others are
# required.
find_package(PkgConfig REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
find_package(SQLite3 REQUIRED)
find_package(OpenMP COMPONENTS C)
pkg_check_modules(PROTOBUFC REQUIRED IMPORTED_TARGET libprotobuf-c)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(LIBZIP REQUIRED IMPORTED_TARGET libzip)

add_library(nibble_dependencies INTERFACE)
target_link_libraries(nibble_dependencies INTERFACE PkgConfig::PROTOBUFC PkgConfig::JANSSON
  PkgConfig::LIBZIP ZLIB::ZLIB PNG::PNG JPEG::JPEG SQLite::SQLite3 m)
if(OpenMP_C_FOUND)
  target_link_libraries(nibble_dependencies INTERFACE OpenMP::OpenMP_C)
endif()

set(DNNL_FOUND FALSE)
if(NIBBLE_ONEDNN)
  find_path(DNNL_INCLUDE_DIR dnnl.h)
  find_library(DNNL_LIBRARY dnnl)
  if(DNNL_INCLUDE_DIR AND DNNL_LIBRARY)
    set(DNNL_FOUND TRUE)
    target_link_libraries(nibble_dependencies INTERFACE ${DNNL_LIBRARY})
  endif()
endif()

if(NIBBLE_MPI)
  find_package(MPI COMPONENTS C)
  if(NOT MPI_C_FOUND)
    message(FATAL_ERROR "NIBBLE_MPI is ON, but there is no MPI for C (Debian: libopenmpi-dev)")
  endif()
  target_link_libraries(nibble_dependencies INTERFACE MPI::MPI_C)
endif()

# The ONNX schema of the system, compiled by protobuf-c.
find_file(ONNX_PROTO onnx.proto PATH_SUFFIXES include/onnx onnx PATHS /usr /usr/local REQUIRED)
find_program(PROTOC_C protoc-c REQUIRED)
get_filename_component(ONNX_PROTO_DIR ${ONNX_PROTO} DIRECTORY)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
set(ONNX_PB_C ${CMAKE_BINARY_DIR}/generated/onnx.pb-c.c)
add_custom_command(OUTPUT ${ONNX_PB_C} ${CMAKE_BINARY_DIR}/generated/onnx.pb-c.h
  COMMAND ${PROTOC_C} --c_out=${CMAKE_BINARY_DIR}/generated -I${ONNX_PROTO_DIR} ${ONNX_PROTO}
  DEPENDS ${ONNX_PROTO})
set_source_files_properties(${ONNX_PB_C} PROPERTIES COMPILE_OPTIONS "-w")
set(NIBBLE_GENERATED ${ONNX_PB_C})
