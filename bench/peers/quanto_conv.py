"""Convolutions of nibble beside torch and optimum-quanto, in turns: quanto_conv.py [--threads N,...]
[--rounds N] [--subjects NAME BATCH,...] [--kinds KIND,...] [--build DIR].

For each layer and batch: torch's floats and quanto's modules (qint8 weights, with and without qint8
activations, calibrated and frozen; qint4 weights) in one process, bench_conv in another, driven as
quanto_static.py drives its models: one of them runs, the other waits. All get floats. Without torch
and optimum-quanto it says so."""

import warnings

import quanto_static as race

warnings.filterwarnings("ignore")
LAYERS = {  # channels, side, filters, size, stride, padding, groups
    "3x3-64@56": (64, 56, 64, 3, 1, 1, 1), "3x3-128@28": (128, 28, 128, 3, 1, 1, 1),
    "3x3-256@14": (256, 14, 256, 3, 1, 1, 1), "3x3-512@7": (512, 7, 512, 3, 1, 1, 1),
    "1x1-64-256@56": (64, 56, 256, 1, 1, 0, 1), "1x1-256-64@56": (256, 56, 64, 1, 1, 0, 1),
    "1x1-1024-256@14": (1024, 14, 256, 1, 1, 0, 1), "stem-7x7": (3, 224, 64, 7, 2, 3, 1),
    "depthwise-64@56": (64, 56, 64, 3, 1, 1, 64), "depthwise-128@56/2": (128, 56, 128, 3, 2, 1, 128),
    "mnist": None}
KINDS = {"f32": None, "w8a8": ("qint8", "qint8"), "w8": ("qint8", None), "w4": ("qint4", None)}


def layers(nn):
    """-> make(name), shape(name, batch) of what it takes"""
    def make(name):
        if LAYERS[name]:
            C, _, out, size, stride, padding, groups = LAYERS[name]
            return nn.Sequential(nn.Conv2d(C, out, size, stride, padding, groups=groups))
        return nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                             nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                             nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10))

    def shape(name, batch):
        C, side = LAYERS[name][:2] if LAYERS[name] else (1, 28)
        return batch, C, side, side
    return make, shape


if __name__ == "__main__":
    race.SUBJECTS = [f"{name} {batch}" for name in LAYERS for batch in (1, 32)]
    race.KINDS, race.BENCH, race.SERVER = KINDS, "bench_conv", __file__
    race.NETWORKS, race.STREAMLINE = layers, False
    race.main(kinds=list(KINDS))
