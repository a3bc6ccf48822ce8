# Benchmarks, not built by default: cmake --build build --target bench_kernels
add_executable(bench_kernels EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/bench_kernels.c)
target_compile_definitions(bench_kernels PRIVATE _POSIX_C_SOURCE=200809L)
target_link_libraries(bench_kernels PRIVATE nibble_objects nibble_dependencies nibble_warnings)
