#!/bin/sh
# The C program of the README compiles as it stands, and the verbs that the README types exist.
set -eu
cd "$(dirname "$0")/.."
awk '/^```c$/ { on = 1; next } /^```/ { on = 0 } on' README.md |
    "${CC:-cc}" -x c -std=c17 -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only -
awk '/^\$ nibble [a-z]/ { print $3 }' README.md | sort -u | while read -r verb; do
    "${NIB_CLI:-build/nibble}" "$verb" --help >/dev/null
done
