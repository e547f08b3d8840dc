"""Products of two results, comparisons, choices and tensors in other shapes, as torch has them.

    python tests/golden/op/make_shapes.py      (torch as in ../versions.txt)

shapes.safetensors: inputs by name, and "<op>.<case>" what torch makes of them; tests/op/test_op_shapes.c
tells the same calls. Numbers of the products are small integers over 8, so that any order of sums is exact.
"""
import pathlib

import torch
from safetensors.torch import save_file

g = torch.Generator().manual_seed(31)


def eighths(*shape):
    return torch.randint(-32, 33, shape, generator=g) / 8


a, b = eighths(3, 5, 17), eighths(3, 17, 33)
four, three, two = eighths(2, 3, 4, 6), eighths(3, 6, 5), eighths(6, 7)
one = eighths(2, 1, 4, 6)
x, y = eighths(4, 1, 6), eighths(5, 1)
x[1, 0, 2], y[3, 0] = float("nan"), float("inf")
c = torch.rand(4, 5, 1, generator=g) < 0.5
u, v, w = eighths(2, 3, 5), eighths(2, 3, 5), eighths(2, 1, 5)
out = {"a": a, "b": b, "four": four, "three": three, "two": two, "one": one, "x": x, "y": y, "c": c,
       "u": u, "v": v, "w": w}
out |= {
    "bmm.batch": torch.bmm(a, b), "mm.plain": torch.mm(a[0], b[0]),
    "matmul.repeated": torch.matmul(four, three), "matmul.rows": torch.matmul(four, two),
    "matmul.both": torch.matmul(one, three), "matmul.two": torch.matmul(a[0], b[0]),
    "lt.broadcast": torch.lt(x, y), "lt.same": torch.lt(u, v), "where.broadcast": torch.where(c, x, y),
    "where.same": torch.where(u < v, u, v), "neg.all": torch.neg(x),
    "stack.first": torch.stack([u, v]), "stack.middle": torch.stack([u, v, u], 1), "stack.last": torch.stack([u, v], -1),
    "cat.middle": torch.cat([u, w, v], 1), "cat.last": torch.cat([u, v], -1),
    "expand.middle": w.expand(-1, 4, -1), "expand.front": w.expand(3, 2, 1, 5), "expand.both": y.expand(2, 5, 4),
    "expand.bool": c.expand(4, 5, 3),
}
for i, piece in enumerate(torch.split(u, 2, 2)):
    out[f"split.last{i}"] = piece
for i, piece in enumerate(torch.split(u, 1, 1)):
    out[f"split.middle{i}"] = piece
save_file({k: t.contiguous() for k, t in out.items()}, pathlib.Path(__file__).parent / "shapes.safetensors")
