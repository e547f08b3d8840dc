"""Gradients of whole networks as torch finds them.

    python tests/golden/train/make_networks.py      (torch as in ../versions.txt)

networks.safetensors: <network>.<input>, <network>.p.<parameter>, <network>.loss, <network>.d.<parameter>.
  cnn    two convolutions (padding modes, groups), BatchNorm2d training, ReLU, pooling, Linear; cross entropy
  block  MultiheadAttention with a mask that is learned and bias_k, LayerNorm, GELU; mean squared error
  llama  embedding, RMSNorm, rotated queries and keys, causal attention, SiLU gate, residuals; cross entropy
"""
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

out = {}
nn = torch.nn


def put(name, parameters, loss):
    loss.backward()
    out[name + ".loss"] = loss.detach().reshape(1)
    for key, p in parameters.items():
        out[f"{name}.p.{key}"] = p.detach().clone()
        out[f"{name}.d.{key}"] = p.grad.clone()


torch.manual_seed(21)
cnn = nn.Sequential(
    nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(4, 6, 3, stride=2, padding="valid", groups=2, padding_mode="zeros"), nn.GroupNorm(2, 6), nn.SiLU(),
    nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(12, 5))
x, target = torch.randn(3, 2, 14, 12), torch.tensor([4, 0, 2])
out["cnn.x"], out["cnn.target"] = x, target
put("cnn", dict(cnn.named_parameters()), F.cross_entropy(cnn(x), target))

torch.manual_seed(22)
E, H, L, N = 12, 3, 5, 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, H, add_bias_kv=True, batch_first=True)
        self.norm = nn.LayerNorm(E)
        self.up = nn.Linear(E, 16)
        self.down = nn.Linear(16, E)

    def forward(self, x, mask):
        y = self.norm(x + self.attention(x, x, x, attn_mask=mask)[0])
        return y + self.down(F.gelu(self.up(y)))


block = Block()
for p in block.parameters():
    p.data = torch.randn_like(p) * 0.4
x, mask, target = torch.randn(N, L, E), nn.Parameter(torch.randn(L, L)), torch.randn(N, L, E)
out["block.x"], out["block.target"] = x, target
with torch.no_grad():
    y, weights = block.attention(x, x, x, attn_mask=mask)
    out["block.attention"], out["block.weights"] = y.contiguous(), weights.contiguous()
    out["block.head_weights"] = block.attention(x, x, x, attn_mask=mask, average_attn_weights=False)[1].contiguous()
put("block", dict(block.named_parameters(), mask=mask), F.mse_loss(block(x, mask), target))

torch.manual_seed(23)
V, D, H, L, I = 11, 8, 2, 6, 14
P = {"embed": torch.randn(V, D), "norm1": torch.rand(D) + 0.5, "q": torch.randn(D, D) * 0.4,
     "k": torch.randn(D, D) * 0.4, "v": torch.randn(D, D) * 0.4, "o": torch.randn(D, D) * 0.4,
     "norm2": torch.rand(D) + 0.5, "gate": torch.randn(I, D) * 0.4, "up": torch.randn(I, D) * 0.4,
     "down": torch.randn(D, I) * 0.4, "norm": torch.rand(D) + 0.5}
P = {k: nn.Parameter(v) for k, v in P.items()}
ids, target = torch.randint(0, V, (L,)), torch.randint(0, V, (L,))
angle = torch.arange(L)[:, None] * (10000.0 ** (-torch.arange(0, D // H, 2) / (D // H)))[None]
cos, sin = angle.cos(), angle.sin()
out["llama.ids"], out["llama.target"] = ids.int(), target
out["llama.angles"] = torch.stack([cos, sin], 1).contiguous()


def rotate(t):
    t = t.view(L, H, D // H)
    a, b = t[..., : D // H // 2], t[..., D // H // 2:]
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1).transpose(0, 1)


def rms(t, w):
    return F.rms_norm(t, (D,), w, 1e-5)


h = P["embed"][ids]
n = rms(h, P["norm1"])
v = (n @ P["v"].T).view(L, H, D // H).transpose(0, 1)
a = F.scaled_dot_product_attention(rotate(n @ P["q"].T), rotate(n @ P["k"].T), v, is_causal=True)
h = h + a.transpose(0, 1).reshape(L, D) @ P["o"].T
n = rms(h, P["norm2"])
h = h + (F.silu(n @ P["gate"].T) * (n @ P["up"].T)) @ P["down"].T
put("llama", P, F.cross_entropy(rms(h, P["norm"]) @ P["embed"].T, target))  # a tied head
save_file({k: t.contiguous() for k, t in out.items()}, pathlib.Path(__file__).parent / "networks.safetensors")
