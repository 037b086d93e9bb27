#!/usr/bin/env python3
"""Writes models.golden: ten training steps of each kind of model as PyTorch computes them, in double precision.

Nothing but results is stored: weights and data come from fill(), which tests/train/test_golden.c has too.
For each model: NAME/loss (10), NAME/norm (10, gradient norms before clipping), NAME/sum (one sum a parameter after the
last step), NAME/eval (loss in evaluation mode on the first batch). Needs torch and numpy; run it in this folder.
"""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import golden

torch.set_default_dtype(torch.float64)
STEPS, BATCH = 10, 24
out = {}


def words(stream, n):
    x = (np.arange(n, dtype=np.uint64) + np.uint64(1000003 * (stream + 1))) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(15)
    x = x * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    return x ^ x >> np.uint64(13)


def fill(stream, shape, scale):
    n = int(np.prod(shape))
    v = (words(stream, n) >> np.uint64(8)).astype(np.float32) * np.float32(2.0 ** -24) - np.float32(0.5)
    return torch.tensor((v * np.float32(scale)).astype(np.float64).reshape(shape))


class Residual(nn.Module):
    def __init__(self, main, shortcut):
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x):
        return F.relu(self.main(x) + self.shortcut(x))


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * self.weight


def conv_bn(i, o, stride=1):
    return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)]


mlp = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), RMSNorm(32),
                    nn.Linear(32, 5))
cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
                    nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 5))
resnet = nn.Sequential(*conv_bn(1, 4), nn.ReLU(),
                       Residual(nn.Sequential(*conv_bn(4, 4), nn.ReLU(), *conv_bn(4, 4)), nn.Sequential()),
                       Residual(nn.Sequential(*conv_bn(4, 8, 2), nn.ReLU(), *conv_bn(8, 8)),
                                nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))),
                       nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
auto = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 144), nn.SiLU(),
                     nn.Unflatten(1, (4, 6, 6)), nn.Upsample(scale_factor=2), nn.Conv2d(4, 1, 3, padding=1))


def no_decay(model, name):
    return name.endswith("bias") or model.get_parameter(name).ndim == 1


def run(name, model, shape, optimiser, decay, clip=None, reconstruct=False):
    groups = [{"params": [p for n, p in model.named_parameters() if not no_decay(model, n)], "weight_decay": decay},
              {"params": [p for n, p in model.named_parameters() if no_decay(model, n)], "weight_decay": 0}]
    with torch.no_grad():
        for i, (n, p) in enumerate(model.named_parameters()):
            if p.ndim > 1:
                p.copy_(fill(i, p.shape, 2 / np.sqrt(p[0].numel())))
            elif n.endswith("bias"):
                p.copy_(fill(i, p.shape, 0.25))
            else:
                p.fill_(1)
    opt = optimiser(groups)
    base = [g["lr"] for g in opt.param_groups]

    def loss_of(t):
        x = fill(1000 + t, (BATCH, *shape), 4)
        y = model(x)
        if reconstruct:
            return F.mse_loss(y, x)
        return F.cross_entropy(y, torch.tensor((words(2000 + t, BATCH) % np.uint64(5)).astype(np.int64)),
                               label_smoothing=0.1)

    losses, norms = [], []
    for t in range(STEPS):
        for g, lr in zip(opt.param_groups, base):
            g["lr"] = lr * (1 - 0.05 * t)
        opt.zero_grad()
        loss = loss_of(t)
        loss.backward()
        total = torch.sqrt(sum((p.grad ** 2).sum() for p in model.parameters()))
        if clip and total > clip:
            for p in model.parameters():
                p.grad *= clip / total
        opt.step()
        losses.append(loss.item())
        norms.append(total.item())
    model.eval()
    out[f"{name}/loss"] = np.array(losses)
    out[f"{name}/norm"] = np.array(norms)
    out[f"{name}/sum"] = np.array([p.sum().item() for p in model.parameters()])
    out[f"{name}/eval"] = np.array([loss_of(0).item()])


run("mlp", mlp, (20,), lambda g: torch.optim.AdamW(g, lr=0.01), 0.1, clip=1.0)
run("cnn", cnn, (1, 12, 12), lambda g: torch.optim.SGD(g, lr=0.05, momentum=0.9, nesterov=True), 0.01)
run("resnet", resnet, (1, 12, 12), lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9), 0.001)
run("autoencoder", auto, (1, 12, 12), lambda g: torch.optim.Adam(g, lr=0.01), 0.01,
    reconstruct=True)
golden.write("models.golden", out)
