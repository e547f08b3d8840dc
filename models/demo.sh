#!/bin/sh
# The demonstration behind ./x demo: the embedded model quantized many ways, each way verified,
# measured and made to speak. NIB_CLI is the command; results go to demo-out/.
set -eu
cd "$(dirname -- "$0")/.."
nibble=${NIB_CLI:-build/nibble}
model=models/kjv-llama
out=demo-out
began=$(date +%s)

# The first bytes of the held-out text that fill 32 windows of 512 ids, of each of which the second
# half is scored: 8,192 tokens.
heldout_bytes=60000
# Each in the file format of its own system, but where that one spends a byte on each code, or pads
# small matrices to large tiles: nibble's own holds them as compactly as they are. A third word is
# what --activations says when the model is measured and speaks.
schemes='
int8_weight_only
float8_weight_only
int4_weight_only:group_size=32
int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq native
int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq native int8
int8_dynamic_activation_int8_weight
int8_dynamic_activation_int4_weight native
intx_weight_only:bits=3,granularity=group,group_size=32 native
qint8
qfloat8
qint4
qint2
'

say() { printf '%s\n' "$*"; }
rm -rf "$out"
mkdir -p "$out/float.results"

# ---- the text to measure on -------------------------------------------------------------------
text="$out/heldout.txt"
if models/make/heldout.sh >"$out/heldout.all" 2>"$out/heldout.err"; then
    head -c "$heldout_bytes" "$out/heldout.all" >"$text"
    say "Measuring on the first $heldout_bytes bytes of chapters that the model never saw."
else
    text=''
    say "No held-out text, so no perplexity and no KL: $(cat "$out/heldout.err")"
fi
rm -f "$out/heldout.all" "$out/heldout.err"

# ---- one row of the table ---------------------------------------------------------------------
measure() { # FOLDER RESULTS SCHEME FORMAT ACTIVATIONS
    bytes=$(cat "$1"/*.safetensors | wc -c)
    options=${3#"${3%%:*}"}
    options="${options#:}${4:+ --format $4}"
    printf '{"scheme": "%s", "options": "%s", "bytes": %s}\n' "${3%%:*}" "${options# }" "$((bytes))" >"$2/row.json"
    if [ -n "$text" ]; then
        "$nibble" eval "$1" --perplexity "$text" --reference "$model" ${5:+--activations "$5"} --json -q >"$2/eval.json"
    fi
    "$nibble" generate "$1" ${5:+--activations "$5"} -p "And the Lord said" -n 100 --greedy --ignore-eos --json -q >"$2/generate.json"
}

rows="$out/float.results"
say "float"
printf '{"bits_per_weight": 16}\n' >"$rows/quantize.json"
measure "$model" "$rows" "float (bf16)" "" ""

printf '%s' "$schemes" | sed '/^$/d' >"$out/schemes"
while read -r scheme format activations; do
    name=$(printf '%s' "$scheme${activations:+-$activations}" | tr ':,=' '-')
    results="$out/$name.results"
    mkdir "$results"
    say "$scheme${activations:+, activations $activations}"
    "$nibble" quantize "$model" -o "$out/$name" --scheme "$scheme" ${format:+--format "$format"} --json -q >"$results/quantize.json"
    "$nibble" verify "$out/$name" --source "$model" --json -q >"$results/verify.json"
    measure "$out/$name" "$results" "$scheme" "$format" "$activations"
    rows="$rows $results"
done <"$out/schemes"
rm -f "$out/schemes"

# ---- the report -------------------------------------------------------------------------------
set -- -c 'scheme=row.scheme' -c 'bits/weight=quantize.bits_per_weight:2' -c 'MB=row.bytes:2/1e6'
[ -z "$text" ] || set -- "$@" -c 'perplexity=eval.perplexity:3' -c 'KL=eval.kl_mean:4'
set -- "$@" -c 'tokens/s=generate.tokens_per_second:0' -c 'SQNR dB=quantize.sqnr_db:1' -c 'activations=generate.activations' -c 'options=row.options'

sample() { # FOLDER: a greedy continuation in lines of 46 columns
    "$nibble" generate "$1" -p "And the Lord said unto" -n 80 --greedy --ignore-eos -q | fold -s -w 46
}
# shellcheck disable=SC2086 # one word a folder
"$nibble" report $rows "$@" >"$out/table.txt"
sample "$model" >"$out/float.txt"
sample "$out/int4_weight_only-group_size-32" >"$out/int4.txt"
{
    say "nibble $("$nibble" --version | cut -d' ' -f2), model $model"
    [ -z "$text" ] ||
        say "perplexity and KL (against the float model) on the held-out text $text"
    say ''
    cat "$out/table.txt"
    say ''
    say 'Each was verified: deriving every tensor again gave the same bytes.'
    say ''
    say 'Greedy, after "And the Lord said unto":'
    say ''
    { say 'float'; say '-----'; cat "$out/float.txt"; } >"$out/left"
    { say 'int4, groups of 32'; say '------------------'; cat "$out/int4.txt"; } >"$out/right"
    pr -m -t -w 100 "$out/left" "$out/right" | expand
} >"$out/report.txt"
rm -f "$out/left" "$out/right" "$out/table.txt" "$out/float.txt" "$out/int4.txt"

say ''
cat "$out/report.txt"
say ''
say "Quantized models: $out/<scheme>/   results: $out/<scheme>.results/   this report: $out/report.txt"
say "Took $(($(date +%s) - began)) s. Next: build/nibble quantize YOUR-MODEL -o OUT --scheme int4_weight_only:group_size=32"
