"""Writes the small files of this folder with torch: what torch.save makes of tensors of every kind
in both of its layouts, and the same tensors, dense, as safetensors to compare with.

    python tests/golden/pt/make.py"""
import collections
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
torch.manual_seed(0)
base = torch.arange(24.0).reshape(4, 6)
shared = torch.arange(10, dtype=torch.int32)
old = {
    "weight": base,
    "transposed": base.t(),
    "row": base[1],
    "column": base[:, 2],
    "inner": base[1:3, 1:4],
    "every_other": base[::2],
    "expanded": torch.arange(3.0).expand(4, 3),
    "four": torch.arange(16, dtype=torch.int8).reshape(2, 2, 2, 2).permute(3, 1, 0, 2),
    "first_half": shared[:5],
    "second_half": shared[5:],
    "whole": shared,
    "bf16": torch.randn(3, 2).bfloat16(),
    "f16": torch.randn(3).half(),
    "f64": torch.randn(2).double(),
    "c64": torch.randn(2, dtype=torch.complex64),
    "i8": torch.arange(-2, 3, dtype=torch.int8),
    "i16": torch.arange(3, dtype=torch.int16),
    "i64": torch.arange(3),
    "u8": torch.arange(3, dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2, 2)),
    "gr\u00f6\u00dfe": torch.ones(1),
}
new = dict(old)  # dtypes that the old layout of torch itself cannot read back
for name in "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz".split():
    new[name] = torch.randn(4).to(getattr(torch, name))
new["float8_e8m0fnu"] = torch.tensor([0.5, 2.0]).to(torch.float8_e8m0fnu)
for name in "uint16 uint32 uint64".split():
    new[name] = torch.arange(3).to(getattr(torch, name))


def dense(tensors):
    return {k: v.detach().clone().contiguous() for k, v in tensors.items()}


torch.save(new, HERE / "new.pt")
torch.save(collections.OrderedDict(old), HERE / "old.pt", _use_new_zipfile_serialization=False)
for protocol in 3, 4, 5:
    torch.save(new, HERE / f"protocol{protocol}.pt", pickle_protocol=protocol)
torch.serialization.set_crc32_options(False)
torch.save(new, HERE / "without_crc.pt")
torch.serialization.set_crc32_options(True)
save_file(dense(new), HERE / "new.safetensors")

torch.save({"model": collections.OrderedDict(old), "epoch": 3, "lr": 0.5, "done": True, "by": "me",
            "optimizer": {"state": {0: {"exp_avg": base}, 1: [shared, None]},
                          "param_groups": [{"lr": 0.5, "params": [0, 1]}]},
            "nothing": None, "size": base.shape, "dtype": base.dtype,
            "device": torch.device("cpu")}, HERE / "nested.pt")
torch.save(torch.arange(3.0), HERE / "single.pt")
torch.save((torch.arange(3.0), torch.zeros(2)), HERE / "tuple.pt")
torch.save({}, HERE / "empty.pt")
torch.save(torch.nn.Linear(3, 2), HERE / "module.pt")
torch.save({"x": torch.eye(3).to_sparse()}, HERE / "sparse.pt")
torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), HERE / "jit.pt")

# a folder as transformers wrote them before safetensors, in two shards that an index lists
folder = HERE / "sharded_bin"
shutil.rmtree(folder, ignore_errors=True)
folder.mkdir()
model = torch.nn.Sequential(collections.OrderedDict(a=torch.nn.Linear(64, 4), b=torch.nn.Linear(4, 2)))
shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
for part, name in shards.items():
    torch.save({k: v for k, v in model.state_dict().items() if k.startswith(part)}, folder / name)
lines = ",\n".join(f'    "{k}": "{shards[k[0]]}"' for k in sorted(model.state_dict()))
(folder / "pytorch_model.bin.index.json").write_text(
    '{\n  "metadata": {\n    "total_size": 1\n  },\n  "weight_map": {\n' + lines + "\n  }\n}\n")
(folder / "config.json").write_text('{"architectures": ["Nothing"], "torch_dtype": "float32"}\n')
save_file(dense(model.state_dict()), HERE / "sharded.safetensors")

# what torch.save makes of a frozen model of optimum-quanto, its map beside it as its users keep it
from optimum.quanto import Calibration, freeze, qint4, qint8, quantization_map, quantize

folder = HERE / "quanto"
folder.mkdir(exist_ok=True)
torch.manual_seed(1)
model = torch.nn.Sequential(collections.OrderedDict(
    fc=torch.nn.Linear(64, 8), norm=torch.nn.LayerNorm(8), head=torch.nn.Linear(8, 4)))
quantize(model, weights=qint4, activations=qint8, exclude="head")
with torch.no_grad(), Calibration():
    model(torch.randn(4, 64))
freeze(model)
torch.save(model.state_dict(), folder / "state.pt")
(folder / "quanto_qmap.json").write_text(json.dumps(quantization_map(model), indent=4))

# ours.pt is not made here: nibble wrote it of new.safetensors, metadata format=pt and who=me. That
# torch opens it, and finds in it what the safetensors file holds, is what is looked at:
ours = torch.load(HERE / "ours.pt", weights_only=True)
assert ours.keys() == new.keys() and ours.metadata == {"format": "pt", "who": "me"}
for name, want in dense(new).items():
    got = ours[name]
    assert got.dtype == want.dtype and got.shape == want.shape, name
    assert got.flatten().view(torch.uint8).equal(want.flatten().view(torch.uint8)), name

print("torch", torch.__version__, "numpy", np.__version__)
