#!/bin/sh
# Memory of OPT-125m, BLOOM-560m and GPT-2 at their published shapes, random weights:
# bench/text_models.sh [FOLDER]. What is written to FOLDER is removed again.
#
# Peak is the largest resident set of the process. "run" is `nibble bench` with a prompt of 64
# tokens and 32 new ones, two threads; its promise is the weights as their format holds them (all
# mapped or allocated once), and what is left is the program, activations, logits and the cache.
set -eu
at=${1:-${TMPDIR:-/tmp}/text_models}
build=${NIB_BUILD:-build}
nibble=$build/nibble
mkdir -p "$at"
peak() { # PEAK_OF COMMAND...: MiB into $mib, its output into $at/out
    /usr/bin/time -f '%M' -o "$at/time" "$@" >"$at/out" 2>"$at/err" || { cat "$at/err" >&2; exit 1; }
    mib=$(awk '{ printf "%.0f", $1 / 1024 }' "$at/time")
}
printf '| model | weights | file MiB | peak of quantizing | peak of a run |\n'
printf '|---|---|---|---|---|\n'
for model in opt-125m bloom-560m gpt2; do
    "$build/bench/bench_make_models" "$at/$model" "$model"
    for scheme in float int8_weight_only int4_weight_only:group_size=32 qint4 \
        int8_dynamic_activation_int8_weight; do
        folder=$at/$model quantizing=-
        if [ "$scheme" != float ]; then
            folder=$at/quantized
            rm -rf "$folder"
            peak "$nibble" quantize "$at/$model" -o "$folder" -s "$scheme" -q
            quantizing=$mib
            "$nibble" verify "$folder" --source "$at/$model" -q >/dev/null
        fi
        bytes=$(cat "$folder"/*.safetensors | wc -c)
        peak "$nibble" bench "$folder" -p 64 -n 32 -r 1 -t 2 -q
        echo "$model $scheme $bytes $quantizing $mib" | awk '
            { printf "| %s | %s | %.0f | %s | %s |\n", $1, $2, $3 / 1048576, $4, $5 }'
    done
    rm -rf "${at:?}/$model" "$at/quantized"
done
rm -f "$at/out" "$at/err" "$at/time"
