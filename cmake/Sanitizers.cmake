# INTERNVL_SANITIZE: a list for -fsanitize, such as "address,undefined" or "thread".
set(INTERNVL_SANITIZE "" CACHE STRING "Sanitizers to build with")
if(INTERNVL_SANITIZE)
  add_compile_options(-fsanitize=${INTERNVL_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${INTERNVL_SANITIZE})
endif()
