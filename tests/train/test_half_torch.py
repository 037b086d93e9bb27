#!/usr/bin/env python3
"""compute: f16 against PyTorch, which rounds the operands of the same products to its float16, forward and backward, with the
same scale of the loss: every loss of a training by SGD, and the weights at its end."""
import json
import os
import struct
import subprocess
import sys
import tempfile

try:
    import torch
except ImportError as missing:
    print(f"skipped: {missing.name} is not installed")
    sys.exit(77)

STEPS, ROWS, SCALE, RATE = 25, 48, 1024.0, 0.1
CONFIG = """data: {path: rows.csv, task: regression, shuffle: false, normalize: none}
model: {layers: [{linear: 24}, relu, {linear: 16}, tanh, linear]}
batch: {global: %d}
optim: {kind: sgd, lr: %g, momentum: 0, loss_scale: %g}
run: {steps: %d, dir: DIR}
log: {every: 1}
ckpt: {best: none}
compute: COMPUTE
device: cpu
""" % (ROWS, RATE, SCALE, STEPS)


def half(t):
    return t.half().float()


class Linear(torch.autograd.Function):
    """x w' + b, where the operands of all three products are rounded."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return half(x) @ half(w).T + b

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return half(dy) @ half(w), half(dy).T @ half(x), dy.sum(0)


def rankine(*arguments):
    done = subprocess.run([os.path.join(sys.argv[1], "rankine"), *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"rankine {' '.join(arguments)}: status {done.returncode}: {done.stderr}")


def tensors(path):
    """Of a safetensors file."""
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, t in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            lo, hi = t["data_offsets"]
            flat = torch.frombuffer(bytearray(data[8 + size + lo:8 + size + hi]), dtype=torch.float32)
            found[name] = flat.reshape(t["shape"])
    return found


def train(compute, **more):
    directory = f"run-{compute}-{len(more)}"
    open("half.yaml", "w").write(CONFIG.replace("DIR", directory).replace("COMPUTE", compute))
    rankine("train", "half.yaml", *(f"{k}={v}" for k, v in more.items()))
    rankine("export", "safetensors", directory, directory + ".safetensors")
    lines = [json.loads(line) for line in open(directory + "/metrics.jsonl")]
    return [line["loss"] for line in lines if "loss" in line], tensors(directory + ".safetensors")


def judge(weights, x, y):
    """The same training by PyTorch, from the same weights."""
    names = sorted({name.rsplit(".", 1)[0] for name in weights})
    w = [weights[n + ".weight"].clone().requires_grad_() for n in names]
    b = [weights[n + ".bias"].clone().requires_grad_() for n in names]
    losses = []
    for _ in range(STEPS):
        h = torch.relu(Linear.apply(x, w[0], b[0]))
        h = torch.tanh(Linear.apply(h, w[1], b[1]))
        loss = torch.nn.functional.mse_loss(Linear.apply(h, w[2], b[2]), y)
        grads = torch.autograd.grad(loss * SCALE, w + b)
        losses.append(loss.item())
        with torch.no_grad():
            for p, g in zip(w + b, grads):
                p -= RATE * g / SCALE
    return losses, dict(zip([n + ".weight" for n in names] + [n + ".bias" for n in names], w + b))


def worst(have, want):
    return max(abs(a - b) / max(abs(b), 1e-3) for a, b in zip(have, want))


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    torch.manual_seed(3)
    torch.set_num_threads(1)
    x = torch.rand(ROWS, 5) * 2 - 1
    y = (x[:, :1] * x[:, 1:2] - x[:, 2:3]) * 2
    with open("rows.csv", "w") as f:
        f.write("a,b,c,d,e,y\n")
        for row, value in zip(x.tolist(), y.tolist()):
            f.write(",".join(repr(v) for v in row + value) + "\n")
    _, start = train("f16", **{"optim.lr": 0, "run.steps": 1})
    losses, weights = train("f16")
    plain, _ = train("f32")
    want, want_weights = judge(start, x, y)
    assert len(losses) == STEPS and losses[-1] < 0.5 * losses[0], losses
    error, contrast = worst(losses, want), worst(plain, want)
    far = max((weights[n] - want_weights[n]).abs().max().item() for n in weights)
    print(f"f16: losses within {error:.1e}, weights within {far:.1e} of PyTorch's; f32 is {contrast:.1e} away")
    assert error < 1e-5 and far < 1e-5, (losses, want)
    assert contrast > 20 * error, "rounding makes no difference: nothing was tested"
