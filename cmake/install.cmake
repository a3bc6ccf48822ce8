# make install: program, library, header, pkg-config and CMake package files.
include(CMakePackageConfigHelpers)
if(TARGET nibble_cli)
  install(TARGETS nibble_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(TARGETS nibble ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
set(NIBBLE_PC_LIBS "-lprotobuf-c -ljansson -lzip -lz -lpng -ljpeg -lsqlite3 -lm")
if(DNNL_FOUND)
  string(APPEND NIBBLE_PC_LIBS " -ldnnl")
endif()
if(NIBBLE_MPI)
  list(JOIN MPI_C_LIBRARIES " " MPI_LINKED)
  string(APPEND NIBBLE_PC_LIBS " ${MPI_LINKED}")
endif()
if(OpenMP_C_FOUND)
  string(APPEND NIBBLE_PC_LIBS " ${OpenMP_C_FLAGS}")
endif()
configure_file(cmake/nibble.pc.in ${CMAKE_BINARY_DIR}/nibble.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
configure_package_config_file(cmake/nibbleConfig.cmake.in ${CMAKE_BINARY_DIR}/nibbleConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/nibbleConfig.cmake ${CMAKE_BINARY_DIR}/nibbleConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
