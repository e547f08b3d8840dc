"""A small network of torch as its state dict, and what it makes of one input.

    python tests/golden/nn/make_state.py      (torch as in ../versions.txt)

state.pt, state.safetensors: the state dict (f32, an i64 counter); state_f16.pt: the same after half();
state_io.safetensors: x, y.
"""
import pathlib
from collections import OrderedDict

import torch
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(12)
here = pathlib.Path(__file__).parent
net = nn.Sequential(OrderedDict(
    conv=nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False), bn=nn.BatchNorm2d(4), act=nn.SiLU(),
    flatten=nn.Flatten(), block=nn.Sequential(nn.Linear(36, 8), nn.LayerNorm(8), nn.Linear(8, 3))))
x = torch.randn(5, 2, 5, 6)
net.train()
net(x + 1)
net.eval()
with torch.no_grad():
    save_file({"x": x, "y": net(x)}, here / "state_io.safetensors")
save_file(net.state_dict(), here / "state.safetensors")
torch.save(net.state_dict(), here / "state.pt")
torch.save(net.half().state_dict(), here / "state_f16.pt")
for path in here.glob("state*"):
    path.chmod(0o644)
