"""One training step of the MLP on Fashion-MNIST in PyTorch: what a user waits for before anything happens."""
import gzip
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

folder = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist"
with gzip.open(f"{folder}/train-images-idx3-ubyte.gz") as f:
    images = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 784)
with gzip.open(f"{folder}/train-labels-idx1-ubyte.gz") as f:
    labels = np.frombuffer(f.read(), np.uint8, offset=8)
x = torch.from_numpy(images[:64].astype(np.float32) / 255)
y = torch.from_numpy(labels[:64].astype(np.int64))
net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
loss = F.cross_entropy(net(x), y)
loss.backward()
opt.step()
print(f"step 1 loss {loss.item()}", flush=True)
