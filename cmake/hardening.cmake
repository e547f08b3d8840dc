# A mistake of ours should end the program rather than serve an attacker: checked copies, stack
# guards, and tables that are read-only once the program is loaded. Each flag only where the
# compiler knows it. Not together with sanitizers, which watch more closely by themselves.
include(CheckCCompilerFlag)
include(CheckLinkerFlag)
if(NOT NIB_SANITIZE AND NOT NIB_FUZZ)
  check_c_compiler_flag(-fstack-protector-strong NIB_HAS_STACK_PROTECTOR)
  if(NIB_HAS_STACK_PROTECTOR)
    target_compile_options(nib_flags INTERFACE -fstack-protector-strong)
  endif()
  # Fortified copies need optimization; undefined first because some systems define it themselves.
  target_compile_options(nib_flags INTERFACE
    $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE> $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=2>)
  check_linker_flag(C -Wl,-z,relro,-z,now NIB_HAS_RELRO)
  if(NIB_HAS_RELRO)
    target_link_options(nib_flags INTERFACE -Wl,-z,relro,-z,now)
  endif()
endif()
