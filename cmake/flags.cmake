# Flags common to everything of ours: one order of float operations needs no contraction
# but where fma() is written, and no reassociation anywhere.
add_library(nib_flags INTERFACE)
target_compile_options(nib_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -ffp-contract=off -fno-strict-aliasing
  $<$<BOOL:${NIB_WERROR}>:-Werror>)
target_compile_definitions(nib_flags INTERFACE _GNU_SOURCE=1)
