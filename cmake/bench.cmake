# Benchmarks, not built by default: cmake --build build --target bench_kernels
add_executable(bench_kernels EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/bench_kernels.c)
target_compile_definitions(bench_kernels PRIVATE _POSIX_C_SOURCE=200809L)
target_link_libraries(bench_kernels PRIVATE nibble_objects nibble_dependencies nibble_warnings)
add_executable(bench_select EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/bench_select.c)
target_link_libraries(bench_select PRIVATE nibble_objects nibble_dependencies nibble_warnings)
# The pictures that examples/train_glyphs.py learns from.
add_executable(dump_glyphs EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/dump_glyphs.c)
target_link_libraries(dump_glyphs PRIVATE nibble_objects nibble_dependencies nibble_warnings)
# Our figures of docs/benchmarks.md: run by bench/figures.py.
foreach(name ptq_draws policies program_outputs)
  add_executable(${name} EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/${name}.c
    ${CMAKE_SOURCE_DIR}/bench/bench_cifar.c)
  target_link_libraries(${name} PRIVATE nibble_objects nibble_dependencies nibble_warnings)
endforeach()
foreach(name bench_specialize bench_train)
  add_executable(${name} EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/bench/${name}.c)
  target_compile_definitions(${name} PRIVATE _POSIX_C_SOURCE=200809L)
  target_link_libraries(${name} PRIVATE nibble_objects nibble_dependencies nibble_warnings)
endforeach()
add_custom_target(figures_programs
  DEPENDS ptq_draws policies program_outputs bench_specialize bench_train bench_select)
