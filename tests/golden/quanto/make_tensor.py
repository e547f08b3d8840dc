"""optimum-quanto's functions for tensors, beyond what modules use: any axis, three dimensions, zero-points.

    python tests/golden/quanto/make_tensor.py

tensor.safetensors, for shapes "2d" and "3d" and dtypes f32 and f16: "<shape>.<dtype>.a" and
    "<...>.<qtype>.<axis>.scale", ".data"                      quantize_symmetric
    "<...>.<qtype>.<axis>.<group>.<mode>.scale", ".shift", ".data"   quantize_affine, mode float or zeropoint
axis "first" or "last"; group 0 is none. Codes are matrices: rows are what has scales of its own, columns
what shares them, groups one after another.
"""
import pathlib
import warnings

warnings.filterwarnings("ignore")
import torch
from optimum.quanto import MaxOptimizer, absmax_scale, qtypes
from safetensors.torch import save_file

torch.manual_seed(40)
out = {}
for shape_name, shape in {"2d": (16, 8), "3d": (8, 2, 16)}.items():
    for dtype_name, dtype in {"f32": torch.float32, "f16": torch.float16}.items():
        key = f"{shape_name}.{dtype_name}"
        a = out[f"{key}.a"] = (torch.rand(shape) * 2 - 1).to(dtype)
        for axis_name, axis in {"first": 0, "last": -1}.items():
            rows = (lambda t: t.reshape(t.shape[0], -1)) if axis == 0 else (lambda t: t.reshape(-1, t.shape[-1]).t())
            for q in ("qint8", "qfloat8_e4m3fn", "qfloat8_e4m3fnuz", "qfloat8_e5m2"):
                scale = absmax_scale(a, qtype=qtypes[q], axis=axis)
                data = torch.ops.quanto.quantize_symmetric(a, dtype=qtypes[q].dtype, axis=axis, scale=scale)
                out[f"{key}.{q}.{axis_name}.scale"] = scale.flatten()
                out[f"{key}.{q}.{axis_name}.data"] = rows(data.view(torch.int8))
            for q in ("qint4", "qint2"):
                for group in (0, 8):
                    for mode in ("float", "zeropoint"):
                        scale, shift = MaxOptimizer()(a, qtype=qtypes[q], axis=axis, group_size=group or None)
                        if mode == "zeropoint":
                            shift = torch.round(shift / scale).to(torch.int8)
                        data = torch.ops.quanto.quantize_affine(a, qtypes[q].bits, axis, group or None, scale, shift)
                        count = a.shape[axis]
                        if group:
                            data = (data if axis == 0 else data.t()).reshape(count, -1)
                        else:
                            data = rows(data)
                        part = f"{key}.{q}.{axis_name}.{group}.{mode}"
                        out |= {f"{part}.scale": scale.flatten(), f"{part}.shift": shift.to(torch.float32).flatten(),
                                f"{part}.data": data}
save_file({k: v.contiguous().clone() for k, v in out.items()}, pathlib.Path(__file__).parent / "tensor.safetensors")
