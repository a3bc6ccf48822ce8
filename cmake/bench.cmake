# Benchmarks, not built by default: cmake --build build --target bench_kernels
add_executable(bench_kernels EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/bench_kernels.c)
target_compile_definitions(bench_kernels PRIVATE _POSIX_C_SOURCE=200809L)
target_link_libraries(bench_kernels PRIVATE nibble_objects nibble_dependencies nibble_warnings)
# The pictures that examples/train_glyphs.py learns from.
add_executable(dump_glyphs EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/dump_glyphs.c)
target_link_libraries(dump_glyphs PRIVATE nibble_objects nibble_dependencies nibble_warnings)
