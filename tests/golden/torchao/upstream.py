"""torchao's own results for a scheme written as nibble writes it: parts by name, and the call made.

Every function returns (kind, call, layout, parts, dequantized). kind is "real" where the installed
wheels computed all of it, "emulated" where a formula of a library without a CPU wheel is restated
here (MSLK's int4 kernels; the order of the tinygemm tiles, which only CUDA packs)."""
import torch
from torchao.quantization import (Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig,
                                  PerAxis, PerGroup, PerRow, PerTensor, quantize_)
from torchao.quantization.quant_primitives import (MappingType, _choose_qparams_affine_tinygemm,
                                                   _choose_qparams_and_quantize_affine_hqq,
                                                   _dequantize_affine_tinygemm, _quantize_affine_tinygemm,
                                                   choose_qparams_affine, dequantize_affine, quantize_affine)
from torchao.quantization.quantize_.workflows.intx.intx_choose_qparams_algorithm import \
    IntxChooseQParamsAlgorithm

MAPPINGS = {"symmetric": MappingType.SYMMETRIC, "asymmetric": MappingType.ASYMMETRIC,
            "symmetric_no_clipping_err": MappingType.SYMMETRIC_NO_CLIPPING_ERR}
SCALES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def options(scheme):
    name, _, rest = scheme.partition(":")
    return name, dict(pair.split("=") for pair in rest.split(",") if pair)


def layer(w):
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
    with torch.no_grad():
        linear.weight.copy_(w)
    return linear


def granularity(o, axis=False):
    g = o.get("granularity", "row")
    if g == "group":
        return PerGroup(int(o.get("group_size", 128)))
    return PerTensor() if g == "tensor" else PerAxis(0) if axis else PerRow()


def int8(w, o):
    linear, g = layer(w), granularity(o)
    quantize_(linear, Int8WeightOnlyConfig(granularity=g))
    q = linear.weight
    parts = {"qdata": q.qdata, "scale": q.scale, "zero_point": q.zero_point}
    return "real", f"quantize_(Linear, Int8WeightOnlyConfig(granularity={g}))", "int8_row", parts, q.dequantize()


def float8(w, o):
    linear, g = layer(w), granularity(o)
    dtype = torch.float8_e5m2 if o.get("dtype") == "e5m2" else torch.float8_e4m3fn
    quantize_(linear, Float8WeightOnlyConfig(weight_dtype=dtype, granularity=g))
    q = linear.weight
    return ("real", f"quantize_(Linear, Float8WeightOnlyConfig(weight_dtype={dtype}, granularity={g}))", "f8_row",
            {"qdata": q.qdata, "scale": q.scale}, q.dequantize())


def intx(w, o):
    bits, g = int(o.get("bits", 8)), granularity(o, axis=True)
    mapping = MAPPINGS[o.get("mapping", "symmetric")]
    if "eps" in o:  # an older default, given to the same functions by hand
        block = (1, g.group_size if isinstance(g, PerGroup) else w.shape[1])
        low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        scale, zero = choose_qparams_affine(w, mapping, block, torch.int8, low, high,
                                            eps=torch.finfo(w.dtype).eps, zero_point_dtype=torch.int8, keepdim=True)
        q = quantize_affine(w, block, scale, zero, torch.int8, low, high)
        back = dequantize_affine(q, block, scale, zero, torch.int8, low, high, output_dtype=w.dtype)
        return ("real", f"choose_qparams_affine(eps=finfo.eps, {mapping}), quantize_affine", "intx_unpacked",
                {"qdata": q, "scale": scale, "zero_point": zero}, back)
    algo = (IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY if o.get("algo") == "hqq" else
            IntxChooseQParamsAlgorithm.AFFINE)
    scale_dtype = SCALES.get(o.get("scale_dtype"))
    linear = layer(w)
    quantize_(linear, IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=g,
                                           mapping_type=mapping, scale_dtype=scale_dtype,
                                           intx_choose_qparams_algorithm=algo))
    q = linear.weight
    return ("real", f"quantize_(Linear, IntxWeightOnlyConfig(int{bits}, {g}, {mapping}, scale_dtype={scale_dtype}, "
            f"{algo}))", "intx_unpacked", {"qdata": q.qdata, "scale": q.scale, "zero_point": q.zero_point},
            q.dequantize())


def tinygemm(w, o):
    group = int(o.get("group_size", 128))
    block = (1, group)
    if o.get("algo") == "hqq":
        q, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
            w, nbits=4, group_size=group, axis=1, compute_dtype=w.dtype, device="cpu", raw_output=False)
        scale, zero = scale.reshape(w.shape[0], -1), zero.reshape(w.shape[0], -1)
        call = f"_choose_qparams_and_quantize_affine_hqq(nbits=4, group_size={group}, device=cpu)"
    else:
        eps = torch.finfo(w.dtype).eps if o.get("eps") == "v0.17" else None
        scale, zero = _choose_qparams_affine_tinygemm(w, MappingType.ASYMMETRIC, block, torch.int32, 0, 15, eps=eps,
                                                      scale_dtype=w.dtype, zero_point_dtype=w.dtype)
        q = _quantize_affine_tinygemm(w, block, scale, zero, torch.int32, 0, 15)
        call = f"_choose_qparams_affine_tinygemm(eps={eps}), _quantize_affine_tinygemm, group_size={group}"
    back = _dequantize_affine_tinygemm(q.to(torch.int32), block, scale, zero, torch.int32, 0, 15, output_dtype=w.dtype)
    return "real", call, "codes", {"codes": q.to(torch.uint8), "scale": scale, "zero": zero}, back


def plain(w, o):
    """MSLK int4_row_quantize_zp and pack_int4, restated from facts: all in f32."""
    group = int(o.get("group_size", 128))
    n, k = w.shape
    x = w.float().reshape(-1, group)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    scale = torch.clamp(high - low, min=1e-6) / 15
    zero = low + scale * 8
    q = (torch.clamp(torch.round((x - low) / scale), 0, 15) - 8).to(torch.int8).reshape(n, k)
    scale, zero = scale.reshape(n, -1).to(w.dtype), zero.reshape(n, -1).to(w.dtype)
    packed = ((q[:, ::2] & 15) | (q[:, 1::2] << 4)).contiguous()
    r = lambda t: t.to(w.dtype)
    back = r(r(q.to(w.dtype) * scale.repeat_interleave(group, 1)) + zero.repeat_interleave(group, 1))
    return ("emulated", f"Int4Tensor.from_hp by MSLK's formula, group_size={group}", "int4_plain",
            {"qdata": packed, "scale": scale.t().contiguous(), "zero_point": zero.t().contiguous()}, back)


def tile_order(q):
    """Codes [N, K] to the words that CUDA's _convert_weight_to_int4pack(inner_k_tiles=8) makes."""
    n, k = q.shape
    out = torch.zeros(n // 8, k // 128, 32, 4, dtype=torch.int64)
    for lane in range(32):
        for j in range(4):
            first = 32 * j + 2 * (lane % 4)
            v = [q[lane // 4::8, first + c::128].to(torch.int64) for c in (0, 1, 8, 9, 16, 17, 24, 25)]
            word = (v[7] << 28 | v[5] << 24 | v[3] << 20 | v[1] << 16 | v[6] << 12 | v[4] << 8 | v[2] << 4 | v[0])
            out[:, :, lane, j] = word
    return torch.where(out >= 1 << 31, out - (1 << 32), out).to(torch.int32)


def tile_packed(w, o):
    """Int4TilePackedTo4dTensor.from_hp with two CUDA-only calls answered here: the device's age, and the
    order of the tiles."""
    from unittest import mock
    from torchao.quantization.quantize_.workflows.int4 import int4_tile_packed_to_4d_tensor as module

    class Ops:
        @staticmethod
        def _convert_weight_to_int4pack(packed, inner_k_tiles):
            q = torch.stack((packed >> 4, packed & 15), -1).reshape(packed.shape[0], -1)
            return tile_order(q)

    fake = mock.MagicMock(wraps=torch.ops)
    fake.aten = Ops
    group = int(o.get("group_size", 128))
    with mock.patch.object(torch.cuda, "get_device_capability", lambda *a: (8, 0)), \
            mock.patch.object(module.torch, "ops", fake):
        t = module.Int4TilePackedTo4dTensor.from_hp(w, [1, group])
    _, _, _, _, back = tinygemm(w, o)
    return ("emulated", f"Int4TilePackedTo4dTensor.from_hp, tiles ordered by hand, group_size={group}",
            "int4_tile_packed", {"qdata": t.qdata, "scale_and_zero": t.scale_and_zero}, back)


def reference(scheme, w, layout=None):
    name, o = options(scheme)
    if name == "int4_weight_only":
        if layout == "int4_tile_packed":
            return tile_packed(w, o)
        return (tinygemm if o.get("numerics") == "tinygemm" else plain)(w, o)
    return {"int8_weight_only": int8, "float8_weight_only": float8, "intx_weight_only": intx}[name](w, o)
