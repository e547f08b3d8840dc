"""Conv1d and Conv2d as torch calculates them, with every switch.

    python tests/golden/nn/make_conv.py      (torch as in ../versions.txt)

conv.safetensors: <case>.x, <case>.y, <case>.weight, <case>.bias (left out where there is none) and
for each case one line of metadata:
    <dims> <stride> <stride> <padding> <padding> <dilation> <dilation> <groups> <pad> <padding_mode>
"""
import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(4)
out, notes = {}, {}


def conv(name, shape, channels, size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1,
         bias=True, mode="zeros", dims=2, dtype=torch.float32):
    x = torch.randn(shape)
    make = torch.nn.Conv2d if dims == 2 else torch.nn.Conv1d
    one = lambda v: v if dims == 2 or isinstance(v, str) else v[0]
    m = make(x.shape[-dims - 1], channels, one(size), one(stride), one(padding), one(dilation),
             groups, bias, mode)
    state = {k: v.to(dtype) for k, v in m.state_dict().items()}
    m.load_state_dict(state)  # f32 values that the narrow dtype has
    with torch.no_grad():
        out[f"{name}.x"], out[f"{name}.y"] = x, m(x).contiguous()
    for key, value in state.items():
        out[f"{name}.{key}"] = value.contiguous()
    pad = padding if isinstance(padding, str) else "none"
    p = (0, 0) if isinstance(padding, str) else padding
    notes[name] = " ".join(map(str, (dims, *stride, *p, *dilation, groups, pad, mode)))


conv("plain", (2, 3, 7, 9), 5, (3, 3))
conv("no_bias", (1, 3, 7, 9), 5, (3, 3), bias=False)
conv("unbatched", (3, 7, 9), 4, (3, 2))
conv("stride", (2, 3, 8, 11), 4, (3, 3), stride=(2, 3))
conv("padding", (2, 3, 6, 5), 4, (3, 3), padding=(1, 2))
conv("dilation", (1, 3, 11, 12), 4, (3, 2), dilation=(2, 3))
conv("groups", (2, 6, 6, 7), 9, (3, 3), groups=3)
conv("depthwise", (1, 8, 9, 9), 16, (3, 3), padding=(1, 1), groups=8)
conv("all", (2, 4, 13, 12), 6, (3, 4), stride=(2, 3), padding=(2, 1), dilation=(2, 1), groups=2)
conv("point", (2, 5, 6, 6), 7, (1, 1))
conv("strided_point", (2, 5, 6, 6), 7, (1, 1), stride=(2, 2))
conv("whole_image", (3, 2, 4, 5), 6, (4, 5))
conv("same", (1, 3, 6, 7), 4, (3, 3), padding="same")
conv("same_even", (1, 3, 6, 7), 4, (2, 4), padding="same", dilation=(1, 2))
conv("valid", (1, 3, 6, 7), 4, (3, 3), padding="valid")
conv("reflect", (1, 3, 6, 7), 4, (3, 3), padding=(2, 1), mode="reflect")
conv("replicate", (1, 3, 6, 7), 4, (3, 3), padding=(2, 3), mode="replicate")
conv("circular", (1, 3, 6, 7), 4, (3, 3), padding=(2, 1), mode="circular")
conv("bf16", (1, 3, 6, 7), 4, (3, 3), dtype=torch.bfloat16)
conv("f16", (1, 3, 6, 7), 4, (3, 3), dtype=torch.float16)
conv("one_d", (2, 3, 20), 5, (3, 0), dims=1)
conv("one_d_all", (2, 4, 30), 6, (5, 0), stride=(2, 0), padding=(3, 0), dilation=(2, 0), groups=2, dims=1)
conv("one_d_same", (4, 15), 6, (4, 0), padding="same", dims=1)
conv("one_d_circular", (1, 4, 15), 6, (3, 0), padding=(2, 0), mode="circular", dims=1, bias=False)

save_file(out, pathlib.Path(__file__).parent / "conv.safetensors", metadata=notes)
