# The library that applications link: the C ABI of include/internvl/c.h over the core, shared and static, and the
# headers over that ABI. Nothing but internvl_* leaves the shared one.
#
# In a wheel everything lies below the Python package, without the static library and without symbolic links, which
# wheels do not have.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(internvl SHARED api/c_api.cpp api/session_api.cpp)
add_library(internvl::internvl ALIAS internvl)
add_library(internvl::internvl_static ALIAS internvl_core)

set(INTERNVL_EXPORTED "${PROJECT_SOURCE_DIR}/cmake/exported_symbols.map")
target_include_directories(internvl PUBLIC "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>")
target_link_libraries(internvl PRIVATE "$<BUILD_INTERFACE:internvl_core>" "$<BUILD_INTERFACE:internvl_warnings>")
target_link_options(internvl PRIVATE "LINKER:--version-script=${INTERNVL_EXPORTED}" LINKER:--no-undefined)
# One name on disk is enough: versions that differ in more are told apart by internvl_version().
set_target_properties(internvl PROPERTIES
  VERSION ${PROJECT_VERSION_MAJOR}
  SOVERSION ${PROJECT_VERSION_MAJOR}
  LINK_DEPENDS "${INTERNVL_EXPORTED}")
set_target_properties(internvl_core PROPERTIES OUTPUT_NAME internvl EXPORT_NAME internvl_static)
foreach(library IN ITEMS internvl internvl_core)
  target_compile_features(${library} INTERFACE cxx_std_17)
endforeach()

if(SKBUILD)
  set(INTERNVL_INCLUDES internvl_rt/include)
  set(INTERNVL_LIBRARIES internvl_rt/lib)
else()
  set(INTERNVL_INCLUDES "${CMAKE_INSTALL_INCLUDEDIR}")
  set(INTERNVL_LIBRARIES "${CMAKE_INSTALL_LIBDIR}")
endif()
set(INTERNVL_PACKAGE "${INTERNVL_LIBRARIES}/cmake/internvl")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/internvl" DESTINATION "${INTERNVL_INCLUDES}" FILES_MATCHING PATTERN "*.h")
if(SKBUILD)
  set(shared_only NAMELINK_SKIP)
  set(INTERNVL_INSTALLED internvl)
else()
  set(shared_only "")
  set(INTERNVL_INSTALLED internvl internvl_core)
endif()
install(TARGETS ${INTERNVL_INSTALLED} EXPORT internvl_targets
  LIBRARY DESTINATION "${INTERNVL_LIBRARIES}" ${shared_only}
  ARCHIVE DESTINATION "${INTERNVL_LIBRARIES}"
  INCLUDES DESTINATION "${INTERNVL_INCLUDES}")
install(EXPORT internvl_targets FILE internvl-targets.cmake NAMESPACE internvl:: DESTINATION "${INTERNVL_PACKAGE}")
configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/internvl-config.cmake.in" internvl-config.cmake
  INSTALL_DESTINATION "${INTERNVL_PACKAGE}" NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(internvl-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/internvl-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/internvl-config-version.cmake" DESTINATION "${INTERNVL_PACKAGE}")
if(NOT SKBUILD)
  # Paths from the file itself, so that the prefix may be moved.
  file(RELATIVE_PATH INTERNVL_PREFIX_FROM_PC "/${INTERNVL_LIBRARIES}/pkgconfig" "/")
  configure_file("${PROJECT_SOURCE_DIR}/cmake/internvl.pc.in" internvl.pc @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/internvl.pc" DESTINATION "${INTERNVL_LIBRARIES}/pkgconfig")
endif()
