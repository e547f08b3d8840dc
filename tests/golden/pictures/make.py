"""Drawn digits as MNIST's files have them, two small networks that tell digits, and what torch makes of them.

    python tests/golden/pictures/make.py FOLDER_OF_MNISTS_IDX_FILES      (versions as in ../versions.txt)

The networks were trained on MNIST and on drawn digits together, so that tests can ask about the real test
set where it is at hand and about these files where it is not. expected.json holds how many of each are
told right by torch, and by optimum-quanto at w8a8; logits.safetensors the logits of the first drawn
digits. arrays.npz has two arrays of pictures, ids.npz one array of token ids.
"""
import gzip
import json
import pathlib
import struct
import sys
from collections import OrderedDict

import numpy as np
import torch
from optimum.quanto import Calibration, freeze, qint8, quantize
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent
folder = pathlib.Path(sys.argv[1])
torch.manual_seed(3)
torch.set_num_threads(1)
rng = np.random.default_rng(3)
# lines of the digits on a grid of 2 x 1, (x, y) to (x, y)
LINES = {"a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2),
         "f": (0, 0, 0, 1), "g": (0, 1, 1, 1)}
DIGITS = ["abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg"]


def draw(digit):
    picture = np.zeros((28, 28), np.float64)
    width, height = rng.uniform(7, 11), rng.uniform(7.5, 9.5)
    left, top, slant = rng.uniform(7, 10), rng.uniform(3, 6), rng.uniform(-0.15, 0.25)
    y, x = np.mgrid[0:28, 0:28]
    for line in DIGITS[digit]:
        x0, y0, x1, y1 = LINES[line]
        y0, y1 = top + y0 * height, top + y1 * height
        x0, x1 = left + x0 * width - slant * (y0 - 14), left + x1 * width - slant * (y1 - 14)
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
        far = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        picture = np.maximum(picture, np.clip(1.9 - far, 0, 1))
    return (picture * 255).astype(np.uint8)


def drawn(count):
    labels = rng.integers(0, 10, count).astype(np.uint8)
    return np.stack([draw(d) for d in labels]), labels


def read(name, skip):
    with gzip.open(folder / (name + ".gz")) as f:
        return np.frombuffer(f.read(), np.uint8, offset=skip)


def mnist(part):
    return read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 28, 28), read(f"{part}-labels-idx1-ubyte", 8)


def tensors(images, labels):
    x = (torch.from_numpy(images.copy()).float()[:, None] / 255 - 0.1307) / 0.3081
    return x, torch.from_numpy(labels.copy()).long()


def write_idx(name, array):
    with gzip.GzipFile(HERE / name, "wb", mtime=0) as f:
        f.write(struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape))
        f.write(array.tobytes())


NETWORKS = {
    "mlp": (nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc1=nn.Linear(784, 32), act=nn.ReLU(),
                                      fc2=nn.Linear(32, 10))), 8),
    "cnn": (nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), bn1=nn.BatchNorm2d(8), act1=nn.ReLU(),
        pool1=nn.MaxPool2d(2), conv2=nn.Conv2d(8, 16, (3, 3), padding="same", groups=2), act2=nn.GELU(),
        pool2=nn.AvgPool2d(3, 2, 1), flatten=nn.Flatten(), drop=nn.Dropout(0.1), norm=nn.LayerNorm(256),
        fc=nn.Linear(256, 10))), 8),
}
FIELDS = {nn.Linear: "in_features out_features", nn.BatchNorm2d: "num_features eps", nn.Dropout: "p",
          nn.Conv2d: "in_channels out_channels kernel_size stride padding dilation groups padding_mode",
          nn.MaxPool2d: "kernel_size", nn.AvgPool2d: "kernel_size stride padding count_include_pad",
          nn.LayerNorm: "normalized_shape eps"}


def config_of(net):
    layers = []
    for name, layer in net.named_children():
        row = {"name": name, "type": type(layer).__name__}
        row |= {f: getattr(layer, f) for f in FIELDS.get(type(layer), "").split()}
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            row["bias"] = layer.bias is not None
        layers.append(row)
    return {"architectures": ["Sequential"], "model_type": "sequential", "num_labels": 10, "num_channels": 1,
            "image_size": [28, 28], "image_mean": [0.1307], "image_std": [0.3081], "dtype": "float16",
            "layers": layers}


@torch.no_grad()
def right(net, x, y):
    return sum((net(x[i:i + 500]).argmax(1) == y[i:i + 500]).sum().item() for i in range(0, len(x), 500))


def main():
    images, labels = drawn(100)
    write_idx("images-idx3-ubyte.gz", images)
    write_idx("labels-idx1-ubyte.gz", labels)
    np.savez_compressed(HERE / "arrays.npz", pixel_values=images[:6, None], labels=labels[:6].astype(np.int64))
    np.savez(HERE / "ids.npz", tokens=np.arange(40, dtype=np.uint16).reshape(4, 10))
    test = {"drawn": tensors(images, labels), "mnist": tensors(*mnist("t10k"))}
    x, y = tensors(*mnist("train"))
    more_x, more_y = tensors(*drawn(4000))
    x, y = torch.cat([x, more_x]), torch.cat([y, more_y])
    expected, logits = {}, {}
    for name, (net, epochs) in NETWORKS.items():
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, epochs)
        net.train()
        for _ in range(epochs):
            order = torch.randperm(len(x))
            for i in range(0, len(x), 128):
                at = order[i:i + 128]
                loss = nn.functional.cross_entropy(net(x[at]), y[at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        net.eval()
        net.half().float()                      # what the file holds
        (HERE / name).mkdir(exist_ok=True)
        state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        save_file(state, HERE / name / "model.safetensors", {"format": "pt"})
        (HERE / name / "config.json").write_text(json.dumps(config_of(net), indent=1) + "\n")
        with torch.no_grad():
            logits[name] = net(test["drawn"][0][:16]).contiguous()
        expected[name] = {t: right(net, *test[t]) for t in test}
        quantize(net, weights=qint8, activations=qint8)
        with Calibration(streamline=False):
            with torch.no_grad():
                net(test["drawn"][0])
                net(x[:128])
        freeze(net)
        expected[name] |= {t + "_w8a8": right(net, *test[t]) for t in test}
        print(name, expected[name], flush=True)
    save_file(logits, HERE / "logits.safetensors")
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
