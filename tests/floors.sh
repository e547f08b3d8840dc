#!/bin/sh
# Includes go down or stay in their own folder, never up, never to a sibling of the same floor.
# Run from the root of the project; prints each offending line and fails if there is one.
set -eu
cd "$(dirname "$0")/.."
find src cli -name '*.[ch]' | sort | xargs awk '
BEGIN {
    split("base 0 kernel 1 tensor 2 quant 3 op 4 nn 5 io 5 text 5 cuda 5 flow 6 train 6 graph 6 model 7 cli 8", t, " ")
    for (i = 1; i in t; i += 2) floor[t[i]] = t[i + 1]
}
FNR == 1 {
    n = split(FILENAME, part, "/")
    own = part[1] == "src" ? part[2] : part[1]
    if (!(own in floor)) { print FILENAME ": folder " own " stands on no floor"; bad = 1 }
    if (seen[part[n]]++) { print FILENAME ": another file has this name"; bad = 1 }
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, q, "\"")
    if (split(q[2], p, "/") < 2 || !(p[1] in floor)) {
        if (own == "cli" && p[2] == "") next        # cli/x.h beside it
        print FILENAME ":" FNR ": write the folder: " $0; bad = 1; next
    }
    dep = p[1]
    if (dep != own && floor[dep] >= floor[own]) { print FILENAME ":" FNR ": looks up or sideways: " $0; bad = 1 }
    if (own == "cli") { print FILENAME ":" FNR ": the command uses public headers only: " $0; bad = 1 }
    if (dep == "kernel" && (own == "nn" || own == "model")) {
        print FILENAME ":" FNR ": only ops and below know kernels: " $0; bad = 1
    }
    if (own == "kernel" && q[2] !~ /^kernel\/[a-z0-9_]+\.h$/ &&
        !(FILENAME ~ /\/ref\// && (q[2] == "base/halffloat.h" || q[2] == "base/bits.h")) &&
        !(FILENAME ~ /dispatch\.c$/ && q[2] == "base/cpu.h") && !(FILENAME ~ /kernel\.h$/) &&
        !(p[2] == part[3] && q[2] ~ /\.h$/)) {      # static helpers of one instruction set
        print FILENAME ":" FNR ": a kernel includes its own floor and the system only: " $0; bad = 1
    }
}
END { exit bad }'
