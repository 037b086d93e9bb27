"""The PyTorch side of bench_models: the same models, batches and optimiser, one process that is told what to run.

    models.py MODEL BATCH THREADS [compiled] [cuda]

Reads lines "run SECONDS" from standard input and answers each with one JSON line: samples_per_s, steps, loss.
MODEL: mlp, cnn, resnet, finetune.
"""
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, CIFAR variant, 1x1 projection)."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.short = nn.Identity()
        if stride != 1 or cin != cout:
            self.short = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.short(x))


def mlp():
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)), (784,)


def cnn():
    return nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10)), (1, 28, 28)


def resnet():
    """20 layers: 3 stages of 3 blocks with 16, 32 and 64 channels."""
    layers, cin = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for cout, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            layers.append(Block(cin, cout, stride if i == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), (3, 32, 32)


def finetune():
    model, shape = cnn()
    for p in model[:-1].parameters():
        p.requires_grad_(False)
    return model, shape


MODELS = {"mlp": mlp, "cnn": cnn, "resnet": resnet, "finetune": finetune}


def main():
    name, batch, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    device = "cuda" if "cuda" in sys.argv else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32, as Rankine's
    model, shape = MODELS[name]()
    model = model.to(device)
    x, y = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
    x, y = x.to(device), y.to(device)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    forward = torch.compile(model) if "compiled" in sys.argv else model

    def step():
        opt.zero_grad(set_to_none=True)
        loss = F.cross_entropy(forward(x), y)
        loss.backward()
        opt.step()
        return loss if device == "cpu" else loss.item()  # both sides wait for the loss of each step

    for _ in range(5):
        loss = step()
    print(json.dumps({"ready": True, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        seconds = float(line.split()[1])
        times, start = [], time.perf_counter()
        while time.perf_counter() - start < seconds or len(times) < 5:
            t = time.perf_counter()
            loss = step()
            times.append(time.perf_counter() - t)
        times.sort()
        print(json.dumps({"samples_per_s": batch / times[len(times) // 2], "steps": len(times),
                          "loss": float(loss)}), flush=True)


if __name__ == "__main__":
    main()
