#!/bin/sh
# Every public header compiles alone, as C11, C17 and C++17, without a warning.
set -eu
cd "$(dirname "$0")/.."
for header in include/nibble/*.h; do
    for how in "cc -x c -std=c11" "cc -x c -std=c17" "c++ -x c++ -std=c++17"; do
        printf '#include <nibble/%s>\n' "$(basename "$header")" |
            $how -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -Iinclude -fsyntax-only - ||
            { echo "$header does not compile alone with $how"; exit 1; }
    done
done
