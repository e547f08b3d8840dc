# The suffix after the last '_' of a kernel file names the instruction set that it may use, and
# only such files get its flags, so that nothing else can run an instruction the machine lacks.
# A suffix allows exactly what base/cpu.c asks of a machine before it reports the level: a compiler
# may use any of it anywhere in the file, but nothing else (no VBMI, no GFNI).
set(NIB_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(NIB_ISA_FLAGS_avxvnni ${NIB_ISA_FLAGS_avx2} -mavxvnni)
set(NIB_ISA_FLAGS_avx512 ${NIB_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
set(NIB_ISA_FLAGS_avx512vnni ${NIB_ISA_FLAGS_avx512} -mavx512vnni)
set(NIB_ISA_FLAGS_avx512bf16 ${NIB_ISA_FLAGS_avx512} -mavx512bf16)
set(NIB_ISA_FLAGS_neon) # every aarch64 has it
set(NIB_ISA_FLAGS_dotprod -march=armv8.2-a+dotprod) # an extension of armv8.2, so never without it
set(NIB_ISA_FLAGS_i8mm -march=armv8.2-a+dotprod+i8mm)

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
        if(NIB_FUZZ) # no parser's input reaches them, and instrumented they take minutes each
          list(APPEND flags -fno-sanitize=all)
        endif()
        set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${flags}")
      endif()
    endif()
  endforeach()
  set(${sources} ${kept} PARENT_SCOPE)
endfunction()
