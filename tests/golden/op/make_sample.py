"""Probabilities of tokens after transformers' logits processors, in the order of its generate().

    python tests/golden/op/make_sample.py      (torch and transformers as in ../versions.txt)

sample.safetensors: settings [cases, 5] f32 (temperature, top_k, top_p, min_p, repetition_penalty;
0: off), logits [cases, V], probabilities [cases, V], seen [n] ids that were said.
"""
import pathlib

import torch
from safetensors.torch import save_file
from transformers.generation.logits_process import (
    LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
    TopKLogitsWarper, TopPLogitsWarper)

V = 24
SETTINGS = [  # temperature, top_k, top_p, min_p, repetition_penalty
    (1.0, 0, 0, 0, 0), (0.5, 0, 0, 0, 0), (2.0, 0, 0, 0, 0), (1.0, 5, 0, 0, 0), (1.0, 1, 0, 0, 0),
    (1.0, 100, 0, 0, 0), (1.0, 0, 0.9, 0, 0), (1.0, 0, 0.3, 0, 0), (1.0, 0, 0.01, 0, 0),
    (1.0, 0, 0, 0.1, 0), (1.0, 0, 0, 1.0, 0), (1.0, 0, 0, 0, 1.3), (1.0, 0, 0, 0, 0.7),
    (0.8, 8, 0.8, 0, 0), (1.5, 10, 0, 0.2, 1.1), (0.7, 0, 0.95, 0.05, 1.2), (1.2, 12, 0.9, 0.1, 1.5),
]
g = torch.Generator().manual_seed(4)
seen = torch.tensor([[3, 7, 7, 11, 0, 23, 3]])
logits, probabilities = [], []
for temperature, top_k, top_p, min_p, penalty in SETTINGS:
    row = torch.randn(1, V, generator=g) * 2
    if top_k == 5:
        row[0, 9] = row[0].topk(5).values[-1]          # a tie with the last that is kept
    steps = LogitsProcessorList()
    if penalty:
        steps.append(RepetitionPenaltyLogitsProcessor(penalty))
    steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p:
        steps.append(TopPLogitsWarper(top_p))
    if min_p:
        steps.append(MinPLogitsWarper(min_p))
    logits.append(row[0].clone())
    probabilities.append(steps(seen, row.clone())[0].softmax(-1))
save_file({"settings": torch.tensor(SETTINGS, dtype=torch.float32), "logits": torch.stack(logits),
           "probabilities": torch.stack(probabilities), "seen": seen[0].to(torch.int32)},
          pathlib.Path(__file__).parent / "sample.safetensors")
