# The reference kernels' source inside the library: the C generator writes it out (bundle.h).
file(GLOB NBK_FILES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/kernels/ref/nbk*.[ch])
set(NBK_BUNDLE ${CMAKE_BINARY_DIR}/generated/nbk_bundle.c)
add_custom_command(OUTPUT ${NBK_BUNDLE}
  COMMAND ${CMAKE_COMMAND} -DOUT=${NBK_BUNDLE} "-DFILES=${NBK_FILES}"
    -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${NBK_FILES} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
list(APPEND NIBBLE_GENERATED ${NBK_BUNDLE})
