#!/bin/sh
# nibble calibrate, compare and eval on networks that see: tests/golden/pictures, and bad input for each.
nibble=${NIB_CLI:-build/nibble}
"$nibble" list schemes | grep -q "^quanto" || exit 77
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT INT TERM
fail() { echo "FAILED: $*"; exit 1; }
at=tests/golden/pictures
images=$at/images-idx3-ubyte.gz
labels=$at/labels-idx1-ubyte.gz

"$nibble" eval $at/mlp --images $images --labels $labels --json -q >"$tmp/out" || fail "eval: exit $?"
grep -q '"acc": 0.97' "$tmp/out" || fail "eval: $(cat "$tmp/out")"
"$nibble" calibrate $at/cnn --data $images --weights qint8 --activations qint8 -o "$tmp/a" -q >"$tmp/out" ||
    fail "calibrate: exit $?"
grep -q "Calibrated 4 modules on 100 pictures" "$tmp/out" || fail "calibrate says $(tail -1 "$tmp/out")"
"$nibble" eval "$tmp/a" --images $images --labels $labels --reference $at/cnn --json -q >"$tmp/out" ||
    fail "eval of what was written: exit $?"
grep -q '"acc": 0.98' "$tmp/out" || fail "eval: $(cat "$tmp/out")"
grep -q '"kl_mean"' "$tmp/out" || fail "eval does not compare"
"$nibble" verify "$tmp/a" --source $at/cnn -q >/dev/null || fail "verify: exit $?"
"$nibble" compare $at/cnn "$tmp/a" --data $images -q >"$tmp/out" || fail "compare: exit $?"
grep -q "Of a picture: KL" "$tmp/out" || fail "compare: $(cat "$tmp/out")"
"$nibble" calibrate $at/mlp --data $at/arrays.npz --weights qint4 --algo gptq --activations none \
    -o "$tmp/b" -q >/dev/null || fail "npz, gptq: exit $?"
"$nibble" calibrate $at/cnn --data $images --weights qint4 --algo gptq -o "$tmp/c" -q >/dev/null ||
    fail "gptq of convolutions: exit $?"

# A reduced range is saved, read again, and verified; it is for int8 activations.
"$nibble" calibrate $at/cnn --data $images --reduce-range -o "$tmp/r" -q >/dev/null || fail "--reduce-range: exit $?"
grep -q '"reduce_range": true' "$tmp/r/quanto_qmap.json" || fail "the map does not tell the reduced range"
"$nibble" eval "$tmp/r" --images $images --labels $labels --json -q >"$tmp/out" || fail "eval of a reduced range: exit $?"
grep -q '"acc": 0.9[789]' "$tmp/out" || fail "eval of a reduced range: $(cat "$tmp/out")"
"$nibble" verify "$tmp/r" --source $at/cnn -q >/dev/null || fail "verify of a reduced range: exit $?"
sed 's/"reduce_range": true/"reduce_range": 1/' "$tmp/r/quanto_qmap.json" >"$tmp/map"
cp "$tmp/map" "$tmp/r/quanto_qmap.json" # is refused below

# Token ids, for a model of text.
text=tests/golden/eval/with_bos
"$nibble" calibrate $text --data $at/ids.npz -o "$tmp/d" --json -q >"$tmp/out" || fail "ids: exit $?"
grep -q '"tokens": 40' "$tmp/out" || fail "ids: $(cat "$tmp/out")"
"$nibble" compare $text "$tmp/d" --data $at/ids.npz --try 1 -q >/dev/null || fail "compare by ids: exit $?"

refused() { # exit code, words of the message, words to nibble
    want=$1 words=$2
    shift 2
    "$nibble" "$@" -q >/dev/null 2>"$tmp/err"
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit $code, want $want: $(cat "$tmp/err")"
    grep -q -- "$words" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
    [ -e "$tmp/bad" ] && fail "$*: left something behind"
}
gzip -dc $images | head -c 5000 >"$tmp/cut"
gzip -dc $images >"$tmp/plain"
head -c 3000 $images >"$tmp/cut.gz"
head -c 1200 $at/arrays.npz >"$tmp/cut.npz"
refused 2 "reduce_range is for activations=qint8" calibrate $at/cnn --data $images --activations none --reduce-range -o "$tmp/bad"
refused 3 "neither true nor false" compare $at/cnn "$tmp/r" --data $images
refused 3 "the idx file is cut" calibrate $at/mlp --data "$tmp/cut" -o "$tmp/bad"
refused 3 "cut.gz" calibrate $at/mlp --data "$tmp/cut.gz" -o "$tmp/bad"
refused 3 "cut.npz" calibrate $at/mlp --data "$tmp/cut.npz" -o "$tmp/bad"
refused 3 "sees pictures \[N, 1, 28, 28\]" calibrate $at/mlp --data $labels -o "$tmp/bad"
refused 3 "two zero bytes" calibrate $at/mlp --data README.md -o "$tmp/bad"
refused 3 "pictures of u16" calibrate $at/mlp --data $at/ids.npz -o "$tmp/bad"
refused 3 "none of its arrays is named" calibrate $text --data $at/arrays.npz -o "$tmp/bad"
refused 2 "goes with --labels" eval $at/mlp --images $images
refused 3 "want \[100\] integers" eval $at/mlp --images $images --labels $at/arrays.npz
refused 3 "takes no tokens" eval $at/mlp --perplexity README.md
refused 3 "takes no pictures" eval $text --images $images --labels $labels
refused 2 "the model does not have\|have the same\|labels\|tokens" compare $at/mlp "$tmp/d" --data $images
refused 1 "tokenizer" generate $at/mlp -p hello
"$nibble" eval $at/mlp --images "$tmp/plain" --labels $labels -q >/dev/null || fail "a plain idx file: exit $?"
echo "nibble calibrate, compare, eval: pictures and ids run, bad files are refused"
