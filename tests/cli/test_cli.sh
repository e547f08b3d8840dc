#!/bin/sh
# The command as a user meets it: exit codes, what goes to stdout and what to stderr, help that
# fits a screen, suggestions. NIB_CLI is the command to look at.
set -u
cd "$(dirname "$0")/../.." || exit 1
nibble=${NIB_CLI:-build/nibble}
[ -x "$nibble" ] || { echo "$nibble is not there: build first, or set NIB_CLI"; exit 1; }
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT INT TERM
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# run CODE WORDS...: run the command with WORDS, leave $tmp/out and $tmp/err, check the exit code.
run() {
    want=$1
    shift
    said="nibble $*"
    "$nibble" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    got=$?
    [ "$got" -eq "$want" ] || {
        fail "$said: exit $got, want $want"
        cat "$tmp/out" "$tmp/err"
    }
}
stdout_has() { grep -qF -e "$1" "$tmp/out" || fail "$said: stdout lacks \"$1\""; }
stderr_has() { grep -qF -e "$1" "$tmp/err" || fail "$said: stderr lacks \"$1\": $(cat "$tmp/err")"; }
stdout_empty() { [ ! -s "$tmp/out" ] || fail "$said: stdout is not empty"; }
stderr_empty() { [ ! -s "$tmp/err" ] || fail "$said: stderr is not empty: $(cat "$tmp/err")"; }

# The version, and help that was asked for, are results: stdout, exit 0.
run 0 --version
stderr_empty
grep -qE '^nibble [0-9]+\.[0-9]+\.[0-9]+$' "$tmp/out" || fail "$said: $(cat "$tmp/out")"
for word in --help -h help; do
    run 0 "$word"
    stdout_has "usage: nibble VERB"
    stderr_empty
done

# No verb at all is a mistake: the same text on stderr, exit 2.
run 2
stdout_empty
stderr_has "usage: nibble VERB"

# Mistakes name what was probably meant.
run 2 reprot
stdout_empty
stderr_has "did you mean report?"
run 2 help reprot
stderr_has "did you mean report?"
run 2 xyzzyplugh
stderr_has 'unknown verb "xyzzyplugh"'
grep -q "did you mean" "$tmp/err" && fail "$said: suggests something for nonsense"
run 2 --threads 2 report
stderr_has "comes before any verb"

# Each verb explains itself in 24 lines of 80 columns with an example, through both spellings, and
# answers an option that nobody has with exit 2 and the nearest one.
verbs=$("$nibble" --help | awk 'NF == 0 { part++; next } part == 1 { print $1 }')
[ -n "$verbs" ] || fail "no verbs in --help"
for verb in $verbs; do
    run 0 "$verb" --help
    stderr_empty
    stdout_has "usage: nibble $verb "
    stdout_has "example: nibble $verb "
    lines=$(wc -l <"$tmp/out")
    [ "$lines" -le 24 ] || fail "$said: $lines lines do not fit a screen"
    wide=$(awk 'length($0) > 80' "$tmp/out")
    [ -z "$wide" ] || fail "$said: wider than 80 columns: $wide"
    cp "$tmp/out" "$tmp/help"
    run 0 help "$verb"
    cmp -s "$tmp/out" "$tmp/help" || fail "$said differs from nibble $verb --help"
    run 2 "$verb" --verbsoe
    stdout_empty
    stderr_has "unknown option --verbsoe; did you mean --verbose?"
    run 2 "$verb" -Z
    stderr_has "unknown option -Z"
    run 2 "$verb" --help=yes
    stderr_has "--help takes no value"
done

# A result that cannot be written is a failure, a full device exit 5.
if [ -c /dev/full ]; then
    "$nibble" --help >/dev/full 2>"$tmp/err"
    code=$?
    [ "$code" -eq 5 ] || fail "nibble --help on a full device: exit $code, want 5"
    # Longer than a buffer: the write that failed is not the last one.
    "$nibble" info tests/golden/eval/with_bos --json >/dev/full 2>"$tmp/err"
    code=$?
    [ "$code" -eq 5 ] || fail "nibble info --json on a full device: exit $code, want 5"
    stderr_has "No space left"
fi

# report: missing results are "-", broken ones exit 3 with file and offset, nothing on stdout.
mkdir "$tmp/a" "$tmp/b"
printf '{"perplexity": 8.0151, "deep": {"size": 2500000}, "name": "a,b"}' >"$tmp/a/eval.json"
printf '{"perplexity": 9.5}' >"$tmp/b/eval.json"
run 0 report "$tmp/a" "$tmp/b" -c name=eval.name --column 'MB=eval.deep.size:2/1e6' -cppl=eval.perplexity:3 \
    --format=csv
stderr_empty
printf 'name,MB,ppl\n"a,b",2.50,8.015\n-,-,9.500\n' | cmp -s - "$tmp/out" || fail "$said: $(cat "$tmp/out")"
run 0 report "$tmp/a" -c ppl=eval.perplexity:1 --format md
printf '| ppl |\n|----:|\n| 8.0 |\n' | cmp -s - "$tmp/out" || fail "$said: $(cat "$tmp/out")"
run 2 report "$tmp/a"
stderr_has "--column HEAD=FILE.KEY is missing"
run 2 report -c a=b.c
stderr_has "an argument is missing"
run 2 report "$tmp/a" -c
stderr_has "-c wants a value: HEAD=FILE.KEY"
run 2 report "$tmp/a" -c nonsense
stderr_has "is not HEAD=FILE.KEY"
printf '{"perplexity": ' >"$tmp/b/eval.json"
run 3 report "$tmp/b" -c ppl=eval.perplexity
stdout_empty
stderr_has "$tmp/b/eval.json"
stderr_has "at byte 15"

# info: of a folder all that config.json and the files tell, of a single file what it holds.
run 0 info models/kjv-llama --json
stdout_has '"architecture": "LlamaForCausalLM"'
stdout_has '"parameters": 4459264'
stdout_has '"name": "model.layers.4.mlp.down_proj.weight"'
run 0 info models/kjv-llama/model.safetensors
stdout_has "no architecture told, all float; 4.46 million parameters"
run 3 info README.md
stdout_empty
stderr_has "README.md"

# What was asked for and cannot be had is said once, and the run goes on.
echo "my notes" >"$tmp/notes"
run 0 generate models/kjv-llama -p And -n 8 --tune "$tmp/notes"
stderr_has "notes: is not a file of measured choices; it is left as it is"
run 0 generate models/kjv-llama -p And -n 200 --ignore-eos --tune "$tmp/nowhere/kept"
stderr_has "nowhere/kept"
run 0 generate models/kjv-llama -p And -n 8 --tune "$tmp/notes" -q
stderr_empty
[ "$(cat "$tmp/notes")" = "my notes" ] || fail "a file of notes was written over"

[ "$failures" -eq 0 ] || exit 1
echo "the command: all as documented"
