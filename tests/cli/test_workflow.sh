#!/bin/sh
# nibble calibrate and compare on the model of the golden files: what is written loads, runs, says what
# it is, and bad input is one clear error that leaves nothing behind.
nibble=${NIB_CLI:-build/nibble}
"$nibble" list schemes | grep -q "^quanto" || exit 77
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT INT TERM
fail() { echo "FAILED: $*"; exit 1; }
model=models/kjv-llama
text=tests/golden/eval/text.txt

"$nibble" calibrate $model --data $text --samples 2 --context 64 -o "$tmp/a" -q >"$tmp/out" ||
    fail "calibrate: exit $?"
grep -q "Calibrated 35 modules" "$tmp/out" || fail "calibrate says $(tail -1 "$tmp/out")"
grep -q '"activations": "qint8"' "$tmp/a/quanto_qmap.json" || fail "the map has no activations"
grep -q '"outputs": false' "$tmp/a/quanto_qmap.json" || fail "the map does not say what is float"
"$nibble" eval "$tmp/a" --perplexity $text --context 64 --json -q >"$tmp/out" || fail "eval: exit $?"
grep -q "static 8 bits" "$tmp/out" || fail "eval does not name the activations"
"$nibble" verify "$tmp/a" --source $model -q >/dev/null || fail "verify: exit $?"
"$nibble" compare $model "$tmp/a" --data $text --samples 1 --context 64 --try 1 --json -q \
    >"$tmp/out" || fail "compare: exit $?"
grep -q '"modules": 35' "$tmp/out" || fail "compare does not see 35 modules"

"$nibble" eval tests/golden/eval/with_bos --perplexity $text --context 64 --protocol quanto --json -q >"$tmp/out" ||
    fail "eval --protocol quanto: exit $?"
grep -q '"mean_of_running_perplexities": 910.0' "$tmp/out" || fail "the mean: $(cat "$tmp/out")"
grep -q '"protocol": "quanto"' "$tmp/out" || fail "the protocol is not told"
"$nibble" eval tests/golden/eval/with_bos --lambada tests/golden/eval/lambada.jsonl --protocol quanto --json -q \
    >"$tmp/out" || fail "eval --lambada --protocol quanto: exit $?"
grep -q '"last_token_acc": 0.25' "$tmp/out" || fail "last tokens: $(cat "$tmp/out")"
"$nibble" eval tests/golden/eval/with_bos --perplexity $text --protocol upstream -q 2>"$tmp/err" >/dev/null
[ $? -eq 2 ] || fail "an unknown protocol is not refused"

printf '{"text": "In the beginning God created"}\n\n{"text": "and the earth was without form"}\n' >"$tmp/d.jsonl"
"$nibble" calibrate $model --data "$tmp/d.jsonl" --weights qint4 --activations qfloat8_e4m3fn \
    --exclude '*down_proj' --streamline off -o "$tmp/b" -q >"$tmp/out" || fail "jsonl: exit $?"
grep -q "Calibrated 30 modules" "$tmp/out" || fail "--exclude: $(tail -1 "$tmp/out")"
grep -q 'down_proj' "$tmp/b/quanto_qmap.json" && fail "an excluded module is in the map"
for how in "--algo gptq" "--algo mse" "--smooth 0.5" "--awq"; do
    rm -rf "$tmp/c"
    # shellcheck disable=SC2086
    "$nibble" calibrate $model --data $text --samples 1 --context 48 --weights qint4 \
        --activations none $how -o "$tmp/c" -q >/dev/null || fail "$how: exit $?"
    [ -f "$tmp/c/quanto_qmap.json" ] || fail "$how wrote no map"
done

bad() { # exit code, words of the message, arguments
    want=$1 words=$2
    shift 2
    "$nibble" calibrate "$@" -o "$tmp/bad" -q >/dev/null 2>"$tmp/err"
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit $code, want $want: $(cat "$tmp/err")"
    grep -q "$words" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
    [ -e "$tmp/bad" ] && fail "$*: left something behind"
}
printf 'no json\n' >"$tmp/bad.jsonl"
printf '{"words": "a"}\n' >"$tmp/other.jsonl"
: >"$tmp/empty.txt"
# Without data the model makes up its own, the same each time.
for out in made again; do
    "$nibble" calibrate $model --samples 2 --context 24 --weights qint4 --activations none --algo gptq \
        --include '*layers.0.self_attn.?_proj' -t "$([ "$out" = made ] && echo 1 || echo 2)" -o "$tmp/$out" -q >"$tmp/out" || fail "no data made up"
done
cmp -s "$tmp/made/model.safetensors" "$tmp/again/model.safetensors" || fail "made-up data differs"
"$nibble" calibrate $model -o "$tmp/bad" -q 2>"$tmp/err" >/dev/null
[ $? -eq 2 ] || fail "made-up data for activations is not refused: $(cat "$tmp/err")"
bad 2 "qint3" $model --data $text --weights qint3
bad 2 "activations has no" $model --data $text --activations qint4
bad 2 "qint8 takes algo" $model --data $text --weights qint8 --algo hqq
bad 3 "bad.jsonl" $model --data "$tmp/bad.jsonl"
bad 3 "no object with" $model --data "$tmp/other.jsonl"
bad 3 "no text" $model --data "$tmp/empty.txt"
bad 2 "no Linear matches" $model --data $text --include 'nothing*'
"$nibble" eval $model --perplexity $text --scheme quanto:activations=qint8 -q 2>"$tmp/err" >/dev/null
[ $? -eq 2 ] || fail "activations while loading are not refused"
"$nibble" quantize $model -s quanto:activations=qint8 -o "$tmp/bad" -q 2>"$tmp/err" >/dev/null
[ $? -eq 2 ] || fail "activations without data are not refused: $(cat "$tmp/err")"
echo "nibble calibrate, compare: written models load and run, bad input is refused"
