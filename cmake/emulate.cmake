# Kernels of instruction sets that this machine may lack are judged all the same: checkkernel holds
# each once more, compiled for AVX2 with SIMDe's plain functions in place of the intrinsics
# (tests/kernel/emulate/). Which kernels: the lines of kernel_list.h with one of these suffixes.
set(NIB_EMULATED_SUFFIXES "avxvnni|avx512|avx512vnni|avx512bf16")

find_path(NIB_SIMDE simde/x86/avx512.h)
function(nib_emulate target)
  if(NOT NIB_SIMDE OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "${NIB_ISA_FOLDERS_x86}")
    message(STATUS "no SIMDe (Debian: libsimde-dev): kernels beyond this machine are not judged")
    return()
  endif()
  set(list ${PROJECT_SOURCE_DIR}/src/kernel/kernel_list.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${list})
  file(STRINGS ${list} lines REGEX "^X\\([a-z0-9_]+_(${NIB_EMULATED_SUFFIXES})\\)")
  set(entries)
  set(sources)
  foreach(line ${lines})
    string(REGEX REPLACE "^X\\(([a-z0-9_]+)\\).*" "\\1" name "${line}")
    set(file ${PROJECT_SOURCE_DIR}/src/kernel/x86/${name}.c)
    set_source_files_properties(${file} PROPERTIES
      COMPILE_DEFINITIONS nib_kernels_${name}=nib_emulated_${name})
    list(APPEND sources ${file})
    string(APPEND entries "X(${name})\n")
  endforeach()
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/emulated/emulated_list.h CONTENT "${entries}")
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/emulated)
  target_compile_definitions(${target} PRIVATE NIB_EMULATED)
  if(NOT sources)
    return()
  endif()
  add_library(emulated_kernels OBJECT ${sources})
  target_include_directories(emulated_kernels BEFORE PRIVATE
    ${PROJECT_SOURCE_DIR}/tests/kernel/emulate ${PROJECT_SOURCE_DIR}/src
    ${PROJECT_SOURCE_DIR}/include)
  # The library's own build is the one that warns, and the guard pages of checkkernel watch memory.
  # Each intrinsic stays a call: inlined, one tile is thousands of loops and takes minutes.
  target_compile_options(emulated_kernels PRIVATE ${NIB_ISA_FLAGS_avx2} -w -Wno-psabi -Og)
  target_compile_definitions(emulated_kernels PRIVATE SIMDE_NO_INLINE)
  target_link_libraries(emulated_kernels PRIVATE nib_flags)
  if(NIB_SANITIZE)
    target_compile_options(emulated_kernels PRIVATE -fno-sanitize=all)
  endif()
  target_link_libraries(${target} PRIVATE emulated_kernels)
endfunction()
