#!/usr/bin/env python3
"""What kernels move, counted by the checker, against the least that their task moves (docs/gpu-model.md): each array read
once and written once. Every kernel of the benchmark by itself, and whole training steps: at most 1.3 times the least for
the MLP and 1.5 times for the CNN. A byte that a launch reads or writes several times counts once, as a cache has it.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(sys.argv[1])
CHECK, BENCH = BUILD / "librankine_cuda_check.so", BUILD / "benchmarks" / "bench_gpu"
# What is less than the least was not counted right.
LEAST, KERNEL_BAR, STEP_BARS = 0.97, 1.1, {("mlp", 32): 1.3, ("cnn", 8): 1.5}
# The mean has to be known before the squares about it; the sums of segments are written and added up; a
# gradient of gather is added to where zeros were set, and indices may repeat; judge looks at all pieces again and writes
# its verdict.
KERNEL_BARS = {"batch_norm_stats": 2.1, "layer_norm_dparam": 1.55, "gather_grad": 1.3, "judge": 1.5}
# Samples of convolutions, whose bytes grow with them but for the weights; eight segments have one each.
SAMPLES = [("conv2d_dw", "8"), ("conv2d", "1")]
MOST_BYTES, MOST_FLOPS = 32e6, 0.3e9


def moved(*what):
    """The bytes that kernels moved, and what the program said of the least."""
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder) / "stats"
        env = dict(os.environ, RANKINE_CUDA=str(CHECK), RK_EMU_STATS=str(stats))
        out = subprocess.run([BENCH, *what], env=env, capture_output=True, text=True)
        if out.returncode:
            sys.exit(f"FAILED: bench_gpu {' '.join(what)} ended with {out.returncode}: {out.stderr}")
        rows = re.findall(r"^\s*\d+\s+\d+\s+(\d+)\s+(\d+)\s+\d+\s+\d+  \S", stats.read_text(), re.M)
    return sum(int(read) + int(written) for read, written in rows), json.loads(out.stdout)


def cases():
    """Name, number, least bytes, FLOP and shape of every kernel of the benchmark."""
    listed = subprocess.run([BENCH, "list"], capture_output=True, text=True, check=True).stdout
    return [line.split("\t") for line in listed.splitlines()]


def main():
    if not CHECK.exists() or not BENCH.exists():
        print("skipped: built without librankine_cuda_check.so or the benchmarks")
        sys.exit(77)
    failed = []
    for name, number, least, flops, shape in cases():
        samples = [next((n for start, n in SAMPLES if name.startswith(start)), "")]
        if not samples[0] and (float(least) > MOST_BYTES or float(flops) > MOST_FLOPS):
            print(f"{name:34} {shape:32} left out: too large for the checker")
            continue
        bytes_moved, said = moved("once", name, number, *filter(None, samples))
        ratio, bar = bytes_moved / said["least_bytes"], KERNEL_BARS.get(name, KERNEL_BAR)
        print(f"{name:34} {shape:32} {ratio:6.3f} of the least", flush=True)
        if not LEAST <= ratio <= bar:
            failed.append(f"{name} {shape}: {ratio:.3f}, not from {LEAST} to {bar}")
    for (model, batch), bar in STEP_BARS.items():
        (few, _), (many, said) = moved("steps", model, str(batch), "1"), moved("steps", model, str(batch), "2")
        ratio = (many - few) / said["least_bytes"]
        print(f"step of {model}, {batch} samples: {many - few} bytes, {ratio:.3f} of the least", flush=True)
        if ratio > bar:
            failed.append(f"step of {model}: {ratio:.3f} > {bar}")
    for line in failed:
        print("FAILED:", line)
    sys.exit(bool(failed))


main()
