"""Whisper's encoder and decoder here and in transformers (f32), in turns on the same threads.

    python bench/whisper_race.py FOLDER [TURNS] [IDS] [THREADS]     (build/bench/bench_whisper built)

FOLDER: a model as bench_make_models writes it. Each turn: a window through both encoders, then IDS ids
through both decoders, each seeing the keys and values of those before it and of the window. Medians, and
the median of the ratios of turns.
"""
import os
import statistics
import subprocess
import sys
import time

import torch
from transformers import DynamicCache, EncoderDecoderCache, WhisperForConditionalGeneration

folder = sys.argv[1]
turns, ids, threads = (int(sys.argv[i]) if len(sys.argv) > i else d for i, d in ((2, 7), (3, 16), (4, 2)))
torch.set_num_threads(threads)
program = os.path.join(os.environ.get("NIB_BUILD", "build"), "bench", "bench_whisper")
ours = subprocess.Popen([program, folder, "-", str(threads), "0"], stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE, text=True)
model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
c = model.config
mel = (torch.arange(c.num_mel_bins * c.max_source_positions * 2) * 7919 % 2000).float() * 1e-3 - 1
mel = mel.reshape(1, c.num_mel_bins, -1)


def ask(line):
    ours.stdin.write(line + "\n")
    ours.stdin.flush()
    return float(ours.stdout.readline())


def say(heard, n):
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    first = torch.tensor([[50258, 50259, 50360, 50364]])
    model(encoder_outputs=(heard,), decoder_input_ids=first, past_key_values=cache, use_cache=True)
    began = time.perf_counter()
    for i in range(n):
        model(encoder_outputs=(heard,), decoder_input_ids=torch.tensor([[100 + i * 37]]),
              past_key_values=cache, use_cache=True)
    return 1e3 * (time.perf_counter() - began)


with torch.inference_mode():
    assert ours.stdout.readline().strip() == "ready"
    heard = model.model.encoder(mel).last_hidden_state
    say(heard, 2)
    rows = []
    for turn in range(turns):
        row = {}
        for who in (("own", "theirs") if turn % 2 else ("theirs", "own")):
            if who == "own":
                row["own encoder"] = ask("encode")
                row["own id"] = ask(f"ids {ids}") / ids
            else:
                began = time.perf_counter()
                model.model.encoder(mel)
                row["their encoder"] = 1e3 * (time.perf_counter() - began)
                row["their id"] = say(heard, ids) / ids
        rows.append(row)
ours.stdin.close()
for what in ("encoder", "id"):
    own, theirs = ([r[f"{who} {what}"] for r in rows] for who in ("own", "their"))
    ratio = [b / a for a, b in zip(own, theirs)]
    print(f"{what}: own {statistics.median(own):.2f} ms, transformers {statistics.median(theirs):.2f} ms, "
          f"{statistics.median(ratio):.2f} times as fast [{min(ratio):.2f}, {max(ratio):.2f}]")
