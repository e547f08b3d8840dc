#!/bin/sh
# Prints the held-out text (or, with the argument "train", everything else)
# of the King James Bible as Debian's package bible-kjv has it.
#
# The rule: number the 1,189 chapters 1, 2, 3 ... in the order printed; a
# chapter whose number is divisible by 20 is held out. Each verse is one line
# without its "Ge1:1 " prefix; one empty line stands between two chapters.
set -eu

case ${1-heldout} in
heldout) train=0 ;;
train) train=1 ;;
*) echo "usage: heldout.sh [heldout|train]" >&2; exit 2 ;;
esac
command -v bible >/dev/null || {
    echo "heldout.sh: no command 'bible'; on Debian: apt install bible-kjv" >&2
    exit 1
}

bible -f gen1:1-rev22:21 | LC_ALL=C awk -v train="$train" '
{
    chapter = $1
    sub(/:[0-9]+$/, "", chapter)
    if (chapter != last) { last = chapter; number++; fresh = 1 }
    if ((number % 20 != 0) != train) next
    if (fresh && printed) print ""
    fresh = 0
    printed = 1
    print substr($0, length($1) + 2)
}
# A truncated or different text would silently make other numbers.
END { if (NR != 31102 || number != 1189) {
    printf "heldout.sh: expected 31102 verses in 1189 chapters, got %d in %d\n",
        NR, number | "cat >&2"
    exit 1 } }'
