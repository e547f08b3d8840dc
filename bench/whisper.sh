#!/bin/sh
# Memory and time of Whisper-large-v3 at its published shape, random weights: bench/whisper.sh [FOLDER].
# What is written to FOLDER is removed again.
#
# Peak is the largest resident set of the process: of `nibble quantize`, and of `nibble transcribe` with a
# window of 30 seconds and 8 ids, two threads. The promise of a format is its file; on top come the keys
# and values of cross attention (32 layers of 1500 rows, f32: 469 MiB, a quarter with --kv int8), the
# program and activations. Times are those of bench_whisper: one window, medians of 24 ids. QUIET: a command
# to run them under, such as a lock that keeps a shared machine silent.
set -eu
at=${1:-${TMPDIR:-/tmp}/whisper_shapes}
build=${NIB_BUILD:-build}
model=${NIB_MODEL:-whisper-large-v3}
sound=tests/golden/model/whisper_sound.wav
nibble=$build/nibble
mkdir -p "$at"
peak() { # COMMAND...: MiB into $mib, its output into $at/out
    /usr/bin/time -f '%M' -o "$at/time" "$@" >"$at/out" 2>"$at/err" || { cat "$at/err" >&2; exit 1; }
    mib=$(awk '{ printf "%.0f", $1 / 1024 }' "$at/time")
}
printf '| weights | file MiB | peak of quantizing | peak of transcribing | with --kv int8 | encoder ms | keys, values ms | id ms, op by op | compiled |\n'
printf '|---|---|---|---|---|---|---|---|---|\n'
"$build/bench/bench_make_models" "$at/float" "$model"
for scheme in float int8_weight_only qint8 qint4 int8_dynamic_activation_int8_weight; do
    folder=$at/$scheme quantizing=-
    if [ "$scheme" != float ]; then
        rm -rf "$folder"
        peak "$nibble" quantize "$at/float" -o "$folder" -s "$scheme" -q
        quantizing=$mib
    fi
    bytes=$(cat "$folder"/*.safetensors | wc -c)
    peak "$nibble" transcribe "$folder" "$sound" --language en -n 8 -t 2 --kv int8 -q
    small=$mib
    peak "$nibble" transcribe "$folder" "$sound" --language en -n 8 -t 2 -q
    # shellcheck disable=SC2086
    times=$(${QUIET:-} "$build/bench/bench_whisper" "$folder" - 2 1 24 | sed -n 's/^encoder \([0-9.]*\) ms .* values \([0-9.]*\) ms.* op by op \([0-9.]*\) ms, compiled \([0-9.]*\) ms.*/\1 \2 \3 \4/p')
    echo "$scheme $bytes $quantizing $mib $small $times" | awk '
        { printf "| %s | %.0f | %s | %s | %s | %s | %s | %s | %s |\n", $1, $2 / 1048576, $3, $4, $5, $6, $7, $8, $9 }'
    [ "$scheme" = float ] || rm -rf "$folder"
done
rm -rf "$at/float"
rm -f "$at/out" "$at/err" "$at/time"
