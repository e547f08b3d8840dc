# cmake --install puts the command, the library, its headers, nibble.pc for pkg-config and a
# package for find_package(nibble), which offers nibble::nibble.
include(CMakePackageConfigHelpers)
set(NIB_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/nibble)
install(TARGETS nibble RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
set_target_properties(nibble_lib PROPERTIES EXPORT_NAME nibble)
install(TARGETS nibble_lib EXPORT nibble
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/nibble DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
file(RELATIVE_PATH NIB_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
# Who links a static library needs what it needs, also without pkg-config's --static.
get_target_property(NIB_PC_TYPE nibble_lib TYPE)
set(NIB_PC_PRIVATE ".private")
set(NIB_PC_LIBS "\nLibs.private: -pthread -lm")
if(NIB_PC_TYPE STREQUAL STATIC_LIBRARY)
  set(NIB_PC_PRIVATE)
  set(NIB_PC_LIBS " -pthread -lm")
endif()
set(NIB_PC_AUDIO)
if(AUDIO_FOUND)
  set(NIB_PC_AUDIO " sndfile samplerate")
  set(NIB_CONFIG_AUDIO "pkg_check_modules(AUDIO REQUIRED IMPORTED_TARGET sndfile>=1.0.31 samplerate>=0.2)")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/nibble.pc.in nibble.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/nibble.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(EXPORT nibble NAMESPACE nibble:: FILE nibble-targets.cmake DESTINATION ${NIB_CMAKE_DIR})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/nibble-config.cmake.in
  nibble-config.cmake INSTALL_DESTINATION ${NIB_CMAKE_DIR})
write_basic_package_version_file(nibble-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/nibble-config.cmake ${PROJECT_BINARY_DIR}/nibble-config-version.cmake
  DESTINATION ${NIB_CMAKE_DIR})
