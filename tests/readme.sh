#!/bin/sh
# The C program of the README is examples/model.c, which ctest builds and runs; the verbs that the
# README types exist.
set -eu
cd "$(dirname "$0")/.."
awk '/^```$/ { on = 0 } on; /^```c$/ { on = 1 }' README.md | diff - examples/model.c >&2 || {
    echo "the C program of README.md is not that of examples/model.c" >&2
    exit 1
}
awk '/^\$ nibble [a-z]/ { print $3 }' README.md | sort -u | while read -r verb; do
    "${NIB_CLI:-build/nibble}" "$verb" --help >/dev/null
done
