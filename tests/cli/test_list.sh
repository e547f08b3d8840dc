#!/bin/sh
# `nibble list` fits a screen, and docs/schemes.md is what it says of the schemes. A build without
# some scheme is compared with the rest of that document.
#   to bring the document up to date: build/nibble list schemes --format md > docs/schemes.md
set -u
cd "$(dirname "$0")/../.." || exit 1
nibble=${NIB_CLI:-build/nibble}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT INT TERM
fail() { echo "FAILED: $*"; exit 1; }

for words in list "list schemes"; do
    # shellcheck disable=SC2086
    "$nibble" $words >"$tmp/out" || fail "nibble $words: exit $?"
    lines=$(wc -l <"$tmp/out")
    [ "$lines" -le 48 ] || fail "nibble $words: $lines lines"
done

"$nibble" list schemes --format md >"$tmp/now" || fail "nibble list schemes --format md: exit $?"
awk 'NR == FNR { known[$0]; next }
     /^## / { name = $2; skip = !(("X(" name ")") in known) }
     skip { next }
     /^$/ { blank = blank "\n"; next } # those before a section that is skipped go too
     { printf "%s%s\n", blank, $0; blank = "" }' src/quant/scheme_list.h docs/schemes.md >"$tmp/said"
diff -u "$tmp/said" "$tmp/now" || fail "docs/schemes.md is not what nibble list schemes --format md prints"

"$nibble" list --json | grep -q '"architectures"' || fail "no architectures in the document"
"$nibble" list schemas 2>"$tmp/err" && fail "an unknown list is listed"
grep -q "did you mean schemes?" "$tmp/err" || fail "no suggestion: $(cat "$tmp/err")"
echo "nibble list: fits a screen, and docs/schemes.md is current"
