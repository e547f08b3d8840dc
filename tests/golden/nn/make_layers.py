"""Norms, activations, pooling and attention as torch calculates them, with every switch.

    python tests/golden/nn/make_layers.py      (torch as in ../versions.txt)

layers.safetensors: <case>.x (attention: .query, .key, .value, .key_padding_mask, .attn_mask), <case>.y,
<case>.state.<name>, after training steps <case>.after.<name>; metadata: for each case "<kind> <numbers>".
"""
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(9)
out, notes = {}, {}
nn = torch.nn


def case(name, note, module, x, train=0):
    """train: so many training steps with x, x + 1, ... ; y is then what the last one gives."""
    for p in module.parameters():
        p.data = torch.randn_like(p)
    for key, b in module.named_buffers():
        if b.dtype == torch.float32:
            b.data = torch.rand_like(b) + 0.5
    for key, value in module.state_dict().items():
        out[f"{name}.state.{key}"] = value.clone()
    module.train(train > 0)
    with torch.no_grad():
        for i in range(max(train, 1)):
            y = module(x + i)
    out[f"{name}.x"], out[f"{name}.y"] = x, y.contiguous().clone()
    if train:
        for key, value in module.named_buffers():
            out[f"{name}.after.{key}"] = value.clone()
    notes[name] = note


x4 = torch.randn(2, 6, 4, 5)
# kind, train steps, eps, momentum, cumulative
case("bn2d_eval", "bn2d 0 1e-5 0.1 0", nn.BatchNorm2d(6), x4)
case("bn2d_train", "bn2d 3 1e-5 0.1 0", nn.BatchNorm2d(6), x4 * 3 + 1, train=3)
case("bn2d_momentum", "bn2d 2 0.01 0.4 0", nn.BatchNorm2d(6, eps=0.01, momentum=0.4), x4, train=2)
case("bn2d_cumulative", "bn2d 3 1e-5 0.1 1", nn.BatchNorm2d(6, momentum=None), x4, train=3)
case("bn2d_plain", "bn2d 0 1e-5 0.1 0", nn.BatchNorm2d(6, affine=False), x4)
case("bn2d_no_running", "bn2d 0 1e-5 0.1 0", nn.BatchNorm2d(6, track_running_stats=False), x4)
case("bn1d_eval", "bn1d 0 1e-5 0.1 0", nn.BatchNorm1d(6), torch.randn(4, 6))
case("bn1d_train", "bn1d 2 1e-5 0.1 0", nn.BatchNorm1d(6), torch.randn(4, 6, 9), train=2)
case("gn", "gn 3 1e-5", nn.GroupNorm(3, 6), x4)
case("gn_eps", "gn 1 0.5", nn.GroupNorm(1, 6, eps=0.5), x4)
case("gn_each", "gn 6 1e-5", nn.GroupNorm(6, 6), torch.randn(2, 6, 33))
case("gn_plain", "gn 2 1e-5", nn.GroupNorm(2, 6, affine=False), x4)

line = torch.cat([torch.linspace(-8, 8, 101), torch.tensor([0.0, -0.0, float("nan"), 40.0, -40.0])])
case("relu", "relu", nn.ReLU(), line)
case("relu6", "relu6", nn.ReLU6(), line)
case("hardtanh", "hardtanh -2 3", nn.Hardtanh(-2, 3), line)
case("leaky_relu", "leaky_relu 0.3", nn.LeakyReLU(0.3), line)
case("elu", "elu 1.5", nn.ELU(1.5), line)
case("gelu", "gelu 0", nn.GELU(), line)
case("gelu_tanh", "gelu 1", nn.GELU(approximate="tanh"), line)
case("silu", "silu", nn.SiLU(), line)
case("tanh", "tanh", nn.Tanh(), line)
case("sigmoid", "sigmoid", nn.Sigmoid(), line)
case("hardswish", "hardswish", nn.Hardswish(), line)
case("hardsigmoid", "hardsigmoid", nn.Hardsigmoid(), line)
for dim in (-1, 0, 1, 2):
    case(f"softmax_{dim}", f"softmax {dim}", nn.Softmax(dim), x4 * 4)
case("flatten", "flatten 1 -1", nn.Flatten(), x4)
case("flatten_some", "flatten -3 2", nn.Flatten(-3, 2), x4)
case("identity", "identity", nn.Identity(), x4)
case("dropout_eval", "dropout 0.5", nn.Dropout(0.5), x4)

# kernel, stride, padding, dilation (two each), ceil, divisor, padding left out
image = torch.randn(2, 2, 11, 13)


def pool(name, k, s=(0, 0), p=(0, 0), d=(1, 1), ceil=0, divisor=0, left_out=0, x=image, kind="max"):
    args = dict(stride=[a or b for a, b in zip(s, k)], padding=p, ceil_mode=bool(ceil))
    if kind == "max":
        m = nn.MaxPool2d(k, dilation=d, **args)
    else:
        m = nn.AvgPool2d(k, count_include_pad=not left_out, divisor_override=divisor or None, **args)
    case(name, " ".join(map(str, (kind, *k, *s, *p, *d, ceil, divisor, left_out))), m, x)


for kind in ("max", "avg"):
    pool(f"{kind}_plain", (2, 2), kind=kind)
    pool(f"{kind}_stride", (3, 2), (1, 3), kind=kind)
    pool(f"{kind}_padding", (3, 4), (2, 2), (1, 2), kind=kind)
    pool(f"{kind}_ceil", (3, 3), (2, 2), (1, 1), ceil=1, kind=kind)
    pool(f"{kind}_ceil_far", (2, 2), (3, 5), (1, 1), ceil=1, kind=kind)
    pool(f"{kind}_unbatched", (2, 3), x=image[0].contiguous(), kind=kind)
pool("max_dilation", (3, 2), (2, 1), (1, 1), (2, 3))
bad = image.clone()
bad[0, 0, 4, 5] = float("nan")
bad[0, 1, 2, 2] = float("inf")
pool("max_nan", (3, 3), (1, 1), (1, 1), x=bad)
pool("avg_left_out", (3, 3), (2, 2), (1, 1), left_out=1, ceil=1, kind="avg")
pool("avg_divisor", (3, 3), (2, 2), (1, 1), divisor=5, kind="avg")
for size in ((1, 1), (4, 5), (11, 13), (13, 20)):
    case("adaptive_%d_%d" % size, "adaptive %d %d" % size, nn.AdaptiveAvgPool2d(size), image)
case("adaptive_rows", "adaptive 3 0", nn.AdaptiveAvgPool2d((3, None)), image)


# heads, batch_first, add_zero_attn, is_causal
def attention(name, E, heads, q, k=None, v=None, padding=None, mask=None, batch_first=False, zero=False,
              causal=False, bias=True, bias_kv=False, kdim=None, vdim=None):
    m = nn.MultiheadAttention(E, heads, 0.0, bias, bias_kv, zero, kdim, vdim, batch_first).eval()
    for p in m.parameters():
        p.data = torch.randn_like(p) / E**0.5
    k = q if k is None else k
    v = k if v is None else v
    if causal:
        mask = nn.Transformer.generate_square_subsequent_mask(q.shape[1 if batch_first else 0])
    with torch.no_grad():
        y = m(q, k, v, padding, need_weights=False, attn_mask=mask)[0]
    for key, value in m.state_dict().items():
        out[f"{name}.state.{key}"] = value
    out[f"{name}.query"], out[f"{name}.y"] = q, y.contiguous()
    if k is not q:
        out[f"{name}.key"] = k
    if v is not k:
        out[f"{name}.value"] = v
    if padding is not None:
        out[f"{name}.key_padding_mask"] = padding
    if mask is not None and not causal:
        out[f"{name}.attn_mask"] = mask
    notes[name] = f"attention {heads} {int(batch_first)} {int(zero)} {int(causal)}"


q, k, v = torch.randn(7, 2, 12), torch.randn(19, 2, 12), torch.randn(19, 2, 12)
lost = torch.zeros(2, 19, dtype=torch.bool)
lost[0, 12:] = True
lost[1, :3] = True
part = torch.rand(7, 19) < 0.3
attention("mha_self", 12, 3, q)
attention("mha_cross", 12, 4, q, k, v)
attention("mha_key_is_value", 12, 4, q, k)
attention("mha_batch_first", 12, 4, q.transpose(0, 1).contiguous(), k.transpose(0, 1).contiguous(),
          v.transpose(0, 1).contiguous(), batch_first=True)
attention("mha_unbatched", 12, 2, q[:, 0].contiguous(), k[:, 0].contiguous())
attention("mha_no_bias", 12, 3, q, bias=False)
attention("mha_causal", 12, 3, torch.randn(70, 1, 12), causal=True)
attention("mha_padding", 12, 3, q, k, v, padding=lost)
attention("mha_mask", 12, 3, q, k, v, mask=part)
attention("mha_mask_float", 12, 3, q, k, v, mask=torch.randn(7, 19))
attention("mha_mask_each", 12, 3, q, k, v, mask=torch.randn(6, 7, 19), padding=lost.float() * -1e9)
attention("mha_zero", 12, 3, q, k, v, zero=True, padding=lost)
attention("mha_bias_kv", 12, 3, q, k, v, bias_kv=True, mask=part, zero=True)
attention("mha_widths", 12, 3, q, torch.randn(9, 2, 10), torch.randn(9, 2, 7), kdim=10, vdim=7)

path = pathlib.Path(__file__).parent / "layers.safetensors"
save_file({k: v.clone() for k, v in out.items()}, path, metadata=notes)
path.chmod(0o644)
