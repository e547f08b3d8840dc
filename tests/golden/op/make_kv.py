"""A quantized cache of keys and values with torchao's codes and scales, and attention over it.

    python tests/golden/op/make_kv.py      (torch and torchao as in ../versions.txt)

torchao's class for such a cache, AffineQuantizedKVCache of its llama demonstration, has left the
package (pytorch/ao pull request 3552). What it was made of is still there: it gave keys and values
[batch, heads, tokens, columns] to quantize_activation_per_token_absmax, kept the codes, and kept
the scales rounded to bf16; what attention saw was codes * scales, in bf16.

kv.safetensors, T tokens, HK key heads, H query heads, d columns:
    rows_k, rows_v [T, HK * d] f32          what was cached
    codes_k, codes_v [HK, T, d] i8, scales_k, scales_v [HK, T] f32 (values of bf16)
    q [M, H * d] f32                        queries of the last M tokens
    exact [M, H * d] f32                    causal attention in f64 over codes * scales
    rounded [M, H * d] f32                  the same over codes * scales in bf16, as torchao had them
"""
import pathlib

import torch
from safetensors.torch import save_file
from torchao.quantization.utils import _quantize_activation_per_token_absmax as quantize

T, HK, H, D, M, SCALE = 70, 2, 4, 32, 3, 0.25
g = torch.Generator().manual_seed(11)


def rows():
    x = torch.randn(1, HK, T, D, generator=g)
    x[0, 0, 3] = 0                                        # a row of zeros: the least scale
    x[0, 1, 5] *= 1e-6                                    # below it
    x[0, 0, 9] *= 1e-3
    x[0, 1, 9] *= 3
    x[0, 0, 11] = torch.arange(D) / 16 - 31 / 32                # ties between codes
    x[0, 0, 12, 7] = -4                                  # the largest is negative
    x[0, 1, 13] = x[0, 1, 13].bfloat16().float()          # as a model in bf16 would have it
    return x


def attend(q, k, v):
    k, v = (x.double().repeat_interleave(H // HK, 1) for x in (k, v))
    score = q.double() @ k.transpose(-1, -2) * SCALE
    seen = torch.arange(T)[None, :] <= torch.arange(T - M, T)[:, None]
    return score.masked_fill(~seen, -torch.inf).softmax(-1) @ v


def flat(x):                                              # [1, heads, tokens, d] -> [tokens, heads * d]
    return x[0].transpose(0, 1).reshape(x.shape[2], -1).float().contiguous()


out, cache = {}, {}
for name in "kv":
    x = rows()
    codes, scales = quantize(x)
    scales = scales.reshape(1, HK, T, 1).bfloat16()
    cache[name] = codes.double() * scales.double(), codes * scales
    out[f"rows_{name}"] = flat(x)
    out[f"codes_{name}"], out[f"scales_{name}"] = codes[0].contiguous(), scales[0, :, :, 0].float()
q = torch.randn(1, H, M, D, generator=g)
out["q"] = flat(q)
out["exact"] = flat(attend(q, cache["k"][0], cache["v"][0]))
assert cache["k"][1].dtype == torch.bfloat16
out["rounded"] = flat(attend(q, cache["k"][1], cache["v"][1]))
save_file(out, pathlib.Path(__file__).parent / "kv.safetensors")
