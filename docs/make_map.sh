#!/bin/sh
# Prints docs/map.md: the tree as it is, each file with the first sentence of its own comment.
# Run from anywhere: docs/make_map.sh >docs/map.md
set -eu
export LC_ALL=C # one order everywhere
cd "$(dirname -- "$0")/.."

cat <<'END'
# The map

Includes go down or stay in their folder, never up, never to a sibling; `tests/floors.sh` checks.

```
base < kernel < tensor < quant < op < nn io text < flow train graph < model < cli
```

Adding a scheme, layout, kernel, op, architecture or verb: one file and one line `X(name)` in a
`*_list.h`; the name in the list is the name of the file ([adding.md](adding.md)). `grep -rn 'X(' src
cli --include='*_list.h'` shows all there are. The test of `src/F/x.c` is `tests/F/test_x.c`.

This page is printed by `docs/make_map.sh` from the first sentence of each file.
END

folder_text() {
    case $1 in
    include/nibble) echo "what users see: the headers are the manual" ;;
    src/base) echo "knows nothing of tensors: errors, memory, files, text, threads, numbers" ;;
    src/kernel) echo "functions on pointers and sizes that cannot fail and allocate nothing" ;;
    src/kernel/ref) echo "the judges: plain C that reads like the formula" ;;
    src/kernel/x86) echo "one family and one instruction set a file, for x86-64" ;;
    src/kernel/arm) echo "the same for 64-bit ARM" ;;
    src/tensor) echo "dense and quantized tensors, contexts, scopes" ;;
    src/quant) echo "floats to codes to bytes, and back" ;;
    src/quant/schemes) echo "one scheme a file: floats to codes" ;;
    src/op) echo "operations on tensors, all behind one door" ;;
    src/nn) echo "modules: named children and parameters" ;;
    src/io) echo "files of models, of data and of sound: reading, checking, writing" ;;
    src/text) echo "text to ids and back" ;;
    src/flow) echo "quantizing whole trees of modules" ;;
    src/train) echo "the tape, gradients, optimizers" ;;
    src/graph) echo "what was called, as a list that is planned once and run often" ;;
    src/model) echo "architectures, sessions, and whole files in and out" ;;
    cli) echo "the command; public headers only, like any other user" ;;
    examples) echo "programs to start from, built and run by the tests" ;;
    tests) echo "mirrors src/; run by ctest" ;;
    bench/peers) echo "nibble beside other libraries, in turns: race.py" ;;
    bench) echo "one question a file" ;;
    models) echo "the embedded model and how it was made" ;;
    docs) echo "what the headers do not say" ;;
    cmake) echo "parts of the build" ;;
    *) echo "" ;;
    esac
}

first_sentence() { # FILE: of its opening comment, without "file.c: " before it
    awk '
    /^#!/ { next }
    FNR <= 3 && /^#include|^#ifndef|^cmake_/ { exit }
    {
        line = $0
        ended = line ~ /\*\//
        sub(/^\/\* */, "", line); sub(/^ \* */, "", line); sub(/^# */, "", line); sub(/ *\*\/.*/, "", line)
        if (line == "") exit
        text = text (text == "" ? "" : " ") line
        if (ended || text ~ /\. |\.$/) exit
    }
    END {
        sub(/^[a-z0-9_]+\.[a-z]+: */, "", text)
        if (match(text, /\.( |$)/)) text = substr(text, 1, RSTART - 1)
        print text
    }' "$1"
}

files() { git ls-files -co --exclude-standard -- "$@" | sort; }

for folder in $(files include src cli examples bench tests | sed 's|/[^/]*$||' | sort -u); do
    case $folder in tests/golden* | tests/fuzz/corpus* | bench/results* | tests/interop/*) continue ;; esac
    list=$(files "$folder" | grep -E "^$folder/[^/]*\.(c|h|sh|cu|py)$" || true)
    [ -n "$list" ] || continue
    text=$(folder_text "$folder")
    printf '\n## %s/\n\n' "$folder"
    [ -z "$text" ] || printf '%s\n\n' "$text"
    for file in $list; do
        stem=${file%.*}
        shown=${file##*/}
        sentence=$(first_sentence "$file")
        case $file in
        *.c) # beside a header of the same name, the header speaks for both
            [ ! -f "$stem.h" ] || continue
            ;;
        *.h) [ ! -f "$stem.c" ] || shown="$shown .c" ;;
        esac
        case $file in
        tests/*/test_*.c)
            [ -n "$sentence" ] || sentence="tests ${stem##*/test_}"
            ;;
        esac
        printf -- '- `%s`%s\n' "$shown" "${sentence:+ $sentence}"
    done
done

printf '\n## The rest\n\n'
for entry in x .ci/run models docs cmake CMakeLists.txt CMakePresets.json README.md CONTRIBUTING.md CHANGELOG.md LICENSE; do
    [ -e "$entry" ] || continue
    case $entry in
    x) text="everything one does here, by one word: ./x help" ;;
    .ci/run) text="what a build server runs" ;;
    CMakePresets.json) text="release, debug, asan, tsan, coverage, clang" ;;
    CMakeLists.txt) text="the build; picks up files by where they lie" ;;
    CONTRIBUTING.md) text="how code is written here" ;;
    CHANGELOG.md) text="what changed for users" ;;
    README.md) text="start here" ;;
    LICENSE) text="Apache-2.0" ;;
    *) text=$(folder_text "$entry") ;;
    esac
    printf -- '- `%s` %s\n' "$entry" "$text"
done
