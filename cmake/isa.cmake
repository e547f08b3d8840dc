# The suffix after the last '_' of a kernel file names the instruction set that it may use, and
# only such files get its flags, so that nothing else can run an instruction the machine lacks.
set(NIB_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)

set(NIB_ISA_FOLDERS_x86 "^(x86_64|AMD64|amd64)$")
set(NIB_ISA_FOLDERS_arm "^(aarch64|arm64)$")

# Drop the kernels of other machines from the list named by `sources`, give the rest their flags.
function(nib_isa_sources sources)
  set(kept)
  foreach(file ${${sources}})
    set(keep TRUE)
    foreach(folder x86 arm)
      if(file MATCHES "/src/kernel/${folder}/"
         AND NOT CMAKE_SYSTEM_PROCESSOR MATCHES "${NIB_ISA_FOLDERS_${folder}}")
        set(keep FALSE)
      endif()
    endforeach()
    if(keep)
      list(APPEND kept ${file})
      if(file MATCHES "/src/kernel/(x86|arm)/.*_([a-z0-9]+)[.]c$")
        set(flags ${NIB_ISA_FLAGS_${CMAKE_MATCH_2}})
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${flags}")
      endif()
    endif()
  endforeach()
  set(${sources} ${kept} PARENT_SCOPE)
endfunction()
