"""Inputs quantized as they come, and what linears then give: torchao of ../versions.txt, writes beside itself.

inputs.safetensors holds cases 000, 001, ...: NNN.x, NNN.q, NNN.scale and, unless symmetric, NNN.zero;
metadata NNN = "kind of inputs|8 or 7 bits|symmetric, asymmetric|row, tensor|eps as a hexadecimal float|call".
linears.safetensors: NNN.x [M, K], NNN.weight [N, K], NNN.bias [N], NNN.y [M, N], NNN.bound [M, N];
metadata NNN = "scheme|call". All in f32, as nibble's activations are. bound is what y may be off by,
from float64: 2^-24 times (K / 16 + 8) times the sum of the magnitudes of what y is the sum of; torch sums
products of floats in vectors and blocks, whose error grows slower than that."""
import pathlib
import warnings

import torch
from safetensors.torch import save_file
from torchao.quantization import (Int8DynamicActivationInt8WeightConfig, Int8DynamicActivationIntxWeightConfig,
                                  MappingType, PerAxis, PerGroup, PerRow, PerTensor, quantize_)
from torchao.quantization.quant_primitives import choose_qparams_affine, quantize_affine
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import _get_per_token_block_size

from weights import KINDS, weight

warnings.filterwarnings("ignore")
HERE = pathlib.Path(__file__).parent
SYM, ASYM = MappingType.SYMMETRIC, MappingType.ASYMMETRIC


def inputs():
    tensors, meta = {}, {}
    ugly = KINDS + ["nan", "infinity", "minus_infinity", "largest"]
    cases = [(kind, bits, mapping, shares) for kind in ugly for mapping in (SYM, ASYM)
             for bits, shares in ((8, "row"), (7, "row"))]
    cases += [(kind, bits, mapping, "tensor") for kind in ("normal", "outlier", "positive", "zeros")
              for mapping in (SYM, ASYM) for bits in (8, 7)]
    cases += [(kind, 8, ASYM, "8da4w") for kind in ugly]
    for i, (kind, bits, mapping, shares) in enumerate(cases):
        x = weight(kind if kind in KINDS else "normal", 5, 70, "f32", 100 + i)
        if kind == "nan":
            x[1, 3] = float("nan")
        if kind == "infinity":
            x[1, 3] = float("inf")
        if kind == "minus_infinity":
            x[1, 3], x[2, 9], x[2, 11] = -float("inf"), float("inf"), -float("inf")
        if kind == "largest":
            x[1, 3], x[1, 5], x[2, 1] = 3.4e38, -3.4e38, 3e38
        if shares == "8da4w":
            block, eps = _get_per_token_block_size(x), torch.finfo(torch.float32).smallest_normal
            scale, zero = choose_qparams_affine(x, mapping, block, target_dtype=torch.int8, quant_min=-128,
                                                quant_max=127, zero_point_dtype=torch.int8)
            q = quantize_affine(x, block, scale, zero, output_dtype=torch.int8, quant_min=-128, quant_max=127)
            call = "choose_qparams_affine and quantize_affine as _apply_int8_act_asym_per_token_quant_dequant"
        else:
            eps = torch.finfo(torch.float32).eps
            t = Int8Tensor.from_hp(x, PerTensor() if shares == "tensor" else PerRow(), mapping, reduce_range=bits == 7)
            q, scale, zero = t.qdata, t.scale, t.zero_point
            call = f"Int8Tensor.from_hp(x, {shares}, {mapping}, reduce_range={bits == 7})"
        tag = f"{i:03d}"
        tensors[f"{tag}.x"], tensors[f"{tag}.q"] = x, q
        tensors[f"{tag}.scale"] = scale.reshape(-1)
        if mapping == ASYM:
            tensors[f"{tag}.zero"] = zero.reshape(-1)
        meta[tag] = "|".join((kind, str(bits), "symmetric" if mapping == SYM else "asymmetric",
                              "row" if shares == "8da4w" else shares, float(eps).hex(), call))
    save(tensors, meta, "inputs")


def linears():
    tensors, meta = {}, {}
    int8, intx = Int8DynamicActivationInt8WeightConfig, Int8DynamicActivationIntxWeightConfig
    a, b = "int8_dynamic_activation_int8_weight", "int8_dynamic_activation_int4_weight"
    four = torch.int4
    cases = [
        (a, int8(), 160), (a, int8(), 33),
        (a + ":act_mapping_type=asymmetric", int8(act_mapping_type=ASYM), 160),
        (a + ":reduce_range=true", int8(reduce_range=True), 160),
        (a + ":reduce_range=true,act_mapping_type=asymmetric", int8(reduce_range=True, act_mapping_type=ASYM), 77),
        (a + ":granularity=tensor", int8(granularity=PerTensor()), 160),
        (a + ":act_granularity=tensor,act_mapping_type=asymmetric",
         int8(granularity=[PerTensor(), PerRow()], act_mapping_type=ASYM), 160),
        (b, intx(weight_dtype=four), 160), (b, intx(weight_dtype=four), 32),
        (b + ":group_size=128", intx(weight_dtype=four, weight_granularity=PerGroup(128)), 256),
        (b + ":group_size=5", intx(weight_dtype=four, weight_granularity=PerGroup(5)), 35),
        (b + ":granularity=row,mapping=asymmetric",
         intx(weight_dtype=four, weight_granularity=PerAxis(0), weight_mapping_type=ASYM), 96),
        (b + ":group_size=32,mapping=asymmetric",
         intx(weight_dtype=four, weight_granularity=PerGroup(32), weight_mapping_type=ASYM), 160),
    ]
    for i, (scheme, config, k) in enumerate(cases):
        n = 21
        x = weight(("normal", "uniform", "positive", "outlier")[i % 4], 6, k, "f32", 500 + i) * 20
        linear = torch.nn.Linear(k, n)
        torch.manual_seed(i)
        with torch.no_grad():
            linear.weight.copy_(weight("normal", n, k, "f32", 600 + i))
            linear.bias.copy_(torch.randn(n))
        tag = f"{i:03d}"
        tensors[f"{tag}.x"], tensors[f"{tag}.weight"] = x, linear.weight.detach().clone()
        tensors[f"{tag}.bias"] = linear.bias.detach().clone()
        quantize_(linear, config)
        with torch.no_grad():
            y = linear(x)
        w = linear.weight.dequantize()
        # |q - zero| * scale is at most two ranges of the input above |x|; zero corrections cancel that much.
        reach = (x.abs() + 2 * x.abs().amax(-1, keepdim=True)).double()
        magnitudes = reach @ (w.abs() + 2 * w.abs().amax(-1, keepdim=True)).double().t() + linear.bias.abs().double()
        tensors[f"{tag}.y"] = y
        tensors[f"{tag}.bound"] = (magnitudes * 2.0 ** -24 * (k / 16 + 8)).float()
        meta[tag] = f"{scheme}|quantize_(Linear, {config})"
    save(tensors, meta, "linears")


def save(tensors, meta, name):
    path = HERE / f"{name}.safetensors"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, metadata=meta)
    path.chmod(0o644)
    print(name, len(meta), "cases,", path.stat().st_size, "bytes")


if __name__ == "__main__":
    inputs()
    linears()
