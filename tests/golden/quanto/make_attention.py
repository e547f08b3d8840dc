"""A RoPE attention block of 128 columns and a LayerNorm, float and as optimum-quanto quantizes them.

    python tests/golden/quanto/make_attention.py

attention.safetensors (weights and input are numbers that tests/flow/test_quanto_attention.c makes again:
splitmix64 from seed 20, in the order q, k, v, o, x; weights within 1 / sqrt(128), x within 1):
    y                            the float block's
    <weights>.<activations>.y    quantized, calibrated on the same input, frozen, run again
    norm.<name>                  weight, bias and x of a LayerNorm(32), y of the float one
    norm.<activations>.q, .scale what the calibrated and frozen one gives
"""
import math
import pathlib
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
from optimum.quanto import Calibration, freeze, qtypes, quantize
from safetensors.torch import save_file

B, S, H, D = 2, 16, 4, 32
W = H * D
drawn = 0


def uniform(*shape):
    global drawn
    n = math.prod(shape)
    with np.errstate(over="ignore"):
        i = np.arange(drawn + 1, drawn + n + 1, dtype=np.uint64)
        z = np.uint64(20) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    drawn += n
    return torch.from_numpy(((z >> np.uint64(40)).astype(np.float64) / 8388608.0 - 1.0).astype(np.float32)).reshape(shape)


class Attention(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        for name, w in zip("qkvo", weights):
            linear = torch.nn.Linear(W, W, bias=False)
            linear.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
            self.add_module(f"{name}_proj", linear)
        angle = torch.outer(torch.arange(S).float(), 10000.0 ** (-torch.arange(0, D, 2).float() / D))
        self.cos, self.sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def turn(self, x):
        half = torch.cat([-x[..., D // 2:], x[..., :D // 2]], -1)
        return x * self.cos + half * self.sin

    def forward(self, x):
        q, k, v = (m(x).view(B, S, H, D).transpose(1, 2) for m in (self.q_proj, self.k_proj, self.v_proj))
        score = torch.matmul(self.turn(q), self.turn(k).transpose(2, 3)) / math.sqrt(D)
        y = torch.matmul(torch.softmax(score, -1, dtype=torch.float32), v)
        return self.o_proj(y.transpose(1, 2).reshape(B, S, W))


def floats(y):
    return y.dequantize() if hasattr(y, "dequantize") and hasattr(y, "qtype") else y


@torch.no_grad()
def main():
    bound = torch.tensor(1 / math.sqrt(W), dtype=torch.float32)
    weights = [uniform(W, W) * bound for _ in "qkvo"]
    x = uniform(B, S, W)
    out = {"y": Attention(weights)(x)}
    for w, a in [("qint8", None), ("qfloat8_e4m3fn", None), ("qint8", "qint8"), ("qint8", "qfloat8_e4m3fn"),
                 ("qint8", "qfloat8_e5m2"), ("qint8", "qfloat8_e4m3fnuz")]:
        m = Attention(weights)
        quantize(m, weights=qtypes[w], activations=qtypes[a] if a else None)
        if a:
            with Calibration():
                m(x)
        freeze(m)
        y = floats(m(x))
        out[f"{w}.{a or 'none'}.y"] = y
        cos = torch.nn.functional.cosine_similarity(y.flatten(), out["y"].flatten(), dim=0).item()
        print(w, a, "1 - cosine", 1 - cos, "largest error", (y - out["y"]).abs().max().item(), "of", out["y"].abs().max().item())
    torch.manual_seed(3)
    norm = torch.nn.LayerNorm(32)
    norm.weight.copy_(torch.rand(32) + 0.5)
    norm.bias.copy_(torch.randn(32) * 0.1)
    x = torch.randn(10, 32)
    out |= {"norm.weight": norm.weight.detach().clone(), "norm.bias": norm.bias.detach().clone(), "norm.x": x, "norm.y": norm(x)}
    for a in ("qint8", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"):
        m = torch.nn.Sequential(torch.nn.LayerNorm(32))
        m[0].load_state_dict(norm.state_dict())
        quantize(m, activations=qtypes[a])
        with Calibration(streamline=False):
            m(x)
        freeze(m)
        y = m(x)
        out[f"norm.{a}.q"], out[f"norm.{a}.scale"] = y._data.view(torch.int8), y._scale
    save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, pathlib.Path(__file__).parent / "attention.safetensors")


main()
