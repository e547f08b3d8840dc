"""Random weights through optimum-quanto and through nibble: every byte of state_dict() after
freeze(), and of dequantize(), must be the same. Known differences (docs/differences.md) are
counted apart.

    python tests/interop/race_quanto.py [--tool build/tests/quantize_tensors] [--cases 1000] [--seed 1]

Without torch, optimum-quanto and safetensors it says so and leaves with 77 (skipped)."""

import argparse
import collections
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
try:
    import torch
    from optimum.quanto import freeze, qtypes, quantize
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
QTYPES = ["qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"]


def random_weight(rng, generator):
    dtype = rng.choice(DTYPES)
    if rng.random() < 0.15:
        shape = [rng.randint(1, 20), rng.choice([1, 3, 4, 16, 32])] + [rng.choice([1, 3, 5])] * 2
    else:
        O = rng.choice([rng.randint(1, 70), 16 * rng.randint(1, 4)])
        shape = [O, rng.choice([rng.randint(1, 400), 32 * rng.randint(1, 16), 128 * rng.randint(1, 4)])]
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = rng.randrange(10)
    if kind == 0: w = w.abs()                                              # one-sided
    elif kind == 1: w = w.abs().clamp(min=0.5) - 0.5                       # many zeros at the end
    elif kind == 2: w = w ** 5                                             # heavy tails
    elif kind == 3: w = torch.round(w * 4) / 4                             # ties, equal values
    elif kind == 4: w = w + rng.uniform(-8, 8)                             # zero far outside
    elif kind == 5: w = w * (torch.rand(shape, generator=generator) < 0.005) # zero rows
    elif kind == 6: w = w[:, :1].expand(shape).clone()                     # constant rows
    exponent = rng.uniform(-9, 6) if rng.random() < 0.7 else rng.uniform(-40, 38)
    w = w * 2.0 ** exponent if dtype is torch.float16 else w * 10.0 ** (exponent * 0.9)
    return w.to(dtype).nan_to_num()


def upstream(w, qtype):
    if w.ndim == 2: module = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    else: module = torch.nn.Conv2d(w.shape[1], w.shape[0], w.shape[2:], bias=False)
    module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    model = torch.nn.Sequential(module)
    quantize(model, weights=qtypes[qtype])
    freeze(model)
    parts = {k[len("0.weight."):]: v for k, v in model.state_dict().items() if k.startswith("0.weight.")}
    return dict(parts, back=model[0].weight.dequantize(), group_size=model[0].weight_group_size)


def as_bytes(t): return t.contiguous().reshape(-1).view(torch.uint8)


def same(ours, theirs, key, note):
    """Equal to the byte, up to the differences that are listed."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape: return False
    if torch.equal(as_bytes(ours), as_bytes(theirs)): return True
    if ours.dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz):
        differ = as_bytes(ours) != as_bytes(theirs)
        note["fp8 tensors with 0 / 0 as code 0"] += 1
        return bool((theirs.float().isnan().reshape(-1)[differ] & (as_bytes(ours)[differ] == 0)).all())
    width = theirs.element_size()
    differ = (as_bytes(ours) != as_bytes(theirs)).reshape(-1, width).any(1)
    a, b = ours.reshape(-1)[differ], theirs.reshape(-1)[differ]
    if key == "back" and bool((b.isnan() & ((a == 0) | a.isnan())).all()): return True
    if bool(((a == 0) & (b == 0)).all()):
        note[f"{key} tensors with another sign of a zero"] += 1
        return True
    return False


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--tool", default="build/tests/quantize_tensors")
    args.add_argument("--cases", type=int, default=1000)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    rng, generator = random.Random(args.seed), torch.Generator().manual_seed(args.seed)
    weights, wanted, metadata, skipped = {}, {}, {}, collections.Counter()
    while len(weights) < args.cases:
        w, qtype = random_weight(rng, generator), rng.choice(QTYPES)
        try:
            theirs = upstream(w, qtype)
        except RuntimeError as error:
            skipped[f"upstream refuses: {str(error).splitlines()[0]}"] += 1
            continue
        if w.shape[0] == 1 and qtype in ("qint4", "qint2") and not theirs.pop("group_size"):
            skipped["upstream gives each weight of a single row a shift of its own"] += 1
            continue
        theirs.pop("group_size", None)
        name = str(len(weights))
        weights[name], wanted[name], metadata["scheme." + name] = w, theirs, qtype
        metadata["layout." + name] = "quanto_bits" if qtype in ("qint4", "qint2") else "quanto_bytes"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_file(weights, folder / "in.safetensors", metadata=metadata)
        subprocess.run([args.tool, folder / "in.safetensors", folder / "out.safetensors"], check=True)
        notes, failed, counts = collections.Counter(), 0, collections.Counter()
        with safe_open(folder / "out.safetensors", "pt") as out:
            for name, theirs in wanted.items():
                bad = [k for k, v in theirs.items() if not same(out.get_tensor(f"{name}.{k}"), v, k, notes)]
                counts[metadata["scheme." + name]] += 1
                if bad:
                    failed += 1
                    print("differs:", metadata["scheme." + name], weights[name].dtype, list(weights[name].shape), bad)
    for what, n in (skipped + notes).items(): print(f"{n:5d} {what}")
    print(f"{args.cases} cases raced ({dict(counts)}), {failed} differ")
    sys.exit(failed > 0)


main()
