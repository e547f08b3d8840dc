"""How optimum-quanto lays 4-bit and float8 weights out for its kernels of GPUs.

    python tests/golden/quanto/make_gpu_layouts.py

gpu_layouts.safetensors. "<N>x<K>.u4.q", ".scale", ".shift" and "<N>x<K>.f8.q", ".scale" are codes as a
canonical WeightQBitsTensor and WeightQBytesTensor have them (one row of the weight after another); beside
them, to the byte, what upstream makes of them:
    <case>.awq_v2._data._data _scale _shift        AWQWeightQBitsTensor.__init__, packing V2
    <case>.awq_v1.reordered, .plain                AWQPackedTensor's packing V1 of [N, K]
    <case>.awq_gemm.qweight                        the same of [K, N], reordered: what AutoAWQ's files hold
    <case>.marlin_int4._data._data _scale _shift   MarlinInt4WeightQBitsTensor.__init__
    <case>.marlin_f8._data._data _scale            MarlinF8QBytesTensor.__init__
    <case>.tinygemm.scale_shift                    TinyGemmWeightQBitsTensor.__init__ of bf16 .scale and .given,
    <case>.tinygemm.shift                          and what its way back makes of .given

Upstream's classes refuse tensors that are not on a GPU before anything is packed, so its functions are
called without them, in the order in which its __init__ calls them; those of AWQ and Marlin int4 and all
permutations of scales are torch and numpy and run here as they are. TinyGemm's class runs on a CPU.

What cannot be run without a GPU is one function: pack_fp8_marlin, the CUDA kernel that moves the words of
marlin_f8. repack() below is written from where that kernel says each byte goes (a 16 x 64 tile is the B
operand of m16n8k16 products, four of 16 x 16 a tile; bytes 0 2 1 3 of a lane's four), and upstream's own
way back, MarlinF8PackedTensor.unpack, which is torch and runs here, must return what was packed.
"""
import pathlib
import warnings

warnings.filterwarnings("ignore")
import torch
from optimum.quanto import MaxOptimizer, absmax_scale, qfloat8_e4m3fn, qint4
from optimum.quanto.tensor.grouped import ungroup
from optimum.quanto.tensor.weights import WeightQBitsTensor
from optimum.quanto.tensor.weights.awq import packed as awq
from optimum.quanto.tensor.weights.marlin.fp8 import packed as marlin_f8
from optimum.quanto.tensor.weights.marlin.int4 import packed as marlin_int4
from optimum.quanto.tensor.weights.marlin.permutations import marlin_permute
from optimum.quanto.tensor.weights.tinygemm import TinyGemmWeightQBitsTensor
from safetensors.torch import save_file

torch.manual_seed(47)
GROUP = 128
out = {}


class OnGpu:
    """A CPU tensor that says it is on a GPU, for packing functions that assert it and need nothing of it."""

    def __init__(self, t):
        self.t, self.device, self.ndim, self.shape = t, torch.device("cuda"), t.ndim, t.shape

    def reshape(self, *shape):
        return self.t.reshape(*shape)


def qbits(N, K, dtype):
    w = (torch.rand(N, K) * 2 - 1).to(dtype)
    scale, shift = MaxOptimizer()(w, qtype=qint4, axis=0, group_size=GROUP)
    data = torch.ops.quanto.quantize_affine(w, 4, 0, GROUP, scale, shift)
    return data, scale, shift


def across(t, N, K):
    return t.reshape(N, K // GROUP).t().contiguous()


def repack(words, N, K):
    """[K / 4, N] words of four k to [K / 16, 4 N]: tile by tile, 32 lanes with 4 x 2 words each."""
    k_of_byte = words.contiguous().view(torch.uint8).reshape(K // 4, N, 4).permute(0, 2, 1).reshape(K, N)
    lane, warp, half, byte = torch.meshgrid(*(torch.arange(n) for n in (32, 4, 2, 4)), indexing="ij")
    offset = torch.tensor([0, 1, 8, 9])[torch.tensor([0, 2, 1, 3])]
    k = 2 * (lane % 4) + offset[byte]
    n = 16 * warp + lane // 4 + 8 * half
    tiles = k_of_byte.reshape(K // 16, 16, N // 64, 64).permute(0, 2, 1, 3)
    return tiles[:, :, k, n].reshape(K // 16, -1).contiguous().view(torch.int32)


for N, K in [(64, 128), (64, 384), (128, 256)]:
    data, scale, shift = qbits(N, K, torch.float16)
    q = ungroup(data, axis=0, orig_shape=(N, K)).contiguous()
    case = f"{N}x{K}"
    out |= {f"{case}.u4.q": q, f"{case}.u4.scale": scale, f"{case}.u4.shift": shift}

    packed = awq.pack_v2(OnGpu(q))
    out |= {f"{case}.awq_v2._data._data": packed, f"{case}.awq_v2._scale": across(scale, N, K),
            f"{case}.awq_v2._shift": -across(shift, N, K)}
    for name, reorder in {"plain": False, "reordered": True}.items():
        v1 = awq.pack(q, reorder=reorder)
        assert torch.equal(awq.unpack(v1, reorder=reorder), q)
        out[f"{case}.awq_v1.{name}"] = v1
    out[f"{case}.awq_gemm.qweight"] = awq.pack(q.t().contiguous(), reorder=True)

    packed = marlin_int4.pack(q)
    assert torch.equal(marlin_int4.unpack(packed, (N, K)), q)
    out |= {f"{case}.marlin_int4._data._data": packed,
            f"{case}.marlin_int4._scale": marlin_permute(across(scale, N, K)),
            f"{case}.marlin_int4._shift": marlin_permute(-across(shift, N, K))}

    data, scale, shift = qbits(N, K, torch.bfloat16)
    tiny = TinyGemmWeightQBitsTensor(qint4, 0, GROUP, torch.Size((N, K)), (K, 1), data, (scale, shift))
    back = tiny.weight_qbits_tensor()
    assert torch.equal(back._data.unpack(), data) and torch.equal(back._scale, scale)
    out |= {f"{case}.tinygemm.scale": scale, f"{case}.tinygemm.given": shift,
            f"{case}.tinygemm.scale_shift": tiny._scale_shift, f"{case}.tinygemm.shift": back._shift}

for (N, K), dtype in {(128, 64): torch.float16, (192, 128): torch.bfloat16}.items():
    w = (torch.rand(N, K) * 2 - 1).to(dtype)
    scale = absmax_scale(w, qtype=qfloat8_e4m3fn, axis=0)
    q = torch.ops.quanto.quantize_symmetric(w, dtype=torch.float8_e4m3fn, axis=0, scale=scale)
    q.view(torch.uint8).flatten()[::97] = torch.arange(q.numel(), dtype=torch.int64)[::97].to(torch.uint8)
    q.view(torch.uint8)[(q.view(torch.uint8) & 0x7F) == 0x7F] = 0
    case = f"{N}x{K}"
    packed = repack(marlin_f8.pack_fp8_as_int32(q.T), N, K)
    back = marlin_f8.MarlinF8PackedTensor.unpack(type("Packed", (), {"_data": packed}))
    assert torch.equal(back.contiguous().view(torch.uint8), q.view(torch.uint8)), case
    order = marlin_f8.get_scale_perms()
    out |= {f"{case}.f8.q": q, f"{case}.f8.scale": scale, f"{case}.marlin_f8._data._data": packed,
            f"{case}.marlin_f8._scale": scale.reshape(-1, len(order))[:, order].reshape(-1, N)}

save_file({k: v.contiguous().clone() for k, v in out.items()}, pathlib.Path(__file__).parent / "gpu_layouts.safetensors")
