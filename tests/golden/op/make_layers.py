"""layer_norm, relu, gelu and silu as torch calculates them.

    python tests/golden/op/make_layers.py      (torch as in ../versions.txt)

layers.safetensors: norm.<case>.{x,weight,bias,y} with dims and eps in the metadata ("<dims> <eps>";
no weight or bias: left out), act.x, act.{relu,gelu,gelu_tanh,silu}.
"""
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

g = torch.Generator().manual_seed(8)
out, notes = {}, {}


def norm(name, x, dims, eps, weight=True, bias=True, dtype=torch.float32):
    last = x.shape[-dims:]
    w = (torch.randn(last, generator=g)).to(dtype) if weight else None
    b = (torch.randn(last, generator=g)).to(dtype) if bias else None
    y = F.layer_norm(x, last, w.float() if weight else None, b.float() if bias else None, eps)
    out[f"norm.{name}.x"], out[f"norm.{name}.y"] = x, y
    if weight:
        out[f"norm.{name}.weight"] = w
    if bias:
        out[f"norm.{name}.bias"] = b
    notes[name] = f"{dims} {eps!r}"


def some(*shape):
    return torch.randn(shape, generator=g)


norm("both", some(5, 33), 1, 1e-5)
norm("weight", some(3, 2, 20), 1, 1e-5, bias=False)
norm("bias", some(4, 16), 1, 1e-5, weight=False)
norm("neither", some(4, 16) * 100 + 7, 1, 1e-12, weight=False, bias=False)
norm("two_dims", some(3, 4, 6), 2, 1e-5)
norm("eps", some(4, 48) * 1e-3, 1, 0.5)
norm("constant_rows", torch.full((2, 24), 3.0), 1, 1e-5)
norm("bf16", some(6, 40), 1, 1e-6, dtype=torch.bfloat16)
norm("f16", some(6, 40), 1, 1e-6, bias=False, dtype=torch.float16)
norm("no_rows", some(0, 8), 1, 1e-5)
# No infinity: gelu of it is NaN in torch where it works in vectors, and infinity where it does not.
x = torch.cat([torch.linspace(-12, 12, 97), some(31),
               torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3e4, -3e4, 1e38, float("nan")])])
out["act.x"] = x
out["act.relu"], out["act.silu"] = F.relu(x), F.silu(x)
out["act.gelu"], out["act.gelu_tanh"] = F.gelu(x), F.gelu(x, approximate="tanh")
save_file(out, pathlib.Path(__file__).parent / "layers.safetensors", metadata=notes)
