# A scheme is a file that may be taken away; a program that spells its NIB_<SCHEME>(...) goes too.
file(STRINGS ${PROJECT_SOURCE_DIR}/include/nibble/nibble.h NIB_SCHEME_LINES
  REGEX "^extern const nib_scheme nib_scheme_")

# The scheme that a source file spells and this build lacks, in `lacks`; empty where there is none.
function(nib_lacking_scheme source lacks)
  file(READ ${source} text)
  set(${lacks} "" PARENT_SCOPE)
  foreach(line ${NIB_SCHEME_LINES})
    string(REGEX REPLACE ".* nib_scheme_([a-z0-9_]+).*" "\\1" scheme "${line}")
    string(TOUPPER "NIB_${scheme}(" macro)
    string(FIND "${text}" "${macro}" at)
    if(at GREATER -1 AND NOT EXISTS ${PROJECT_SOURCE_DIR}/src/quant/schemes/scheme_${scheme}.c)
      set(${lacks} ${scheme} PARENT_SCOPE)
    endif()
  endforeach()
endfunction()
