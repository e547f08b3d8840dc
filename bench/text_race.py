"""Tokens a second of OPT-125m, BLOOM-560m and GPT-2 at their published shapes, here and in transformers.

    python bench/text_race.py FOLDER MODEL... [--turns N] [--threads N] [--new N]     (benches built)

MODEL: opt-125m, bloom-560m, gpt2. Made with random weights in FOLDER (and left there), quantized once by
`nibble quantize`. In each turn every way runs once, in an order that turns round: `nibble bench` with a
prompt of 64 tokens and NEW (48) new ones for each kind of weights, decoding compiled (as always) and op by op,
and transformers in f32 with its cache. Medians, and of the ratios to transformers in the same turn.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM

KINDS = ["float", "int8_weight_only", "int4_weight_only:group_size=32", "qint4",
         "int8_dynamic_activation_int8_weight"]
PROMPT = 64
a = argparse.ArgumentParser()
a.add_argument("folder", type=pathlib.Path)
a.add_argument("models", nargs="+")
a.add_argument("--turns", type=int, default=3)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--new", type=int, default=48)
a = a.parse_args()
NEW = a.new
build = pathlib.Path(os.environ.get("NIB_BUILD", "build"))
torch.set_num_threads(a.threads)


def nibble(folder, *more):
    out = subprocess.run([build / "nibble", "bench", folder, "-p", str(PROMPT), "-n", str(NEW), "-r", "1", "-t",
                          str(a.threads), "--json", "-q", *more], check=True, capture_output=True).stdout
    out = json.loads(out)
    return out["prompt_tokens_per_second"], out["tokens_per_second"]


@torch.inference_mode()
def theirs(model):
    ids = torch.arange(3, 3 + PROMPT * 7, 7)[None]
    began = time.perf_counter()
    out = model(ids, use_cache=True)
    middle = time.perf_counter()
    for _ in range(NEW):
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return PROMPT / (middle - began), NEW / (time.perf_counter() - middle)


print("| model | weights | prompt tokens/s | x transformers | decode tokens/s | x transformers | op by op |")
print("|---|---|---:|---:|---:|---:|---:|")
for name in a.models:
    source = a.folder / name
    folders = {}
    if not source.exists():
        subprocess.run([build / "bench" / "bench_make_models", source, name], check=True)
    for kind in KINDS:
        folders[kind] = source if kind == "float" else a.folder / f"{name}-{kind.replace(':', '-')}"
        if not folders[kind].exists():
            subprocess.run([build / "nibble", "quantize", source, "-o", folders[kind], "-s", kind, "-q"], check=True)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    theirs(model)
    rows = []
    for turn in range(a.turns):
        ways = ["theirs"] + KINDS + [f"eager {k}" for k in KINDS]
        ways = ways[turn % len(ways):] + ways[:turn % len(ways)]
        row = {}
        for way in ways:
            if way == "theirs":
                row[way] = theirs(model)
            elif way.startswith("eager "):
                row[way] = nibble(folders[way[6:]], "--no-compile")
            else:
                row[way] = nibble(folders[way])
        rows.append(row)
    middle = lambda way, i: statistics.median(r[way][i] for r in rows)
    ratio = lambda way, i: statistics.median(r[way][i] / r["theirs"][i] for r in rows)
    print(f"| {name} | transformers f32 | {middle('theirs', 0):.0f} | | {middle('theirs', 1):.1f} | | |")
    for kind in KINDS:
        print(f"| {name} | {kind} | {middle(kind, 0):.0f} | {ratio(kind, 0):.2f} | {middle(kind, 1):.1f} | "
              f"{ratio(kind, 1):.2f} | {middle('eager ' + kind, 1):.1f} |", flush=True)
