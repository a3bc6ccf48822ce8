# examples/*.c: programs that see the public header and the library only, as a user's would.
add_executable(example_quantize ${CMAKE_SOURCE_DIR}/examples/quantize_model.c)
target_link_libraries(example_quantize PRIVATE nibble nibble_warnings)
