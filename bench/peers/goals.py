# goals.py: what race.py measured, beside what was to be reached.
#
#     goals.py RESULT.json... >table.md        results of race.py --json, any number of files
#
# A cell is the ratio (how many times longer the peer takes, median of the rounds; of several peers the one
# that was the fastest) and behind it the share of the limit measured in the same rounds: of reading
# memory up to 8 rows, of multiplying beyond. Bold: the must is reached.
import json
import statistics
import sys

import race
from race import GGML4, IK4, SHAPES

CODES4 = "nibble int4_weight_only:group_size=64@int8"
FLOAT4 = "nibble int4_weight_only:group_size=64"
DYNAMIC4 = "nibble int8_dynamic_activation_int4_weight:group_size=64"
CODES8 = "nibble int8_dynamic_activation_int8_weight"
CODES2 = "nibble intx_weight_only:bits=2,granularity=group,group_size=64@int8"
BEST4, BEST_IK = ["ggml " + t for t in GGML4], ["ik " + t for t in IK4]
BLAS = ["blas f32"]

# what, race, ours, theirs, rows, threads, must, stretch
GOALS = [
    ("int4 GEMV, 8da4w, vs best ggml 4.5 bit", "int4", DYNAMIC4, BEST4, 1, 1, 1.35, 1.6),
    ("", "int4", DYNAMIC4, BEST4, 1, 2, 1.15, 1.35),
    ("int4 with an offset, int8 inputs, vs the same", "int4", CODES4, BEST4, 1, 1, 1.35, 1.6),
    ("", "int4", CODES4, BEST4, 1, 2, 1.15, 1.35),
    ("int4 with an offset, int8 inputs, vs best ik_llama.cpp type (no goal)", "int4", CODES4, BEST_IK, 1, 2, None, None),
    ("int4 GEMV, 8da4w, share of reading", "int4", DYNAMIC4, "share", 1, 2, 0.85, 0.93),
    ("int4 with an offset, int8 inputs, share of reading", "int4", CODES4, "share", 1, 2, 0.85, 0.93),
    ("int4 GEMV, float inputs, vs best ggml 4.5 bit", "int4", FLOAT4, BEST4, 1, 2, 1.0, 1.2),
    ("int8 GEMV vs ggml q8_0", "int8", CODES8, ["ggml q8_0"], 1, 1, 1.2, 1.4),
    ("", "int8", CODES8, ["ggml q8_0"], 1, 2, 1.05, 1.2),
    ("int2 GEMV, int8 inputs, vs ggml q2_K", "int2", CODES2, ["ggml q2_K", "ggml +q2_K"], 1, 1, 1.5, 2.0),
    ("", "int2", CODES2, ["ggml q2_K", "ggml +q2_K"], 1, 2, 1.5, 2.0),
    ("fp8 GEMV, share of reading", "float", "nibble float8_weight_only", "share", 1, 2, 0.6, 0.8),
    ("8da4w: time of M = 4 over M = 1", "int4", DYNAMIC4, "rows", 4, 1, 1.3, 1.1),
    ("", "int4", DYNAMIC4, "rows", 4, 2, 1.3, 1.1),
    ("int4 with an offset, int8 inputs: time of M = 4 over M = 1", "int4", CODES4, "rows", 4, 2, 1.3, 1.1),
    ("int4, float inputs: time of M = 4 over M = 1", "int4", FLOAT4, "rows", 4, 2, 1.3, 1.1),
    ("int4 x int8 GEMM, 512 rows, 8da4w, vs best ggml 4.5 bit", "int4", DYNAMIC4, BEST4, 512, 1, 2.0, 2.6),
    ("", "int4", DYNAMIC4, BEST4, 512, 2, 1.8, 2.4),
    ("int4 with an offset, int8 inputs, 512 rows, vs the same", "int4", CODES4, BEST4, 512, 1, 2.0, 2.6),
    ("", "int4", CODES4, BEST4, 512, 2, 1.8, 2.4),
    ("8da4w, 512 rows, vs best ik_llama.cpp type", "int4", DYNAMIC4, BEST_IK, 512, 1, 1.0, 1.3),
    ("", "int4", DYNAMIC4, BEST_IK, 512, 2, 1.0, 1.3),
    ("int8 x int8 GEMM vs ggml q8_0", "int8", CODES8, ["ggml q8_0"], 512, 1, 1.3, 1.8),
    ("", "int8", CODES8, ["ggml q8_0"], 512, 2, 1.3, 1.8),
    ("int8 x int8 GEMM vs oneDNN s8s8", "int8", CODES8, ["dnnl s8s8"], 512, 1, 1.0, 1.25),
    ("", "int8", CODES8, ["dnnl s8s8"], 512, 2, 1.0, 1.25),
    ("int8, reduce_range, vs oneDNN u8s8 and torch", "int8", CODES8 + ":reduce_range=true",
     ["dnnl u8s8", "torch dynamic_int8"], 512, 1, 1.0, 1.2),
    ("", "int8", CODES8 + ":reduce_range=true", ["dnnl u8s8", "torch dynamic_int8"], 512, 2, 1.0, 1.2),
    ("f32 GEMM vs OpenBLAS", "float", "nibble f32", BLAS, 512, 1, 0.9, 1.0),
    ("", "float", "nibble f32", BLAS, 512, 2, 0.9, 1.0),
    ("int4 weight-only GEMM vs OpenBLAS f32", "float", FLOAT4, BLAS, 512, 1, 0.85, 0.95),
    ("", "float", FLOAT4, BLAS, 512, 2, 0.85, 0.95),
    ("int8 weight-only GEMM vs OpenBLAS f32", "float", "nibble int8_weight_only", BLAS, 512, 1, 0.85, 0.95),
    ("", "float", "nibble int8_weight_only", BLAS, 512, 2, 0.85, 0.95),
    ("fp8 weight-only GEMM vs OpenBLAS f32", "float", "nibble float8_weight_only", BLAS, 512, 1, 0.85, 0.95),
    ("", "float", "nibble float8_weight_only", BLAS, 512, 2, 0.85, 0.95),
    ("dynamic int8, 1 row, vs torch", "int8", CODES8, ["torch dynamic_int8"], 1, 1, 2.0, 5.0),
    ("", "int8", CODES8, ["torch dynamic_int8"], 1, 2, 2.0, 5.0),
    ("dynamic int8, 1 row, vs torchao", "int8", CODES8,
     ["torch ao_dynamic_int8", "torch ao_dynamic_int8_compiled"], 1, 1, 2.0, 5.0),
    ("", "int8", CODES8, ["torch ao_dynamic_int8", "torch ao_dynamic_int8_compiled"], 1, 2, 2.0, 5.0),
    ("dynamic int8, 512 rows, vs torch", "int8", CODES8, ["torch dynamic_int8"], 512, 1, 1.0, 1.2),
    ("", "int8", CODES8, ["torch dynamic_int8"], 512, 2, 1.0, 1.2),
    ("dynamic int8, 512 rows, vs torchao", "int8", CODES8,
     ["torch ao_dynamic_int8", "torch ao_dynamic_int8_compiled"], 512, 1, 1.0, 1.2),
    ("", "int8", CODES8, ["torch ao_dynamic_int8", "torch ao_dynamic_int8_compiled"], 512, 2, 1.0, 1.2),
]


def load(paths):
    results = {}
    for path in paths:
        for r in json.load(open(path)):
            r["samples"] = {(a, b, c): v for a, b, c, v in r["samples"]}
            r["limits"] = {(a, b): v for a, b, v in r["limits"]}
            results[r["race"], r["N"], r["K"]] = r
    return results


def share(r, ours, M, threads):
    """Of reading, or of multiplying."""
    ms = r["samples"][ours, M, threads]
    if M <= 8:
        return race.share(r["bytes"][ours] + 4 * M * (r["N"] + r["K"]), ms, race.bandwidth(r, threads))
    codes = "@int8" in ours or "dynamic" in ours
    limit = race.limit_of(r, ["int8 products" if codes else "f32 multiply-adds"], threads)
    return race.share(2 * M * r["N"] * r["K"], ms, limit)


def cell(r, ours, theirs, M, threads, must):
    if not r or (ours, M, threads) not in r["samples"]:
        return ""
    mine = r["samples"][ours, M, threads]
    of_limit = share(r, ours, M, threads)
    if theirs == "share":
        return f"**{100 * of_limit:.0f} %**" if of_limit >= must else f"{100 * of_limit:.0f} %"
    if theirs == "rows":
        value = statistics.median(a / b for a, b in zip(mine, r["samples"][ours, 1, threads]))
        good, text = value <= must, f"{value:.2f}"
    else:
        there = [r["samples"][t, M, threads] for t in theirs if (t, M, threads) in r["samples"]]
        if not there:
            return ""
        best = min(there, key=statistics.median)
        value = statistics.median(b / a for a, b in zip(mine, best))
        good, text = must is not None and value >= must, f"{value:.2f}"
    return (f"**{text}**" if good else text) + f" ({100 * of_limit:.0f} %)"


def main():
    results = load(sys.argv[1:])
    print("| case | threads | must | stretch | " + " | ".join(f"{n}x{k}" for n, k in SHAPES) + " |")
    print("|---|--:|--:|--:|" + "--:|" * len(SHAPES))
    for what, name, ours, theirs, M, threads, must, stretch in GOALS:
        cells = [cell(results.get((name, n, k)), ours, theirs, M, threads, must) for n, k in SHAPES]
        if any(cells):
            print(f"| {what or 'the same'} | {threads} | {'' if must is None else must} | {'' if stretch is None else stretch} | "
                  + " | ".join(cells) + " |")


main()
