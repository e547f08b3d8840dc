#!/bin/sh
# A scheme is one file and one line of a list: without both, the project builds and its tests pass.
# Shows it for each scheme in src/quant/scheme_list.h, or for those named. Takes minutes each; with
# CMAKE_C_COMPILER_LAUNCHER=ccache in the environment fewer.
#   tests/removable.sh [NAME...]
set -eu
cd "$(dirname "$0")/.."
list=src/quant/scheme_list.h
room=$(mktemp -d "${TMPDIR:-/tmp}/nibble-removable-XXXXXX")
trap 'rm -rf "$room"' EXIT
trap 'exit 130' INT TERM
git ls-files -z | xargs -0 tar cf - | (cd "$room" && tar xf -)
# shellcheck disable=SC2046 # one word a name
[ $# -gt 0 ] || set -- $(sed -n 's/^X(\(.*\))$/\1/p' "$list")

cd "$room"
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >build.log 2>&1 || { cat build.log; exit 1; }
failed=0
for name; do
    file=src/quant/schemes/scheme_$name.c
    [ -f "$file" ] || { echo "$name: there is no $file"; exit 1; }
    mv "$file" kept.c
    cp "$list" kept.h
    printf '%s: ' "$name" # one sees which it is at
    began=$(date +%s)
    grep -v "^X($name)\$" kept.h >"$list"
    # A machine at which others work may starve a long test: that one gets more tries, no failed one.
    if ninja -C build >build.log 2>&1 &&
        ctest --test-dir build -j2 --repeat after-timeout:4 --output-on-failure >test.log 2>&1; then
        echo "builds and passes without it ($(grep -c ' Passed ' test.log) tests, $(($(date +%s) - began)) s)"
    else
        echo "does not build or pass without it"
        tail -n 40 build.log
        [ ! -f test.log ] || sed -n '/\*\*\*[^S]/,$p' test.log | tail -n 60
        failed=1
    fi
    rm -f test.log
    mv kept.c "$file"
    mv kept.h "$list"
done
exit $failed
