"""Steps of torch.optim on one tensor, each with a gradient of its own.

    python tests/golden/train/make_optimizers.py      (torch as in ../versions.txt)

optimizers.safetensors: start [37], gradient.<step> [37], and <case>.<step> [37] after each of 5 steps.
"""
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(4)
start = torch.randn(37)
gradients = [torch.randn(37) * 0.5**i for i in range(5)]
out = {"start": start.clone()}
out.update({f"gradient.{i}": g for i, g in enumerate(gradients)})
optim = torch.optim
for name, make in {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "sgd_all": lambda p: optim.SGD(p, lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.02),
    "sgd_nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p),
    "adamw_all": lambda p: optim.AdamW(p, lr=0.02, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1),
    "adamw_no_decay": lambda p: optim.AdamW(p, lr=0.02, weight_decay=0),
}.items():
    p = torch.nn.Parameter(start.clone())
    o = make([p])
    for i, g in enumerate(gradients):
        p.grad = g.clone()
        o.step()
        out[f"{name}.{i}"] = p.detach().clone()
save_file(out, pathlib.Path(__file__).parent / "optimizers.safetensors")
