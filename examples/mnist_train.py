"""Train the networks of mnist.c in torch and save them.

    python examples/mnist_train.py FOLDER_OF_IDX_FILES OUT_FOLDER [EPOCHS]

Writes the folders mlp and cnn, config.json and model.safetensors each, which `nibble calibrate`, `compare`
and `eval --images` take (docs/models/sequential.md), and the state dicts mlp.pt and cnn.pt. Prints the
accuracy on the test set. Nothing of nibble's build or tests needs this."""
import gzip
import json
import os
import sys
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

folder, out = sys.argv[1:3]
epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 3
torch.manual_seed(0)


def read(name, skip):
    path = os.path.join(folder, name)
    opened = open(path, "rb") if os.path.exists(path) else gzip.open(path + ".gz", "rb")
    with opened as f:
        return np.frombuffer(f.read(), np.uint8, offset=skip)


def load(part):
    images = read(f"{part}-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    x = (torch.from_numpy(images.copy()).float() / 255 - 0.1307) / 0.3081
    return x, torch.from_numpy(read(f"{part}-labels-idx1-ubyte", 8).copy()).long()


FIELDS = {
    nn.Linear: ["in_features", "out_features"],
    nn.Conv2d: ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"],
    nn.BatchNorm2d: ["num_features", "eps"],
    nn.MaxPool2d: ["kernel_size", "stride", "padding"],
    nn.Flatten: ["start_dim", "end_dim"],
    nn.Dropout: ["p"],
    nn.ReLU: [],
}


def config_of(net):
    """What docs/models/sequential.md describes, of a torch.nn.Sequential."""
    layers = []
    for name, layer in net.named_children():
        row = {"name": name, "type": type(layer).__name__}
        row |= {field: getattr(layer, field) for field in FIELDS[type(layer)]}
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            row["bias"] = layer.bias is not None
        layers.append(row)
    return {"architectures": ["Sequential"], "model_type": "sequential", "num_labels": 10, "num_channels": 1,
            "image_size": 28, "image_mean": [0.1307], "image_std": [0.3081], "dtype": "float32",
            "layers": layers}


networks = {
    "mlp": nn.Sequential(OrderedDict(
        flatten=nn.Flatten(), input_layer=nn.Linear(784, 256), act1=nn.ReLU(),
        mid_layer=nn.Linear(256, 256), act2=nn.ReLU(), output_layer=nn.Linear(256, 10))),
    "cnn": nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(1, 16, 3, padding=1), bn1=nn.BatchNorm2d(16), act1=nn.ReLU(),
        pool1=nn.MaxPool2d(2), conv2=nn.Conv2d(16, 32, 3, padding=1), bn2=nn.BatchNorm2d(32),
        act2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten(), drop=nn.Dropout(0.25),
        fc1=nn.Linear(32 * 7 * 7, 64), act3=nn.ReLU(), fc2=nn.Linear(64, 10))),
}
x, y = load("train")
test_x, test_y = load("t10k")
os.makedirs(out, exist_ok=True)
for name, net in networks.items():
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    net.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x), 128):
            at = order[i:i + 128]
            loss = nn.functional.cross_entropy(net(x[at]), y[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        right = sum((net(test_x[i:i + 500]).argmax(1) == test_y[i:i + 500]).sum().item()
                    for i in range(0, len(test_x), 500))
    print(f"{name}: {right} of {len(test_x)} right: {100 * right / len(test_x):.2f} %")
    os.makedirs(f"{out}/{name}", exist_ok=True)
    save_file(net.state_dict(), f"{out}/{name}/model.safetensors", {"format": "pt"})
    with open(f"{out}/{name}/config.json", "w") as f:
        json.dump(config_of(net), f, indent=2)
    torch.save(net.state_dict(), f"{out}/{name}.pt")
