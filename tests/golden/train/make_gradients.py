"""Gradients of optimum-quanto's QLinear that is not frozen, against which tests/train compares.

    python tests/golden/train/make_gradients.py      (versions as in ../versions.txt)

gradients.safetensors: x, weight, bias, upstream (of the result), and for each pair of types
<weights>.<activations>.: input_scale, output_scale, y, dx, dweight, dbias. "mlp.": two such linears
with ReLU between and cross entropy: the loss and the gradient of each parameter.
"""
import pathlib

import torch
from optimum.quanto import Calibration, qfloat8_e4m3fn, qint4, qint8, quantize
from safetensors.torch import save_file

torch.manual_seed(12)
out = {}
M, N, K = 7, 12, 32
x = torch.rand(M, K) * 2 - 1
float_linear = torch.nn.Linear(K, N)
up = torch.randn(M, N)
out.update(x=x, weight=float_linear.weight.data.clone(), bias=float_linear.bias.data.clone(), upstream=up)

WEIGHTS = {"qint4": qint4, "qint8": qint8, "qfloat8_e4m3fn": qfloat8_e4m3fn}
ACTIVATIONS = {"none": None, "qint8": qint8, "qfloat8_e4m3fn": qfloat8_e4m3fn}


def floats(t):
    return t.dequantize() if hasattr(t, "dequantize") and type(t) is not torch.Tensor else t


for wname, w in WEIGHTS.items():
    for aname, a in ACTIVATIONS.items():
        linear = torch.nn.Linear(K, N)
        linear.load_state_dict(float_linear.state_dict())
        model = torch.nn.Sequential(linear)
        quantize(model, weights=w, activations=a)
        q = model[0]
        if a is not None:
            with torch.no_grad(), Calibration(streamline=False):
                model(x)
        given = x.clone().requires_grad_()
        y = model(given)
        floats(y).backward(up) if a is None else y.dequantize().backward(up)
        key = f"{wname}.{aname}."
        out[key + "input_scale"] = q.input_scale.reshape(1).clone()
        out[key + "output_scale"] = q.output_scale.reshape(1).clone()
        out[key + "y"] = floats(y).detach().clone()
        out[key + "dx"] = given.grad.clone()
        out[key + "dweight"] = q.weight.grad.clone()
        out[key + "dbias"] = q.bias.grad.clone()

torch.manual_seed(13)
mlp = torch.nn.Sequential(torch.nn.Linear(K, N), torch.nn.ReLU(), torch.nn.Linear(N, 5))
target = torch.randint(0, 5, (M,))
out["mlp.target"] = target.clone()
for key, value in mlp.state_dict().items():
    out["mlp." + key] = value.clone()
quantize(mlp, weights=qint8, activations=qint8)
with torch.no_grad(), Calibration(streamline=False):
    mlp(x)
for i in (0, 2):
    out[f"mlp.{i}.input_scale"] = mlp[i].input_scale.reshape(1).clone()
    out[f"mlp.{i}.output_scale"] = mlp[i].output_scale.reshape(1).clone()
loss = torch.nn.functional.cross_entropy(mlp(x).dequantize(), target)
loss.backward()
out["mlp.loss"] = loss.detach().reshape(1)
for key, p in mlp.named_parameters():
    out[f"mlp.d.{key}"] = p.grad.clone()
save_file({k: v.contiguous() for k, v in out.items()}, pathlib.Path(__file__).parent / "gradients.safetensors")
