"""Golden files of optimum-quanto's workflow: quantize, calibrate, freeze, on a CPU.

    python tests/golden/quanto/make_workflow.py

writes next to itself
    calibrate.safetensors   what one QLinear met and which scales that gave, batch by batch:
        "<dtype>.<activations>.<momentum>.x<i>", ".y<i>"      what came in, the float output
        ".input<i>", ".output<i>"     scales after the batch, as Calibration(momentum) leaves them
        ".honoured<i>"                the input's scale where the momentum counts for inputs too
        ".qx<i>", ".qy<i>"            codes of both with those scales
    mlp.safetensors         a network fc1 - relu - fc2 - relu - fc3 in f32 (head excluded or not):
        "float.<name>", "batch<i>", "x"                       weights, data, what is run at last
        "<weights>.<activations>.<streamline>.<key>"          state_dict() after freeze()
        "<weights>.<activations>.<streamline>.y"              of the frozen network, for x
    codes.safetensors       what ops make of quantized activations, "<activations>.<op>.q" and ".scale"
        where the result is quantized, ".y" where it is float or bool; "a", "b" with scales "sa", "sb".
        The metadata lists what upstream refused or got wrong.
    conv.safetensors        Conv2d: float weights, batch, x; "<weights>.<activations>.<key>" and ".y"
"""

import pathlib
import warnings

warnings.filterwarnings("ignore")
import torch
from optimum.quanto import Calibration, QLinear, freeze, qtypes, quantize
from optimum.quanto.calibrate import _updated_scale, absmax_scale
from optimum.quanto.tensor import ActivationQBytesTensor, QTensor
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ACTIVATIONS = ["qint8", "qfloat8_e4m3fn", "qfloat8_e5m2", "qfloat8_e4m3fnuz"]
BATCHES = 4


def calibration():
    torch.manual_seed(5)
    out = {}
    for name, dtype in DTYPES.items():
        for act in ACTIVATIONS:
            for momentum in (0.9, 0.35):
                if act in ("qfloat8_e5m2", "qfloat8_e4m3fnuz") and momentum != 0.9:
                    continue
                key = f"{name}.{act}.{momentum}"
                linear = torch.nn.Linear(8, 6, dtype=dtype)
                q = QLinear.from_module(linear, weights=qtypes["qint8"], activations=qtypes[act])
                honoured = None
                for i in range(BATCHES):
                    x = (torch.randn(3, 8) * (1.0 + i) * (40 if act != "qint8" else 1)).to(dtype)
                    with Calibration(momentum=momentum, streamline=False):
                        y = q(x)
                    # the float output, as the hook of Calibration saw it
                    qx = ActivationQBytesTensor.quantize(x, qtypes[act], q.input_scale)
                    with torch.no_grad():
                        yf = torch.nn.functional.linear(qx, q.qweight, q.bias)
                    fresh = absmax_scale(x, qtypes[act])
                    honoured = fresh if honoured is None else _updated_scale(honoured, fresh, momentum)
                    out[f"{key}.x{i}"] = x
                    out[f"{key}.y{i}"] = yf.detach().contiguous()
                    out[f"{key}.input{i}"] = q.input_scale.clone()
                    out[f"{key}.output{i}"] = q.output_scale.detach().clone()
                    out[f"{key}.honoured{i}"] = honoured.clone()
                    raw = lambda t: t._data.contiguous().view(torch.int8)
                    out[f"{key}.qx{i}"] = raw(qx)
                    qy = ActivationQBytesTensor.quantize(yf.detach(), qtypes[act], q.output_scale)
                    assert torch.equal(raw(qy), raw(y.detach())), "the output seen is not the one quantized"
                    out[f"{key}.qy{i}"] = raw(qy)
    save_file(out, HERE / "calibrate.safetensors")


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(32, 48)
        self.fc2 = torch.nn.Linear(48, 40, bias=False)
        self.fc3 = torch.nn.Linear(40, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def mlp():
    torch.manual_seed(7)
    model = MLP()
    state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    batches = [torch.rand(5, 32) * 2 - 1 for _ in range(3)]
    x = torch.rand(4, 32) * 2 - 1
    out = {f"float.{k}": v for k, v in state.items()}
    out |= {f"batch{i}": b for i, b in enumerate(batches)} | {"x": x}
    for weights in ("qint8", "qint4", "qint2", "qfloat8_e4m3fn"):
        for act in ("qint8", "qfloat8_e4m3fn"):
            for streamline in (False, True):
                m = MLP()
                m.load_state_dict(state)
                quantize(m, weights=qtypes[weights], activations=qtypes[act])
                with torch.no_grad(), Calibration(momentum=0.8, streamline=streamline):
                    for b in batches:
                        m(b)
                freeze(m)
                key = f"{weights}.{act}.{'on' if streamline else 'off'}"
                with torch.no_grad():
                    y = m(x)
                if isinstance(y, QTensor):
                    y = y.dequantize()
                out[f"{key}.y"] = y
                if streamline and weights != "qint8":
                    for k, v in m.state_dict().items():
                        if k.endswith("_scale") and "weight" not in k:
                            out[f"{key}.{k}"] = v
                else:
                    for k, v in m.state_dict().items():
                        out[f"{key}.{k}"] = v.contiguous()
    save_file(out, HERE / "mlp.safetensors")


def codes():
    torch.manual_seed(9)
    out = {"a": torch.randn(4, 6, 8), "b": torch.randn(4, 6, 8), "w": torch.randn(5, 8) * 0.3}
    wide = {"qint8": 1.0, "qfloat8_e4m3fn": 0.3, "qfloat8_e5m2": 0.002, "qfloat8_e4m3fnuz": 0.5}
    out["condition"], out["other"] = torch.rand(6, 1) < 0.5, torch.randn(8)
    a, b, condition, other = (out[k] for k in ("a", "b", "condition", "other"))
    refused = {}
    for act in ACTIVATIONS:
        q = qtypes[act]
        sa, sb = absmax_scale(a, q), absmax_scale(b, q) * wide[act]
        out[f"{act}.sa"], out[f"{act}.sb"] = sa, sb
        make = lambda t, s: ActivationQBytesTensor.quantize(t, q, s)
        qa, qb, same = make(a, sa), make(b, sb), make(b, sa)
        from optimum.quanto.tensor import WeightQBytesTensor, AbsmaxOptimizer, quantize_weight
        w = quantize_weight(out["w"], qtypes["qint8"], 0, AbsmaxOptimizer()(out["w"], qtypes["qint8"], 0))
        pieces = lambda size, dim, i: lambda: torch.split(qa, size, dim)[i]
        results = {
            "bmm": lambda: torch.bmm(qa, qb.transpose(1, 2)),
            "bmm_left": lambda: torch.bmm(qa, b.transpose(1, 2)), "bmm_right": lambda: torch.bmm(a, qb.transpose(1, 2)),
            "mm": lambda: torch.mm(qa.view(24, 8), qb.view(24, 8).t()),
            "matmul": lambda: torch.matmul(qa.view(2, 2, 6, 8), qb.view(2, 2, 6, 8).transpose(2, 3)),
            "matmul_rows": lambda: torch.matmul(qa, qb.view(24, 8).t()),
            "lt_same": lambda: qa < same, "lt_other": lambda: qa < qb,
            "where": lambda: torch.where(condition, qa, other), "where_one": lambda: torch.where(condition, qa, torch.tensor(-2.0)),
            "where_codes": lambda: torch.where(condition, qa, qb),
            "stack_same": lambda: torch.stack([qa, same]), "stack_last": lambda: torch.stack([qa, same], -1),
            "stack_other": lambda: torch.stack([qa, qb]), "stack_three": lambda: torch.stack([qa, same, qa]),
            "expand": lambda: qa[1:2].expand(3, 6, 8), "expand_front": lambda: qa.expand(2, 4, 6, 8),
            "split_0": pieces(4, 1, 0), "split_1": pieces(4, 1, 1), "split_rows_2": pieces(1, 0, 2),
            "cat_last": lambda: torch.cat([qa, same], -1), "unsqueeze": lambda: qa.unsqueeze(1),
            "transpose": lambda: qa.transpose(1, 2),
        }
        made = {}
        for op, call in results.items():
            try:
                made[op] = call()
            except (RuntimeError, TypeError, NotImplementedError) as error:
                refused[f"{act}.{op}"] = f"{type(error).__name__} {error}".splitlines()[0][:90]
        results = made | {
            "relu": torch.relu(qa), "neg": -qa, "cat_same": torch.cat([qa, same]),
            "cat_other": torch.cat([qa, qb]), "mul": qa * torch.tensor(0.7), "mul_left": torch.tensor(0.7) * qa,
            "div": qa / torch.tensor(3.0), "mul_tensor": qa * qb, "permute": qa.permute(2, 0, 1),
            "softmax": torch.softmax(qa, -1), "view": qa.view(24, 8), "rows": qa[1:3], "add": qa + qb,
            "gelu": torch.nn.functional.gelu(qa), "silu": torch.nn.functional.silu(qa),
            "layer_norm": torch.nn.functional.layer_norm(qa, (8,)),
            "linear": torch.nn.functional.linear(qa, w), "dequantize": qa.dequantize(),
        }
        for op, y in results.items():
            if isinstance(y, QTensor):
                out[f"{act}.{op}.q"] = y._data.contiguous().view(torch.int8)
                out[f"{act}.{op}.scale"] = y._scale.clone()
            else:
                out[f"{act}.{op}.y"] = y.contiguous()
    save_file({k: v.detach().contiguous().clone() for k, v in out.items()}, HERE / "codes.safetensors", refused)


def conv():
    torch.manual_seed(10)
    base = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1))
    state = {k: v.detach().clone() for k, v in base.state_dict().items()}
    batch, x = torch.randn(2, 4, 5, 5), torch.randn(1, 4, 5, 5)
    out = {"float.weight": state["0.weight"], "float.bias": state["0.bias"], "batch": batch, "x": x}
    for weights in ("qint8", "qint4", "qint2", "qfloat8_e4m3fn"):
        for act in ("none", "qint8"):
            m = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1))
            m.load_state_dict(state)
            quantize(m, weights=qtypes[weights], activations=None if act == "none" else qtypes[act])
            if act != "none":
                with torch.no_grad(), Calibration(streamline=False):
                    m(batch)
            freeze(m)
            with torch.no_grad():
                y = m(x)
            key = f"{weights}.{act}"
            out[f"{key}.y"] = y.dequantize() if isinstance(y, QTensor) else y
            for k, v in m.state_dict().items():
                out[f"{key}.{k[2:]}"] = v.contiguous()
    save_file(out, HERE / "conv.safetensors")


if __name__ == "__main__":
    codes()
    conv()
    calibration()
    mlp()
