"""Golden files of optimum-quanto: what state_dict() holds after quantize() and freeze() on a CPU.

    python tests/golden/quanto/make.py

writes next to itself
    inputs.safetensors    the float weights, "<dtype>.<case>"
    <qtype>.safetensors   "<dtype>.<case>.weight._data" and so on, as quanto names and shapes them
    hqq.safetensors       the same with HqqOptimizer, "<qtype>.<dtype>.<case>.weight..."
The metadata of each file names the call, lists what upstream refused, and gives
"crc32.<dtype>.<case>": of the bytes of weight.dequantize(), NaN replaced by +0 (only fp8 rows
of zeros have any; docs/differences.md)."""

import pathlib
import warnings
import zlib

warnings.filterwarnings("ignore")
import torch
from optimum.quanto import HqqOptimizer, freeze, qtypes, quantize
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
QTYPES = ["qint8", "qint4", "qint2", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"]

# Columns of one output (K) decide the groups of the 2- and 4-bit types: none up to 128, then
# 128 (256), 96 (192, 288), 32 (160) or none (144, 200). bf16 qint4 with groups of 128 goes
# through TinyGemm, which wants a multiple of 16 outputs.
SHAPES = [
    (33, 32), (37, 64), (19, 160), (18, 192), (18, 200), (16, 256), (32, 256), (1, 64), (1, 160),
    (1, 256), (3, 128), (2, 32), (3, 96), (6, 3, 3, 3), (5, 32, 3, 3), (4, 16, 3, 3), (1, 3, 3, 3),
]


def row(kind, K, dtype):
    """K values that are awkward in one way, already exact in dtype."""
    info = torch.finfo(dtype)
    k = torch.arange(K, dtype=torch.float64)
    if kind == 0: x = torch.randn(K, dtype=torch.float64) * 0.05
    elif kind == 1: x = torch.zeros(K, dtype=torch.float64)
    elif kind == 2: x = torch.full((K,), 0.37, dtype=torch.float64)
    elif kind == 3: x = torch.full((K,), -0.37, dtype=torch.float64)
    elif kind == 4: x = torch.randn(K, dtype=torch.float64) * 1e-3; x[K // 3] = 100.0
    elif kind == 5: x = (k * 5 % 15 - 7) * info.smallest_normal * info.eps      # denormals
    elif kind == 6: x = torch.randn(K, dtype=torch.float64) * info.max / 16
    elif kind == 7: x = torch.where(k % 2 == 0, 1.0, -1.0) * info.max           # the range overflows
    elif kind == 8: x = (k * 7 % 254 - 126.5) / 64; x[0] = 127 / 64             # ties of 8 bits
    elif kind == 9: x = (k * 3 % 15 - 7.5) / 32; x[::32] = -8 / 32; x[1::32] = 7 / 32
    elif kind == 10: x = (k % 3 - 1.5) / 4; x[::32] = -2 / 4; x[1::32] = 1 / 4
    elif kind == 11: x = torch.rand(K, dtype=torch.float64)                     # skewed
    elif kind == 12: x = -3 - torch.rand(K, dtype=torch.float64)                # zero not inside
    elif kind == 13: x = torch.linspace(-1, 1, K, dtype=torch.float64)
    elif kind == 14: x = torch.randn(K, dtype=torch.float64); x[::4] = -0.0
    elif kind == 15: x = torch.randn(K, dtype=torch.float64) ** 3 * 0.01
    elif kind == 16: x = torch.rand(K, dtype=torch.float64) * info.smallest_normal * 40
    return x.to(dtype)


KINDS = 17


def make_inputs():
    torch.manual_seed(20)
    inputs, first = {}, 0
    for name, dtype in DTYPES.items():
        for shape in SHAPES:
            K = 1
            for d in shape[1:]: K *= d
            rows = [row((first + i) % KINDS, K, dtype) for i in range(shape[0])]
            first += shape[0] if shape[0] < KINDS else 0
            inputs[f"{name}.{'x'.join(map(str, shape))}"] = torch.stack(rows).reshape(shape)
        for O, K in [(48, 256), (40, 160), (64, 64)]:
            inputs[f"{name}.hqq_{O}x{K}"] = (torch.randn(O, K) * 0.04 + 0.01 * torch.randn(O, 1)).to(dtype)
    return inputs


def quantized(w, qtype, optimizer=None):
    if w.ndim == 2:
        module = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    else:
        module = torch.nn.Conv2d(w.shape[1], w.shape[0], w.shape[2:], bias=False)
    module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    model = torch.nn.Sequential(module)
    quantize(model, weights=qtypes[qtype], optimizer=optimizer)
    freeze(model)
    state = {k[2:]: v.contiguous().clone() for k, v in model.state_dict().items() if "_scale" not in k or "weight" in k}
    back = model[0].weight.dequantize().contiguous()
    back = torch.where(torch.isnan(back), torch.zeros_like(back), back)
    return state, zlib.crc32(back.view(torch.uint8).numpy().tobytes())


def main():
    inputs = make_inputs()
    versions = {"torch": torch.__version__, "optimum_quanto": __import__("optimum.quanto").quanto.__version__}
    save_file(inputs, HERE / "inputs.safetensors", metadata=versions)
    call = "quantize(Sequential(module), weights={}{}); freeze(model); model.state_dict()"
    for qtype in QTYPES:
        out, meta = {}, dict(versions, call=call.format(qtype, ""), refused="")
        for name, w in inputs.items():
            if "hqq" in name: continue
            try:
                state, crc = quantized(w, qtype)
            except RuntimeError as error:
                meta["refused"] += f"{name}: {str(error).splitlines()[0]}\n"
                continue
            out.update({f"{name}.{key}": v for key, v in state.items()})
            meta[f"crc32.{name}"] = f"{crc:08x}"
        save_file(out, HERE / f"{qtype}.safetensors", metadata=meta)
        print(qtype, sum(k.startswith("crc32") for k in meta), "cases;", meta["refused"] or "none refused")
    out, meta = {}, dict(versions, call=call.format("qint4|qint2", ", optimizer=HqqOptimizer()"))
    for qtype in ["qint4", "qint2"]:
        for name, w in inputs.items():
            if "hqq" not in name: continue
            state, _ = quantized(w, qtype, HqqOptimizer())
            out.update({f"{qtype}.{name}.{key}": v for key, v in state.items()})
    save_file(out, HERE / "hqq.safetensors", metadata=meta)
    print("hqq", len(out) // 3, "cases")


main()
