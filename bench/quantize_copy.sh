#!/bin/sh
# Is quantizing a file faster than copying it? bench/quantize_copy.sh MODEL [SCHEME [PAIRS]]
# Interleaved pairs of `cp --reflink=never` with `sync -f` of the copy, and of `nibble quantize`,
# which syncs and validates what it wrote itself. Prints each pair and the median ratio; MODEL is
# read once before, so that both find it in the page cache or neither does.
set -eu
model=$1
scheme=${2:-int4_weight_only:group_size=32}
pairs=${3:-5}
nibble=${NIB_CLI:-build/nibble}
copy=$model.copy out=$model.quantized

now() { date +%s.%N; }
cat "$model"/*.safetensors >/dev/null
ratios=''
for i in $(seq "$pairs"); do
    rm -rf "$copy" "$out"
    sync -f "$(dirname "$model")"
    a=$(now)
    cp -r --reflink=never "$model" "$copy"
    for f in "$copy"/*; do sync -f "$f"; done
    b=$(now)
    rm -rf "$copy"
    sync -f "$(dirname "$model")"
    c=$(now)
    "$nibble" quantize "$model" -o "$out" -s "$scheme" -q >/dev/null
    d=$(now)
    pair=$(echo "$a $b $c $d" | awk '{ printf "%.2f %.2f %.3f", $2 - $1, $4 - $3, ($4 - $3) / ($2 - $1) }')
    echo "pair $i: copy and sync, quantize, ratio: $pair"
    ratios="$ratios ${pair##* }"
done
rm -rf "$copy" "$out"
printf '%s\n' $ratios | sort -n | awk -v s="$scheme" '{ r[NR] = $1 } END { printf "%s: median %.3f (%.3f to %.3f) of %d pairs\n", s, r[int((NR + 1) / 2)], r[1], r[NR], NR }'
