"""Golden files for torchao's schemes: run with torch and torchao of ../versions.txt, writes beside itself.

A file holds cases 000, 001, ...: tensors NNN.weight, NNN.<part> as torchao stores them, NNN.dequantized;
metadata NNN = "kind|scheme|layout|kind of weights|call"."""
import pathlib
import warnings

import torch
from safetensors.torch import save_file

from upstream import reference
from weights import weight

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
ALL = ("f32", "f16", "bf16")


def write(name, cases, seed=0):
    tensors, meta = {}, {}
    for i, (scheme, kind, n, k, dtype, *layout) in enumerate(cases):
        w = weight(kind, n, k, dtype, seed + i)
        real, call, stored, parts, back = reference(scheme, w, *layout)
        tag = f"{i:03d}"
        meta[tag] = "|".join((real, scheme, stored, kind, call))
        tensors[f"{tag}.weight"] = w
        if name != "hqq":  # there codes may differ, so floats may
            tensors[f"{tag}.dequantized"] = back
        for part, t in parts.items():
            tensors[f"{tag}.{part}"] = t.contiguous()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, HERE / f"{name}.safetensors", metadata=meta)
    (HERE / f"{name}.safetensors").chmod(0o644)
    print(name, len(cases), "cases,", sum(m.startswith("real") for m in meta.values()), "real,",
          (HERE / f"{name}.safetensors").stat().st_size, "bytes")


I8 = "int8_weight_only"
int8 = [(I8, "normal", 3, 130, d) for d in ALL] + [(I8, "ties", 2, 64, d) for d in ALL]
int8 += [(I8, "negative", 4, 33, d) for d in ALL] + [(I8, "zeros", 4, 20, d) for d in ALL]
int8 += [(I8, "small", 3, 40, d) for d in ALL] + [(I8, "constant", 6, 7, d) for d in ALL]
int8 += [(I8, "outlier", 1, 97, d) for d in ALL] + [(I8, "wide", 2, 48, "f16"), (I8, "tiny", 2, 48, "f32"),
                                                    (I8, "tiny", 2, 48, "bf16"), (I8, "uniform", 5, 2, "bf16")]
int8 += [(I8 + ":granularity=group,group_size=32", k, 3, 96, d) for d in ALL for k in ("normal", "zeros")]
int8 += [(I8 + ":granularity=group,group_size=5", "outlier", 2, 35, "bf16")]
int8 += [(I8 + ":granularity=tensor", k, 5, 31, d) for d in ALL for k in ("normal", "negative")]

F8 = "float8_weight_only"
float8 = [(F8, k, 3, 77, d) for d in ALL for k in ("normal", "wide", "negative", "outlier", "constant")]
float8 += [(F8 + ":dtype=e5m2", k, 3, 64, d) for d in ALL for k in ("normal", "wide")]
float8 += [(F8 + ":granularity=tensor", "normal", 4, 33, d) for d in ALL]
float8 += [(F8 + ":granularity=group,group_size=16", "uniform", 2, 64, d) for d in ALL]
float8 += [(F8, "zeros", 4, 16, "bf16"), (F8, "zeros", 3, 9, "f32"), (F8, "small", 2, 40, "f16"), (F8, "tiny", 2, 24, "f32"),
           (F8, "normal", 1, 1, "bf16")]

IX = "intx_weight_only"
intx = [(f"{IX}:bits={b}", "normal", 2, 45, d) for b in range(1, 9) for d in ("f32", "bf16")]
intx += [(f"{IX}:bits={b},granularity=group,group_size=32,mapping=asymmetric", "normal", 2, 64, d)
         for b in (1, 2, 3, 4, 8) for d in ALL]
intx += [(f"{IX}:bits={b},granularity=group,group_size=32,mapping=symmetric_no_clipping_err", "negative", 3, 64, d)
         for b in (2, 4, 7) for d in ALL]
intx += [(f"{IX}:bits=4,granularity=group,group_size=16,mapping={m}", k, 4, 48, "bf16")
         for m in ("symmetric", "asymmetric") for k in ("zeros", "constant", "outlier", "small", "positive", "steps", "wide")]
intx += [(f"{IX}:bits=8,mapping=asymmetric", k, 3, 61, d) for k in ("positive", "negative") for d in ALL]
intx += [(f"{IX}:bits=4,granularity=group,group_size=32,scale_dtype={s}", "normal", 2, 64, d)
         for s, d in (("f32", "bf16"), ("bf16", "f32"), ("f16", "bf16"), ("f32", "f16"), ("bf16", "f16"))]
intx += [(f"{IX}:bits=4,mapping={m},eps=v0.17", "small", 3, 64, d) for m in ("symmetric", "asymmetric") for d in ALL]
intx += [(f"{IX}:bits=8", "tiny", 2, 32, d) for d in ALL] + [(f"{IX}:bits=8", "ties", 2, 64, d) for d in ALL]

TG = "int4_weight_only:numerics=tinygemm,group_size="
tiny = [(f"{TG}{g}", "normal", 2, 256, d) for g in (32, 64, 128, 256) for d in ALL]
tiny += [(f"{TG}32", k, 3, 64, d) for d in ALL for k in ("zeros", "constant", "outlier", "positive", "wide")]
tiny += [(f"{TG}32", "small", 2, 64, "bf16"), (f"{TG}32", "tiny", 2, 64, "f32"), (f"{TG}32", "steps", 1, 32, "bf16")]
tiny += [(f"{TG}32,eps=v0.17", k, 3, 64, d) for d in ALL for k in ("small", "normal")]

PL = "int4_weight_only:group_size="
plain = [(f"{PL}{g}", "normal", 2, 256, d) for g in (32, 64, 128, 256) for d in ALL]
plain += [(f"{PL}32", k, 3, 64, d) for d in ALL for k in ("zeros", "constant", "outlier", "small", "positive")]
plain += [(f"{TG}32", "normal", 9, 96, "bf16", "int4_tile_packed"), (f"{TG}128", "outlier", 8, 1152, "bf16", "int4_tile_packed")]

hqq = [(f"{TG}{g},algo=hqq", k, 24, 256, d) for g, k, d in
       ((32, "normal", "bf16"), (64, "outlier", "bf16"), (128, "uniform", "f32"), (64, "normal", "f16"))]
hqq += [(f"{IX}:bits={b},granularity=group,group_size={g},algo=hqq", k, 24, 256, d) for b, g, k, d in
        ((4, 32, "normal", "bf16"), (4, 64, "outlier", "f32"), (2, 64, "uniform", "f16"), (3, 128, "normal", "f32"))]
hqq += [(f"{IX}:bits=4,algo=hqq", "zeros", 8, 64, "bf16"), (f"{TG}32,algo=hqq", "zeros", 8, 64, "bf16")]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, cases in (("int8", int8), ("float8", float8), ("intx", intx), ("tinygemm", tiny), ("emulated", plain),
                        ("hqq", hqq)):
        write(name, cases)
