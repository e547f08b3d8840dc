"""quanto's workflow beside the real library: quantize, calibrate, freeze, save, requantize.

    python tests/interop/quanto_workflow.py [--only linear|conv2d] [--markdown FILE]   from the root, after building

Two networks with seeded weights, for each type of weights, dtype and type of activations: Linear -
LayerNorm - relu - Linear, and Conv2d - relu - Conv2d - LayerNorm - Linear, whose second convolution has
grouped scales at 4 and 2 bits. Both sides quantize, calibrate with the same batches and freeze; then
  weights   the parts in both files are equal to the byte
  scales    of inputs and outputs: within 1e-4 (f32), within the roundings of the dtype (f16, bf16)
  theirs    optimum-quanto's file, loaded and run by nibble, against its own result
  ours      nibble's file, loaded and run by optimum-quanto, against nibble's result
Results are compared by the largest difference over the largest value. Codes of activations flip at a
tie when a sum is rounded in another order, so the bound with activations is some steps of a code; f16
and bf16 networks round each step there and compute in f32 here.
Then "outputs": false in a map is shown to be passed over by optimum-quanto. Leaves with 1 on failure."""
import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
import numpy as np
import torch
from optimum.quanto import Calibration, QTensor, freeze, qtypes, quantization_map, quantize, requantize
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("NIB_BUILD", ROOT / "build")) / "tests" / "quanto_tree"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
WEIGHTS = ["qint2", "qint4", "qint8", "qfloat8_e4m3fn", "qfloat8_e5m2"]
ACTIVATIONS = ["none", "qint8", "qfloat8_e4m3fn"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(256, 48)
        self.norm = torch.nn.LayerNorm(48)
        self.fc2 = torch.nn.Linear(48, 16)

    def forward(self, x):
        return self.fc2(torch.relu(self.norm(self.fc1(x))))


class ConvNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(32, 16, 3, stride=2, padding=1)
        self.norm = torch.nn.LayerNorm(576)
        self.fc2 = torch.nn.Linear(576, 16)

    def forward(self, x):
        return self.fc2(self.norm(self.conv2(torch.relu(self.conv1(x))).flatten(1)))


NETS = {"linear": (Net, (256,)), "conv2d": (ConvNet, (3, 12, 12))}


def run(model, x):
    with torch.no_grad():
        y = model(x)
    return (y.dequantize() if isinstance(y, QTensor) else y).float().numpy()


def tool(*words):
    done = subprocess.run([str(TOOL), *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def ours(folder, data, dtype, out):
    tool("run", folder, data, dtype, out)
    return np.fromfile(out, np.float32).reshape(-1, 16)


def far(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def case(folder, net, weights, act, dtype):
    torch.manual_seed(11)
    T = DTYPES[dtype]
    make, shape = NETS[net]
    base = make()
    with torch.no_grad():
        base.norm.weight.uniform_(0.5, 1.5)
        base.norm.bias.uniform_(-0.2, 0.2)
    base = base.to(T)
    state = {k: v.clone() for k, v in base.state_dict().items()}
    batches = [torch.randn(7, *shape) for _ in range(3)]
    x = torch.randn(5, *shape)
    save_file(state, folder / "float.safetensors")
    # the tool computes in f32 from what the network would see
    data = {f"batch{i}": b.to(T).float() for i, b in enumerate(batches)} | {"x": x.to(T).float()}
    save_file(data, folder / "data.safetensors")
    theirs = folder / "theirs"
    mine = folder / "mine"
    theirs.mkdir()
    mine.mkdir()
    quantize(base, weights=qtypes[weights], activations=None if act == "none" else qtypes[act])
    if act != "none":
        with torch.no_grad(), Calibration(momentum=0.9, streamline=False):
            for b in batches:
                base(b.to(T))
    freeze(base)
    save_file(base.state_dict(), theirs / "model.safetensors", {"format": "pt"})
    (theirs / "quanto_qmap.json").write_text(json.dumps(quantization_map(base)))
    y = run(base, x.to(T))

    scheme = f"quanto:weights={weights},activations={act},streamline=off,calibration=upstream"
    tool("make", folder / "float.safetensors", folder / "data.safetensors", scheme, mine)
    a, b = load_file(theirs / "model.safetensors"), load_file(mine / "model.safetensors")
    assert set(a) == set(b), f"keys: {set(a) ^ set(b)}"
    scale = 0.0
    for k in a:
        assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape, k
        if k.endswith("put_scale"):
            differs = abs(float(a[k]) - float(b[k])) / float(a[k])
            scale = max(scale, differs)
            if k == "conv1.output_scale" and dtype == "f32":  # of a sum that no code was in yet
                assert differs <= 1e-6, f"{k} differs by {differs:.2g}"
        else:
            assert torch.equal(a[k].contiguous().flatten().view(torch.uint8),
                               b[k].contiguous().flatten().view(torch.uint8)), f"bytes of {k}"
    # In f16 and bf16, and where a code of 8-bit floats is a sixteenth, codes flip that scales follow.
    limit = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}[dtype]
    limit += {"none": 0, "qint8": 0 if dtype == "f32" else 0.01, "qfloat8_e4m3fn": 0.07}[act]
    if net == "conv2d" and act == "qint8" and dtype == "f32":
        limit = 1e-3  # 32,256 codes behind the first convolution, some at a tie: one step moves the next sums
    broken = dtype == "f16" and weights == "qfloat8_e5m2" and act != "none"
    if broken:  # upstream's product of two scales underflows in f16: docs/differences.md
        return scale, float("nan"), float("nan")
    assert scale <= limit, f"scales differ by {scale:.2g}"
    qmap = json.loads((mine / "quanto_qmap.json").read_text())
    assert qmap == json.loads((theirs / "quanto_qmap.json").read_text()), "maps differ"

    z = ours(theirs, folder / "data.safetensors", dtype, folder / "y.bin")
    model = make().to(T)
    # clone: torch's product of bf16 with int8 crashes where a tensor does not begin at a multiple of 16
    requantize(model, {k: v.clone() for k, v in load_file(mine / "model.safetensors").items()}, qmap)
    y2 = run(model, x.to(T))
    z2 = ours(mine, folder / "data.safetensors", dtype, folder / "y.bin")
    # steps of codes: of what goes out, and those that flips before it move
    step = {"none": 0, "qint8": 2 / 127, "qfloat8_e4m3fn": 2 / 16}[act]
    bound = {"f32": 1e-5, "f16": 1e-2, "bf16": 6e-2}[dtype] + step
    distance = far(z, y), far(z2, y2)
    assert max(distance) <= bound, f"results differ by {max(distance):.2g}, over {bound:.2g}"
    return scale, *distance


def outputs_are_passed_over(folder):
    torch.manual_seed(12)
    model = Net()
    save_file(model.state_dict(), folder / "float.safetensors")
    save_file({"batch0": torch.randn(4, 256), "x": torch.randn(4, 256)}, folder / "data.safetensors")
    (folder / "out").mkdir()
    tool("make", folder / "float.safetensors", folder / "data.safetensors",
         "quanto:weights=qint8,activations=qint8", folder / "out")
    qmap = json.loads((folder / "out" / "quanto_qmap.json").read_text())
    assert qmap["fc2"].get("outputs") is False, "nobody takes what fc2 gives"
    plain = {k: {n: v for n, v in e.items() if n != "outputs"} for k, e in qmap.items()}
    state = load_file(folder / "out" / "model.safetensors")
    a, b = Net(), Net()
    requantize(a, state, qmap)
    requantize(b, state, plain)
    x = torch.randn(3, 256)
    assert np.array_equal(run(a, x), run(b, x)), "the word changed what upstream computes"
    assert quantization_map(a) == plain


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown")
    parser.add_argument("--only", choices=list(NETS))
    options = parser.parse_args()
    lines, bad = [], 0
    for net, dtype, weights in itertools.product(NETS, DTYPES, WEIGHTS):
        if options.only in (None, net):
            for act in ACTIVATIONS:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        s, a, b = case(pathlib.Path(folder), net, weights, act, dtype)
                        text = f"{s:.1e} | {a:.1e} | {b:.1e} | yes"
                    except Exception as error:
                        bad += 1
                        text = f"| | | NO: {str(error)[:100]}"
                line = f"| {net} | {dtype} | {weights} | {act} | {text} |"
                print(line, flush=True)
                lines.append(line)
    with tempfile.TemporaryDirectory() as folder:
        outputs_are_passed_over(pathlib.Path(folder))
        print('"outputs": false is passed over by optimum-quanto')
    print(f"{len(lines) - bad} of {len(lines)} cases")
    if options.markdown:
        head = ["| network | dtype | weights | activations | scales differ by | theirs run here | ours run there | weights equal |",
                "|---|---|---|---|---|---|---|---|"]
        pathlib.Path(options.markdown).write_text("\n".join(head + lines) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
