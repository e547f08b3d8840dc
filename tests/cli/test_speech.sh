#!/bin/sh
# nibble calibrate, compare and transcribe on a small Whisper and its sound: a frozen model is written,
# hears, and says what it is; sounds and models that are not, are one clear error.
nibble=${NIB_CLI:-build/nibble}
"$nibble" list schemes | grep -q "^quanto" || exit 77
"$nibble" list architectures 2>/dev/null | grep -q "^  whisper" || exit 77
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT INT TERM
fail() { echo "FAILED: $*"; exit 1; }
model=tests/golden/model/whisper_f32
sound=tests/golden/model/whisper_sound.wav

"$nibble" calibrate $model --data $sound -o "$tmp/a" -q >"$tmp/out" 2>"$tmp/err"
code=$?
grep -q "built without libsndfile" "$tmp/err" && exit 77
[ $code -eq 0 ] || fail "calibrate: exit $code: $(cat "$tmp/err")"
grep -q "Calibrated 44 modules" "$tmp/out" || fail "calibrate says $(tail -1 "$tmp/out")"
grep -q '"activations": "qint8"' "$tmp/a/quanto_qmap.json" || fail "the map has no activations"
"$nibble" transcribe "$tmp/a" $sound --json >"$tmp/out" 2>"$tmp/err" || fail "transcribe: exit $?"
grep -q '"ids"' "$tmp/out" || fail "transcribe says no ids"
"$nibble" transcribe "$tmp/a" $sound >/dev/null 2>"$tmp/err" || fail "transcribe: exit $?"
grep -q "static 8 bits" "$tmp/err" || fail "transcribe does not name the activations"
"$nibble" verify "$tmp/a" --source $model -q >/dev/null || fail "verify: exit $?"
"$nibble" compare $model "$tmp/a" --data $sound --try 1 --json -q >"$tmp/out" || fail "compare: exit $?"
grep -q '"modules": 44' "$tmp/out" || fail "compare does not see 44 modules"

# What is printed is what transformers' tokenizer makes of what generate says.
text=tests/golden/model/whisper_text
for how in said said_times; do
    times=
    [ $how = said_times ] && times=--timestamps
    # shellcheck disable=SC2086
    "$nibble" transcribe $text $sound $times -q >"$tmp/out" 2>"$tmp/err" || fail "$how: $(cat "$tmp/err")"
    cmp "$tmp/out" $text/$how.txt || fail "$how: $(cat "$tmp/out")"
done
"$nibble" transcribe $text $sound --compile --json -q >"$tmp/compiled" || fail "--compile: exit $?"
"$nibble" transcribe $text $sound --no-compile --json -q >"$tmp/eager" || fail "--no-compile: exit $?"
for f in compiled eager; do grep -v '"seconds"' "$tmp/$f" >"$tmp/$f.said"; done
cmp "$tmp/compiled.said" "$tmp/eager.said" || fail "compiled steps say something else"

mkdir "$tmp/sounds" "$tmp/none"
cp $sound "$tmp/sounds/1.wav"
cp $sound "$tmp/sounds/2.wav"
"$nibble" calibrate $model --data "$tmp/sounds" --samples 1 --weights qint4 --activations none --algo gptq \
    --context 3 -o "$tmp/b" -q >"$tmp/out" || fail "a folder of sounds: exit $?"

bad() { # exit code, words of the message, verb, arguments
    want=$1 words=$2
    shift 2
    "$nibble" "$@" -q >/dev/null 2>"$tmp/err"
    code=$?
    [ "$code" -eq "$want" ] || fail "$*: exit $code, want $want: $(cat "$tmp/err")"
    grep -q "$words" "$tmp/err" || fail "$*: $(cat "$tmp/err")"
    [ "$(grep -c "^nibble:" "$tmp/err")" -le 1 ] || fail "$*: more than one error: $(cat "$tmp/err")"
    [ -e "$tmp/bad" ] && fail "$*: left something behind"
}
printf 'no sound\n' >"$tmp/words.wav"
: >"$tmp/empty.wav"
head -c 44 $sound >"$tmp/header.wav"
head -c 3000 $sound >"$tmp/cut.wav"
for verb in transcribe calibrate; do
    for case in "3 no.sound words.wav" "3 no.sound empty.wav" "3 short header.wav" "3 short cut.wav"; do
        # shellcheck disable=SC2086
        set -- $case
        if [ $verb = transcribe ]; then
            bad "$1" "$2" transcribe $model "$tmp/$3"
        else
            bad "$1" "$2" calibrate $model --data "$tmp/$3" -o "$tmp/bad"
        fi
    done
done
bad 3 "named as a sound" calibrate $model --data "$tmp/none" -o "$tmp/bad"
bad 2 "reads text" calibrate tests/golden/model/opt_norm_before --data $sound -o "$tmp/bad"
bad 2 "is not one of the model" transcribe $model $sound --language xx
bad 3 "hears no sound" transcribe tests/golden/model/opt_norm_before $sound
bad 1 "No such file" transcribe $model "$tmp/nowhere.wav"
echo "nibble calibrate, compare, transcribe: sounds are data, what is none is refused"
