"""Files of torch.save, both ways, beside the real torch.

    python tests/interop/pt.py [CASES]     from the root, after building; 200 random files otherwise

theirs here   state dicts of random tensors (dtypes, strides, offsets, shared storages, parameters,
              dicts within dicts), saved in both layouts and protocols 2 to 5, CRCs or not: every
              tensor that nibble finds has the bytes of torch's own, and none is missing
ours there    the same tensors written by nibble as .pt: torch.load(weights_only=True), with mmap
              and without weights_only too, has the same names, dtypes, shapes, bytes; zipfile's
              own test of the CRCs passes
folders       pytorch_model.bin, alone and in shards with an index: quantized and verified by the
              command, to the same bytes as from safetensors
quanto        torch.save of a frozen model's state_dict() beside its map, for each type of weights,
              with activations and without: the command reads it; ours as .pt goes through
              requantize there
Leaves with 1 when anything differs."""
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile

warnings.filterwarnings("ignore")
import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NIB_BUILD", ROOT / "build"))
COPY, CLI = BUILD / "tests" / "copy_tensors", BUILD / "nibble"
OLD = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int8,
       torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
NEW = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
       torch.float8_e8m0fnu, torch.uint16, torch.uint32, torch.uint64]


def run(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"left with {done.returncode}")
    return done.stdout


def raw(t):
    t = t.detach().clone().contiguous()
    return bytes(t.flatten().view(torch.uint8).tolist()) if t.numel() else b""


def flat(value, name, out):
    if isinstance(value, torch.Tensor):
        out[name] = value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            flat(inner, f"{name}.{key}" if name else str(key), out)
    return out


def same(want, got, what):
    assert set(want) == set(got), f"{what}: names {sorted(set(want) ^ set(got))[:4]}"
    for name, t in want.items():
        g = got[name]
        assert g.dtype == t.dtype and g.shape == t.shape, f"{what}: {name}"
        assert raw(g) == raw(t), f"{what}: the bytes of {name}"


def tensor(rng, dtypes):
    dtype = rng.choice(dtypes)
    shape = [rng.choice([0, 1, 2, 3, 5, 8]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4]))]
    t = torch.randint(0, 256, [1 << 17], dtype=torch.uint8)
    if dtype == torch.bool:
        t = t % 2
    count = 1
    for d in shape:
        count *= d
    t = t.view(dtype) if dtype != torch.float8_e8m0fnu else t.view(torch.uint8).view(dtype)
    t = t[:count].clone().reshape(shape) if rng.random() < 0.5 else t[7:7 + count].reshape(shape)
    kind = rng.random()
    if kind < 0.2 and t.dim() > 1:
        t = t.transpose(0, -1)
    elif kind < 0.35 and t.dim() and t.shape[0] > 2:
        t = t[::2]
    elif kind < 0.45 and t.dim() > 1:
        t = t[..., : t.shape[-1] // 2]
    elif kind < 0.5 and t.dim() == 1:
        t = t.expand(3, t.shape[0])
    elif kind < 0.6 and t.is_floating_point() and dtype in OLD:
        t = torch.nn.Parameter(t)
    return t


def tree(rng, dtypes, depth):
    out = collections.OrderedDict() if rng.random() < 0.5 else {}
    last = None
    for i in range(rng.randint(0, 6)):
        name = rng.choice(["weight", "bias", "größe", "a.b", "x y", "0"]) + str(i)
        if depth and rng.random() < 0.3:
            out[name] = tree(rng, dtypes, depth - 1)
        elif depth and rng.random() < 0.1:
            out[name] = [tensor(rng, dtypes), None, 3, "text"]
        elif last is not None and rng.random() < 0.2:
            out[name] = last
        else:
            out[name] = last = tensor(rng, dtypes)
    out["steps"] = rng.randint(0, 9)
    return out


def random_files(folder, cases):
    for seed in range(cases):
        rng = random.Random(seed)
        torch.manual_seed(seed)
        old = rng.random() < 0.3
        value = tree(rng, OLD if old else OLD + NEW, 2)
        want = flat(value, "", {})
        options = {"_use_new_zipfile_serialization": False} if old else {}
        if rng.random() < 0.5:
            options["pickle_protocol"] = rng.choice([2, 3, 4, 5])
        torch.serialization.set_crc32_options(rng.random() < 0.8)
        torch.save(value, folder / "theirs.pt", **options)
        torch.serialization.set_crc32_options(True)
        run(COPY, folder / "theirs.pt", folder / "read.safetensors")
        same(want, load_file(folder / "read.safetensors"), f"seed {seed}, read by nibble")
        run(COPY, folder / "theirs.pt", folder / "ours.pt", f"seed={seed}")
        for load in ({"weights_only": True}, {"weights_only": True, "mmap": True},
                     {"weights_only": False}):
            state = torch.load(folder / "ours.pt", **load)
            assert type(state) is collections.OrderedDict and state.metadata == {"seed": str(seed)}
            same(want, dict(state), f"seed {seed}, written by nibble")
        assert zipfile.ZipFile(folder / "ours.pt").testzip() is None, f"seed {seed}: a CRC"
        run(COPY, folder / "ours.pt", folder / "again.safetensors")
        same(want, load_file(folder / "again.safetensors"), f"seed {seed}, ours read by nibble")
    print(f"{cases} random files: read here and opened there, byte for byte")


def folders(folder):
    model = ROOT / "models" / "kjv-llama"
    state = load_file(model / "model.safetensors")
    for shards in (1, 3):
        bins = folder / f"bin{shards}"
        safe = folder / f"safe{shards}"
        names = [("{}" if shards == 1 else "{}-%05d-of-%05d" % (i + 1, shards)) for i in range(shards)]
        for out in (bins, safe):
            out.mkdir()
            for f in model.glob("*.json"):
                shutil.copy(f, out)
        keys = list(state)
        maps = {"bin": {}, "safetensors": {}}
        for i, name in enumerate(names):
            part = {k: state[k] for k in keys[i::shards]}
            torch.save(part, bins / (name.format("pytorch_model") + ".bin"))
            save_file(part, safe / (name.format("model") + ".safetensors"), {"format": "pt"})
            for k in part:
                maps["bin"][k] = name.format("pytorch_model") + ".bin"
                maps["safetensors"][k] = name.format("model") + ".safetensors"
        if shards > 1:
            total = sum(t.numel() * t.element_size() for t in state.values())
            for out, stem, kind in ((bins, "pytorch_model", "bin"), (safe, "model", "safetensors")):
                (out / f"{stem}.{kind}.index.json").write_text(
                    json.dumps({"metadata": {"total_size": total}, "weight_map": maps[kind]}))
        for source, out in ((bins, folder / "qb"), (safe, folder / "qs")):
            shutil.rmtree(out, ignore_errors=True)
            run(CLI, "quantize", source, "-o", out, "--scheme", "int8_weight_only")
            run(CLI, "verify", out, "--source", source)
        made = sorted(p.name for p in (folder / "qb").iterdir())
        assert made == sorted(p.name for p in (folder / "qs").iterdir()), made
        for name in made:
            if name.endswith((".safetensors", "index.json")):
                same_bytes = (folder / "qb" / name).read_bytes() == (folder / "qs" / name).read_bytes()
                assert same_bytes, f"{shards} shards: {name}"
    print("pytorch_model.bin, alone and in shards: quantized to the bytes that safetensors give")


def quanto(folder):
    try:
        from optimum.quanto import Calibration, freeze, qtypes, quantization_map, quantize, requantize
    except ImportError:
        print("quanto: optimum-quanto is not installed, skipped")
        return

    def net():
        return torch.nn.Sequential(torch.nn.Linear(256, 48), torch.nn.LayerNorm(48), torch.nn.ReLU(),
                                   torch.nn.Linear(48, 16))

    count = 0
    for weights in ("qint2", "qint4", "qint8", "qfloat8_e4m3fn", "qfloat8_e5m2"):
        for act in (None, "qint8"):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                torch.manual_seed(count)
                model = net().to(dtype)
                quantize(model, weights=qtypes[weights], activations=act and qtypes[act])
                if act:
                    with torch.no_grad(), Calibration():
                        model(torch.randn(4, 256).to(dtype))
                freeze(model)
                here = folder / f"quanto{count}"
                here.mkdir()
                state, qmap = model.state_dict(), quantization_map(model)
                (here / "quanto_qmap.json").write_text(json.dumps(qmap))
                torch.save(state, here / "state.pt")
                shown = json.loads(run(CLI, "info", here / "state.pt", "--json"))
                assert weights in json.dumps(shown), f"{weights}: not seen in state.pt"
                run(COPY, here / "state.pt", here / "ours.pt")
                same(flat(state, "", {}), dict(torch.load(here / "ours.pt", weights_only=True)), weights)
                back = net().to(dtype)
                requantize(back, torch.load(here / "ours.pt", weights_only=True), qmap)
                x = torch.randn(3, 256).to(dtype)
                with torch.no_grad():
                    a, b = model.eval()(x), back.eval()(x)
                if not act:  # with activations upstream forgets which outputs were streamlined
                    assert torch.equal(a, b), f"{weights} {dtype}: another result"
                count += 1
    print(f"{count} states of quanto: read here, and ours requantized there")


def main():
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        random_files(folder, cases)
        folders(folder)
        quanto(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
