#!/bin/sh
# Memory and time at the end of 131,072 tokens, and what a quantized cache costs in quality:
#   bench/long_context.sh BUILD ROOM [TEXT]
# BUILD: a folder with nibble and bench/ (ninja nibble benches). ROOM: a folder with 21 GB free for a
# checkpoint of Llama-3.1-8B's shapes with random weights, quantized to 4 bits in groups of 128, the
# head too; an int4 folder that is there is used again. TEXT: held-out text for the embedded model
# (models/make/heldout.sh); without it KL is left out. Needs 14 GB of memory.
set -eu
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
build=$1 room=$2 text=${3-}
here=$(cd "$(dirname "$0")/.." && pwd)
if [ ! -d "$room/l31-int4" ]; then
    "$build/bench/bench_make_checkpoint" "$room/l31" 32 4
    "$build/nibble" quantize "$room/l31" -o "$room/l31-int4" --head \
        --scheme int4_weight_only:group_size=128 >/dev/null
    rm -r "$room/l31"
fi
for kind in int8 int4; do "$build/bench/bench_long_context" "$room/l31-int4" "$kind"; done
[ -n "$text" ] || exit 0
echo "| cache | perplexity | KL mean | KL 99 % | same top |"
echo "|---|---|---|---|---|"
for kind in float int8 int8_torchao int4 fp8; do
    "$build/nibble" eval "$here/models/kjv-llama" --perplexity "$text" --kv "$kind" --json \
        --reference "$here/models/kjv-llama" -q | tr -d ' \n"{}' | tr ',' '\n' |
        awk -F: -v kind="$kind" '{ v[$1] = $2 } END { printf "| %s | %.4f | %.3g | %.3g | %.4f |\n",
            kind, v["perplexity"], v["kl_mean"], v["kl_p99"], v["same_top"] }'
done
