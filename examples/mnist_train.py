"""Train the networks of mnist.c in torch and save their state dicts.

    python examples/mnist_train.py FOLDER_OF_IDX_FILES OUT_FOLDER [EPOCHS]

Writes mlp.safetensors, cnn.safetensors and the same as .pt, and prints the accuracy on the test set.
Nothing of nibble's build or tests needs this."""
import gzip
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
    save_file(net.state_dict(), f"{out}/{name}.safetensors")
    torch.save(net.state_dict(), f"{out}/{name}.pt")
