"""Accuracy of networks of MNIST, quantized by nibble and by optimum-quanto, before any tuning.

    python examples/mnist_train.py FOLDER_OF_IDX_FILES NETWORKS            trains them once
    python tests/interop/mnist.py FOLDER_OF_IDX_FILES NETWORKS [--markdown FILE]   from the root, after building

NETWORKS holds the folders mlp and cnn. Every type of weights with every type of activations; both sides
calibrate on the first 1000 training pictures in batches of 250 and are judged on the 10,000 of the test
set. Fails (1) when w8a8 or w4a8 loses more than 0.2 points by the best choice of codes that needs no tuning."""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict

warnings.filterwarnings("ignore")
import gzip

import numpy as np
import torch
from optimum.quanto import Calibration, freeze, qtypes, quantize, requantize, QTensor
from safetensors.torch import load_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
NIBBLE = pathlib.Path(os.environ.get("NIB_BUILD", ROOT / "build")) / "nibble"
WEIGHTS = ["qint8", "qint4", "qint2", "qfloat8_e4m3fn"]
ACTIVATIONS = ["none", "qint8", "qfloat8_e4m3fn"]
parser = argparse.ArgumentParser()
parser.add_argument("data", type=pathlib.Path)
parser.add_argument("networks", type=pathlib.Path)
parser.add_argument("--markdown")
options = parser.parse_args()


def idx(name):
    path = options.data / name
    if not path.exists():
        path = options.data / (name + ".gz")
    raw = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    shape = struct.unpack(f">{raw[3]}I", raw[4:4 + 4 * raw[3]])
    return path, np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def built(folder):
    """The network of a config.json in torch."""
    layers = OrderedDict()
    for row in json.loads((folder / "config.json").read_text())["layers"]:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k not in ("name", "type")}
        layers[row["name"]] = getattr(nn, row["type"])(**fields)
    return nn.Sequential(layers).eval()


def nibble(*words):
    done = subprocess.run([str(NIBBLE), *map(str, words), "--json", "-q"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


@torch.no_grad()
def right(net, x, y):
    hits = 0
    for i in range(0, len(x), 500):
        out = net(x[i:i + 500])
        hits += ((out.dequantize() if isinstance(out, QTensor) else out).argmax(1) == y[i:i + 500]).sum().item()
    return 100 * hits / len(x)


train_path, train = idx("train-images-idx3-ubyte")
test_path, test = idx("t10k-images-idx3-ubyte")
labels_path, labels = idx("t10k-labels-idx1-ubyte")
x, calibrating = (((torch.from_numpy(a.copy()).float()[:, None] / 255) - 0.1307) / 0.3081 for a in (test, train[:1000]))
y = torch.from_numpy(labels.copy()).long()
judge = ["--images", test_path, "--labels", labels_path]


def ours(folder, weights, act, algo, out):
    nibble("calibrate", folder, "--data", train_path, "--samples", 1000, "--weights", weights, "--activations", act,
           "-o", out, *(["--algo", algo] if algo else []))
    return 100 * nibble("eval", out, *judge)["acc"]


def theirs(folder, weights, act):
    net = built(folder)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    quantize(net, weights=qtypes[weights], activations=None if act == "none" else qtypes[act])
    if act != "none":
        with torch.no_grad(), Calibration():
            for i in range(0, 1000, 250):
                net(calibrating[i:i + 250])
    freeze(net)
    return right(net, x, y)


def loaded_there(folder, out):
    """Our folder, requantized by optimum-quanto."""
    net = built(folder)
    requantize(net, load_file(out / "model.safetensors"), json.loads((out / "quanto_qmap.json").read_text()))
    return right(net, x, y)


lines, bad = ["| network | weights | activations | codes by | nibble | lost | nibble's file in quanto | quanto itself |",
              "|---|---|---|---|---|---|---|---|"], []
for name in ("mlp", "cnn"):
    folder = options.networks / name
    plain = 100 * nibble("eval", folder, *judge)["acc"]
    net = built(folder)
    net.load_state_dict(load_file(folder / "model.safetensors"))
    lines.append(f"| {name} | f32 | | | {plain:.2f} | | | {right(net, x, y):.2f} |")
    print(lines[-1], flush=True)
    for weights in WEIGHTS:
        for act in ACTIVATIONS:
            best, upstream = 100.0, theirs(folder, weights, act)
            for algo in [None, "mse", "gptq"] if weights in ("qint4", "qint2") else [None]:
                with tempfile.TemporaryDirectory() as room:
                    out = pathlib.Path(room) / "out"
                    got = ours(folder, weights, act, algo, out)
                    there = loaded_there(folder, out)
                best = min(best, plain - got)
                usual = "max" if weights in ("qint4", "qint2") else "absmax"
                lines.append(f"| {name} | {weights} | {act} | {algo or usual} | {got:.2f} | {plain - got:+.2f} | "
                             f"{there:.2f} | {'' if algo else f'{upstream:.2f}'} |")
                print(lines[-1], flush=True)
            if act == "qint8" and weights in ("qint8", "qint4") and best > 0.2 + 1e-9:
                bad.append(f"{name} {weights} {act} loses {best:.2f} points")
print("\n".join(bad) if bad else "w8a8 and w4a8 lose at most 0.2 points")
if options.markdown:
    pathlib.Path(options.markdown).write_text("\n".join(lines) + "\n")
sys.exit(bool(bad))
