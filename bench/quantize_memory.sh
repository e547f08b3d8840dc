#!/bin/sh
# Peak resident memory of quantizing, scheme by scheme: bench/quantize_memory.sh MODEL [OUT]
# MODEL: any folder, such as one that make_checkpoint wrote; OUT is written and removed each time.
set -eu
model=$1
out=${2:-$model.quantized}
nibble=${NIB_CLI:-build/nibble}
printf '| scheme | peak MiB | seconds | GB out |\n|---|---|---|---|\n'
for scheme in int8_weight_only int4_weight_only:group_size=32 int4_weight_only:numerics=tinygemm \
    intx_weight_only:bits=3,granularity=group,group_size=128 float8_weight_only \
    float8_weight_only:granularity=tensor qint8 qint4 qint2 qfloat8; do
    rm -rf "$out"
    /usr/bin/time -f '%M %e' -o "$out.time" "$nibble" quantize "$model" -o "$out" -s "$scheme" -q >/dev/null
    bytes=$(cat "$out"/*.safetensors | wc -c)
    awk -v s="$scheme" -v b="$bytes" '{ printf "| %s | %.0f | %.1f | %.2f |\n", s, $1 / 1024, $2, b / 1e9 }' "$out.time"
done
rm -rf "$out" "$out.time"
