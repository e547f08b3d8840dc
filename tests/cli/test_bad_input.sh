#!/bin/sh
# Bad input end to end: one clear error, the documented exit code, nothing on stdout, and a folder
# listing that is what it was. One representative each of what the tests of io, text and model
# walk through case by case. NIB_CLI is the command.
set -u
cd "$(dirname "$0")/../.." || exit 1
nibble=$(realpath "${NIB_CLI:-build/nibble}")
[ -x "$nibble" ] || { echo "$nibble is not there: build first, or set NIB_CLI"; exit 1; }
tiny=$PWD/tests/golden/eval/with_bos
sharded=$PWD/tests/golden/model/llama_sharded
kjv=$PWD/models/kjv-llama
quantized=$PWD/tests/golden/formats/torchao-int8-row-bf16
for scheme in int8_weight_only int4_weight_only quanto; do # a scheme is a file that may be deleted
    "$nibble" list schemes | grep -q "^$scheme" || { echo "skipped: no $scheme in this build"; exit 77; }
done
tmp=$(mktemp -d) || exit 1
trap 'chmod -R u+w "$tmp"; rm -rf "$tmp"' EXIT INT TERM
work=$tmp/work
failures=0
cases=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
picture() { (cd "$1" && find . -exec ls -ld --time-style=+ {} + && find . -type f -exec cksum {} +) 2>/dev/null | sort; }

# fresh: an empty $work with a copy of the tiny model in it, m.
fresh() {
    chmod -R u+w "$work" 2>/dev/null
    rm -rf "$work"
    mkdir "$work"
    cp -r "$tiny" "$work/m"
}

# refused CODE TEXT... -- WORDS...: the command fails so, says each TEXT, and changes nothing.
refused() {
    want=$1
    shift
    texts=$tmp/texts
    : >"$texts"
    while [ "$1" != -- ]; do
        echo "$1" >>"$texts"
        shift
    done
    shift
    cases=$((cases + 1))
    picture "$work" >"$tmp/before"
    (cd "$work" && "$nibble" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null)
    got=$?
    [ "$got" -eq "$want" ] || fail "nibble $*: exit $got, want $want: $(cat "$tmp/err")"
    [ ! -s "$tmp/out" ] || fail "nibble $*: says something on stdout"
    while read -r text; do
        grep -qF -e "$text" "$tmp/err" || fail "nibble $*: \"$(cat "$tmp/err")\" lacks \"$text\""
    done <"$texts"
    picture "$work" >"$tmp/after"
    cmp -s "$tmp/before" "$tmp/after" || fail "nibble $*: the folder changed: $(diff "$tmp/before" "$tmp/after")"
}
quantize="quantize m -o out --scheme int8_weight_only"

# ---- files of torch.save ----
golden=$PWD/tests/golden/pt
fresh
cp "$golden/module.pt" "$golden/sparse.pt" "$golden/jit.pt" "$work"
refused 3 "torch.nn.modules.linear.Linear is forbidden" module.pt byte -- info module.pt
refused 3 _rebuild_sparse_tensor sparse.pt -- info sparse.pt
refused 3 torch.jit jit.pt -- quantize jit.pt -o out.pt --scheme int8_weight_only
head -c 4000 "$golden/new.pt" >"$work/cut.pt"
refused 3 "cut short" cut.pt -- quantize cut.pt -o out --scheme int8_weight_only
rm "$work/m/model.safetensors"
cp "$golden/module.pt" "$work/m/pytorch_model.bin"
# shellcheck disable=SC2086
refused 3 forbidden pytorch_model.bin -- $quantize
refused 3 forbidden pytorch_model.bin -- generate m -p x -n 1
printf 'PK\003\004 and nothing else' >"$work/m/pytorch_model.bin"
refused 3 "not a whole zip archive" -- info m

# ---- safetensors ----
fresh
head -c 30000 "$tiny/model.safetensors" >"$work/m/model.safetensors"
# shellcheck disable=SC2086
refused 3 m/model.safetensors "at byte" -- $quantize
refused 3 m/model.safetensors -- info m
refused 3 m/model.safetensors -- generate m --ids 5 -n 1
{ printf '\000\341\365\005\000\000\000\000{'; head -c 65536 /dev/zero | tr '\0' ' '; } >"$work/m/model.safetensors"
refused 3 m/model.safetensors "at byte" -- $quantize
fresh
printf 'this is no checkpoint' >"$work/m/model.safetensors"
refused 3 m/model.safetensors -- $quantize

# ---- shards ----
fresh
rm -r "$work/m" && cp -r "$sharded" "$work/m"
sed 's/model-00002-of-00003/..\/x/' "$sharded/model.safetensors.index.json" >"$work/m/model.safetensors.index.json"
refused 3 model.safetensors.index.json "../x" "at byte" -- $quantize
cp "$sharded/model.safetensors.index.json" "$work/m/"
rm "$work/m/model-00002-of-00003.safetensors"
refused 3 model-00002-of-00003.safetensors -- $quantize
cp "$work/m/model-00001-of-00003.safetensors" "$work/m/model-00002-of-00003.safetensors"
refused 3 "lm_head.weight" -- $quantize

# ---- config.json ----
for change in 's/"hidden_size": 32,//=hidden_size' 's/"num_attention_heads": 4/"num_attention_heads": 0/=num_attention_heads' \
    's/"intermediate_size": 48/"intermediate_size": 40/=intermediate_size|config.json asks for' \
    's/"model_type": "llama"/"model_type": "lama"/=lama' 's/^{/[/=not valid JSON'; do
    fresh
    sed "${change%%=*}" "$tiny/config.json" >"$work/m/config.json"
    says=${change#*=}
    case $says in
    intermediate_size*) refused 3 "asks for" "mlp" -- generate m --ids 5 -n 1 ;;
    *) refused 3 "$says" config.json -- generate m --ids 5 -n 1 ;;
    esac
done

# ---- a model that runs is a folder with a config.json ----
fresh
mkdir "$work/bare"
refused 1 "there is no such folder" nowhere -- generate nowhere --ids 5 -n 1
refused 1 "there is no such folder" -- generate '' --ids 5 -n 1
refused 1 "there is no such folder" -- bench nowhere -p 4 -n 2 -r 1
refused 2 "this is a file" m/model.safetensors -- generate m/model.safetensors --ids 5 -n 1
refused 3 "config.json" bare -- eval bare --perplexity m/config.json
refused 3 "48 columns" "(file m" "mlp.down_proj" -- generate m --ids 5 -n 1 -s int4_weight_only:group_size=32

# ---- tokenizer.json ----
fresh
head -c 5000 "$tiny/tokenizer.json" >"$work/m/tokenizer.json"
refused 3 tokenizer.json "at byte" -- generate m -p hello -n 1
sed 's/"type": "BPE"/"type": "Unigram"/' "$tiny/tokenizer.json" >"$work/m/tokenizer.json"
refused 3 Unigram tokenizer.json -- generate m -p hello -n 1
fresh
printf 'good \377 text' >"$work/text"
refused 3 "UTF-8" "at byte 5" -- eval m --perplexity text --context 32

# ---- kinds that nobody here knows ----
fresh
(cd "$work" && "$nibble" quantize m -o q -s int8_weight_only -f native >/dev/null 2>&1) || fail "native: exit $?"
cp "$work/q/model.safetensors" "$work/native"
for change in 's/\\"version\\":1/\\"version\\":2/=version 2' 's/int8_row/int9_row/=int9_row' \
    's/int8_weight_only/int9_weight_only/=int9_weight_only' 's/\\"int8\\"/\\"int9\\"/=int9'; do
    LC_ALL=C sed "${change%%=*}" "$work/native" >"$work/q/model.safetensors"
    cmp -s "$work/native" "$work/q/model.safetensors" && fail "$change changes nothing"
    refused 3 "${change#*=}" q/model.safetensors -- verify q --source m
    refused 3 "${change#*=}" q/model.safetensors -- generate q --ids 5 -n 1
done

# ---- folders of optimum-quanto's workflow ----
refused 2 "qint4 takes algo" "not absmax" -- quantize m -o out -s qint4:algo=absmax
refused 2 "qint8 takes algo" "not hqq" -- quantize m -o out -s qint8:algo=hqq
refused 2 "qfloat8_e4m3fn takes algo" "not mse" -- quantize m -o out -s qfloat8_e4m3fn:algo=mse
awk 'BEGIN { for (i = 0; i < 40; i++) print "and it came to pass in the days of", i }' >"$work/text"
refused 2 "activations has no" -- calibrate m --data text -o out --activations qint4
mkdir "$work/there" && echo precious >"$work/there/file"
refused 2 "is there already" -- calibrate m --data text -o there
refused 2 "is there already" -- calibrate m --data text -o m
refused 2 "names a folder" -- calibrate m --data text -o there.pt
refused 2 "quantize the float model" -- calibrate "$quantized" --data text -o out
refused 2 "not max" -- calibrate m --data text -o out --weights qint8 --algo max
(cd "$work" && "$nibble" calibrate m --data text --samples 1 --context 16 --activations qint8 -o a -q >/dev/null 2>&1) ||
    fail "calibrate: exit $?"
proj=model.layers.0.mlp.down_proj
changed() { # FILE EXPRESSION: b, which is a with its FILE changed
    rm -rf "$work/b" && cp -r "$work/a" "$work/b"
    LC_ALL=C sed "$2" "$work/a/$1" >"$work/b/$1"
    cmp -s "$work/a/$1" "$work/b/$1" && fail "$2 changes nothing"
}
unreadable() { # TEXT... : no verb that opens b gets further
    refused 3 "$@" -- generate b --ids 5 -n 1
    refused 3 "$@" -- info b
    refused 3 "$@" -- verify b --source m
}
map=quanto_qmap.json
changed $map 's/layers.0.mlp.down_proj/layers.0.mlp.down_prox/'
unreadable b/$map down_prox
changed $map 's/"weights": "qint8"/"weights": "qint3"/'
unreadable b/$map qint3 "one of qint8"
changed $map 's/"activations": "qint8"/"activations": "qint4"/'
unreadable b/$map qint4 "activations has no"
changed $map 's/^{/[/'
unreadable b/$map "not valid JSON" "at byte"
changed model.safetensors 's/down_proj.weight._scale/down_proj.weight._scalx/'
unreadable $map "has no $proj.weight._scale"
changed model.safetensors 's/\(weight._scale":{"dtype":"BF16","shape":\)\[32,1\]/\1[1,32]/'
unreadable b/model.safetensors weight._scale "[1, 32]" "at byte"
changed model.safetensors 's/\(weight._data":{"dtype":"I8","shape":\)\[32,48\]/\1[48,32]/'
unreadable b/model.safetensors $proj "[48, 1]" "at byte"
changed model.safetensors 's/down_proj.input_scale/down_proj.input_scalx/'
refused 3 "there is no $proj.input_scale" -- generate b --ids 5 -n 1
rm "$work/a/$map"
refused 3 "quantized by optimum-quanto" $map q_proj.weight -- generate a --ids 5 -n 1

# ---- values that are not finite ----
nan() { # a file of 4 x 32 floats, one of them NaN
    header='{"a.weight":{"dtype":"F32","shape":[4,32],"data_offsets":[0,512]}}'
    printf '\102\000\000\000\000\000\000\000%s' "$header"
    head -c 256 /dev/zero
    printf '\000\000\300\177'
    head -c 252 /dev/zero
}
fresh
nan >"$work/nan.safetensors"
refused 3 nan.safetensors a.weight "row 2, column 0" -- quantize nan.safetensors -o out -s int8_weight_only -f native
refused 2 "nonfinite" "error, keep or zero" -- quantize nan.safetensors -o out -s int8_weight_only --nonfinite drop
# A model that runs with such a weight says so when its logits show it, and names the model.
printf '\300\177' | dd of="$work/m/model.safetensors" bs=1 seek=$(($(wc -c <"$work/m/model.safetensors") - 2)) conv=notrunc 2>/dev/null
awk 'BEGIN { for (i = 0; i < 40; i++) print "and it came to pass in the days of", i }' >"$work/text"
refused 3 "NaN" "(file m)" -- generate m --ids 5 -n 1
refused 3 "not finite" "(file m)" -- eval m --perplexity text --context 32
refused 3 "not finite" "(file m)" -- eval "$tiny" --perplexity text --context 32 --reference m
refused 3 "NaN" "(file m)" -- bench m -p 4 -n 2 -r 1
for policy in keep zero; do
    (cd "$work" && "$nibble" quantize nan.safetensors -o "$policy" -s int8_weight_only -f native --nonfinite $policy >/dev/null 2>&1) ||
        fail "--nonfinite $policy: exit $?"
done

# ---- the output ----
fresh
ln -s m "$work/link"
ln "$work/m/model.safetensors" "$work/hard.safetensors"
refused 2 "this is the input" -- quantize m -o m/ -s int8_weight_only --force
refused 2 "this is the input" -- quantize m -o ../work/m -s int8_weight_only --force
refused 2 link -- quantize m -o link -s int8_weight_only --force
refused 2 "this is the input" -- quantize m/model.safetensors -o hard.safetensors -s int8_weight_only -f native --force
mkdir "$work/out" && echo precious >"$work/out/file"
refused 2 "is there already" "--force" -- $quantize
refused 1 "no such folder" nowhere -- quantize m -o nowhere/out -s int8_weight_only
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$work/shut" && chmod a-w "$work/shut"
    refused 1 "Permission denied" -- quantize m -o shut/out -s int8_weight_only
else
    echo "skipped: root may write into any folder"
fi

# ---- no space ----
fresh
cases=$((cases + 1))
picture "$work" >"$tmp/before"
(cd "$work" && ulimit -f 16 && "$nibble" $quantize >/dev/null 2>"$tmp/err")
got=$?
[ "$got" -eq 5 ] || fail "a file over ulimit -f: exit $got, want 5: $(cat "$tmp/err")"
picture "$work" >"$tmp/after"
cmp -s "$tmp/before" "$tmp/after" || fail "a file over ulimit -f: the folder changed"
mkdir "$tmp/small"
if mount -t tmpfs -o size=32k tmpfs "$tmp/small" 2>/dev/null; then
    "$nibble" quantize "$tiny" -o "$tmp/small/out" -s int8_weight_only >/dev/null 2>"$tmp/err"
    got=$?
    [ "$got" -eq 5 ] || fail "a full disk: exit $got, want 5: $(cat "$tmp/err")"
    [ -z "$(ls -A "$tmp/small")" ] || fail "a full disk: $(ls -A "$tmp/small") is left"
    umount "$tmp/small"
else
    echo "skipped: no tmpfs can be mounted here, so that no disk can be filled"
fi

# ---- what was asked for ----
fresh
refused 2 "did you mean int8_weight_only" -- quantize m -o out -s int8_wieght_only
refused 2 "did you mean group_size" -- quantize m -o out -s int4_weight_only:group_sise=32
refused 2 "must be one of 32, 64" -- quantize m -o out -s int4_weight_only:group_size=33
refused 2 "did you mean \"torchao\"" -- $quantize -f torcha
refused 2 "did you mean --scheme" -- quantize m -o out --sheme int8_weight_only
refused 2 "formats that can: quanto, native" -- quantize m -o out -s qint8 -f torchao
refused 2 "name a folder" out.safetensors -- quantize m -o out.safetensors -s qint8
refused 2 "-n wants 0 to 1000000000" -- generate m --ids 5 -n 99999999999
refused 2 "-n wants at least 0" -- generate m --ids 5 -n -1
refused 2 "-t wants 1 to 1024" -- generate m --ids 5 -n 1 -t 100000
refused 2 "UTF-8" -- generate m -p "$(printf '\377')" -n 1
refused 2 "int3" "float, int8, int4, fp8" -- generate m --ids 5 -n 1 --kv int3
refused 2 "--compile and --no-compile" -- generate m --ids 5 -n 1 --compile --no-compile
refused 2 "--compile and --no-compile" -- bench m -p 4 -n 2 -r 1 --compile --no-compile
refused 2 "-m is a list" -- bench --kernel linear -m 0
refused 2 "-t is a list" "1 to 1024" -- bench --kernel linear -t 1,1025
refused 2 "33 columns" "group_size 32" -- bench --kernel linear -m 1 -n 16 -k 33 -s int4_weight_only:group_size=32
refused 1 "no such folder" nowhere -- report nowhere -c a=b.c
refused 2 "nothing" -- $quantize --include 'nothing*'
refused 2 "GLOB=SCHEME" -- $quantize --rule nonsense
refused 1 "there is no such file" nowhere -- info nowhere
refused 3 "mlp.down_proj" 48 -- quantize m -o out -s int4_weight_only:group_size=32
"$nibble" quantize "$tiny" -o "$work/q" -s int8_weight_only >/dev/null 2>&1 || fail "quantizing the tiny model: exit $?"
refused 2 "quantized already" -- quantize q -o out -s int8_weight_only
printf '\001' | dd of="$work/q/model.safetensors" bs=1 seek="$(($(wc -c <"$work/q/model.safetensors") - 8))" conv=notrunc 2>/dev/null
refused 4 "model.safetensors" "at byte" "the source gives" -- verify q --source m

# ---- stopped in the middle ----
# A pipe that nobody writes to would hold the command up; a model of 9 MB and one thread take long
# enough to be caught at work, if not every time.
stopped() { # SIGNAL -> exit code in $got; retried while the work was over before the signal came
    tries=0
    while :; do
        rm -rf "$work/big" "$work/big.partial"
        "$nibble" quantize "$kjv" -o "$work/big" -s "$slow" --unfit leave -t 1 >/dev/null 2>"$tmp/err" &
        pid=$!
        while [ ! -e "$work/big.partial" ] && kill -0 $pid 2>/dev/null; do :; done
        kill -s "$1" $pid 2>/dev/null
        wait $pid 2>/dev/null
        got=$?
        tries=$((tries + 1))
        [ "$got" -eq 0 ] && [ $tries -lt 20 ] || return
    done
}
slow=int4_weight_only:group_size=32,numerics=tinygemm,algo=hqq
fresh
cases=$((cases + 2))
# The command listens to Ctrl-C also where a shell lets what runs in the background ignore it.
stopped INT
if [ "$got" -eq 0 ]; then
    echo "skipped: the work was always over before it could be stopped"
else
    [ "$got" -eq 130 ] || fail "asked to stop: exit $got, want 130: $(cat "$tmp/err")"
    [ ! -e "$work/big" ] && [ ! -e "$work/big.partial" ] || fail "asked to stop: $(ls "$work") is left"
    stopped KILL
    [ ! -e "$work/big" ] || [ "$got" -eq 0 ] || fail "killed: there is an output"
    refused 2 "--resume" "--force" -- quantize "$kjv" -o big -s "$slow" --unfit leave
    "$nibble" quantize "$kjv" -o "$work/big" -s "$slow" --unfit leave --resume >/dev/null 2>"$tmp/err" || fail "--resume: exit $?: $(cat "$tmp/err")"
    "$nibble" quantize "$kjv" -o "$work/whole" -s "$slow" --unfit leave >/dev/null 2>&1
    cmp -s "$work/big/model.safetensors" "$work/whole/model.safetensors" || fail "--resume: other bytes than at once"
fi

# What writes nothing but its results stops as well, and says nothing on stdout that is no result.
# Each takes seconds where nobody stops it; where it was over before, it is tried again.
interrupted() { # WORDS...
    cases=$((cases + 1))
    wait_s=0.2
    for try in 1 2 3 4 5 6; do
        "$nibble" "$@" >"$tmp/out" 2>"$tmp/err" &
        pid=$!
        sleep $wait_s
        kill -s INT $pid 2>/dev/null
        wait $pid 2>/dev/null
        got=$?
        [ "$got" -eq 0 ] || break
        wait_s=0.0$try
    done
    [ "$got" -ne 0 ] || { echo "skipped: nibble $1 was always over before it could be stopped"; return; }
    [ "$got" -eq 130 ] || fail "nibble $* asked to stop: exit $got, want 130: $(cat "$tmp/err")"
}
awk 'BEGIN { for (i = 0; i < 20000; i++) print "and it came to pass in the days of", i }' >"$work/text"
interrupted eval "$kjv" --perplexity "$work/text" --json
[ ! -s "$tmp/out" ] || fail "eval asked to stop: says $(cat "$tmp/out")"
interrupted generate "$kjv" -p "And it came to pass" -n 500 --ignore-eos
interrupted bench "$kjv" -p 256 -n 256 -r 100 --json
[ ! -s "$tmp/out" ] || fail "bench asked to stop: says $(cat "$tmp/out")"

[ "$failures" -eq 0 ] || exit 1
echo "bad input: $cases cases, each with one error, its exit code and nothing changed"
