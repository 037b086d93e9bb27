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
KERNEL_BAR, STEP_BARS = 1.1, {("mlp", 32): 1.3, ("cnn", 8): 1.5}
# The mean has to be known before the squares about it; the sums of segments are written and added up.
KERNEL_BARS = {"batch norm statistics": 2.1, "layer norm dparam": 1.55}


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
    """Name and number of every kernel of the benchmark."""
    model = subprocess.run([BENCH, "model"], capture_output=True, text=True, check=True).stdout.split("\n\n")[0]
    seen = {}
    for line in model.splitlines()[2:]:
        name = line.split("|")[1].strip()
        yield name, seen.setdefault(name, 0), line.split("|")[2].strip()
        seen[name] += 1


def main():
    if not CHECK.exists() or not BENCH.exists():
        print("skipped: built without librankine_cuda_check.so or the benchmarks")
        sys.exit(77)
    failed = []
    for name, number, shape in cases():
        bytes_moved, said = moved("once", name, str(number))
        ratio, bar = bytes_moved / said["least_bytes"], KERNEL_BARS.get(name, KERNEL_BAR)
        print(f"{name:26} {shape:16} {ratio:6.3f} of the least", flush=True)
        if ratio > bar:
            failed.append(f"{name} {shape}: {ratio:.3f} > {bar}")
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
