# Each SIMD file alone gets the flags of its instruction set; the rest of the library runs anywhere.
file(GLOB AVX2_FILES RELATIVE ${CMAKE_SOURCE_DIR} src/kernels/x86/*_avx2.c
  src/linalg/*_avx2.c)
file(GLOB AVX512_FILES RELATIVE ${CMAKE_SOURCE_DIR} src/kernels/x86/*_avx512vnni.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  foreach(f ${AVX2_FILES})
    set_property(SOURCE ${f} TARGET_DIRECTORY nibble_objects
      APPEND PROPERTY COMPILE_OPTIONS -mavx2 -mfma)
  endforeach()
  foreach(f ${AVX512_FILES})
    set_property(SOURCE ${f} TARGET_DIRECTORY nibble_objects APPEND PROPERTY COMPILE_OPTIONS
      -mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mprefer-vector-width=512)
  endforeach()
endif()
# No errno: the square root of Adam is then one vector instruction; its value is the same.
set_property(SOURCE src/train/optimizer.c TARGET_DIRECTORY nibble_objects
  APPEND PROPERTY COMPILE_OPTIONS -fno-math-errno)
