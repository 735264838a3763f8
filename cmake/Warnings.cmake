# One set of warnings for every target of the project.
add_library(internvl_warnings INTERFACE)
target_compile_options(internvl_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual)
