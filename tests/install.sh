#!/bin/sh
# What cmake --install puts into a prefix is enough for a program of somebody else: one built by
# pkg-config, one by find_package. NIB_BUILD is the build folder.
set -eu
cd "$(dirname "$0")/.."
build=${NIB_BUILD:-build}
if [ -n "${NIB_SANITIZE:-}" ] || grep -q '^NIB_COVERAGE:BOOL=ON' "$build/CMakeCache.txt"; then
    echo "skipped: an instrumented library is not for installing"
    exit 77
fi
room=$(mktemp -d "${TMPDIR:-/tmp}/nibble-install-XXXXXX")
trap 'rm -rf "$room"' EXIT
trap 'exit 130' INT TERM
cmake --install "$build" --prefix "$room/prefix" >"$room/log" || { cat "$room/log"; exit 1; }
"$room/prefix/bin/nibble" --version

folder=$(dirname "$(find "$room/prefix" -name nibble.pc)")
PKG_CONFIG_PATH=$folder${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
LD_LIBRARY_PATH=$(dirname "$folder")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PKG_CONFIG_PATH LD_LIBRARY_PATH
# shellcheck disable=SC2046 # one word a flag
"${CC:-cc}" -std=c11 examples/tokens.c $(pkg-config --cflags --libs nibble) -o "$room/tokens"
"$room/tokens" | tail -n 1

mkdir "$room/consumer"
cp examples/tokens.c "$room/consumer"
cat >"$room/consumer/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.20)
project(consumer C)
find_package(nibble 0.1 REQUIRED)
add_executable(tokens tokens.c)
target_link_libraries(tokens nibble::nibble)
END
{
    cmake -S "$room/consumer" -B "$room/consumer/build" -DCMAKE_C_COMPILER="${CC:-cc}" \
        -DCMAKE_PREFIX_PATH="$room/prefix" && cmake --build "$room/consumer/build"
} >"$room/log" 2>&1 || { cat "$room/log"; exit 1; }
"$room/consumer/build/tokens" | tail -n 1
