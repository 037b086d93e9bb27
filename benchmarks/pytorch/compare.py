#!/usr/bin/env python3
"""Rankine against PyTorch on the same cores: workers of both take turns, medians of the rounds are compared.

    compare.py train   [--build build] [--threads 1,2] [--rounds 5] [--seconds 2] [--models mlp,cnn,resnet]
    compare.py ours    [--build build] [--threads 1,2] [--rounds 5] [--seconds 2]
    compare.py startup [--build build] [--rounds 5]

ours needs no PyTorch: canonical order against parallel.exact: false, and training the last layer of the CNN alone
against training all of it. train prints samples/s of each, and ours over the faster of eager and compiled PyTorch. startup prints the wall
seconds from launch to the first finished step of the MLP, and the peak resident memory, for both.
PYTHON names an interpreter that has torch (default: this one).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CASES = {"mlp": [("mlp", 64), ("mlp", 256)], "cnn": [("cnn", 64)], "resnet": [("resnet", 64)],
         "finetune": [("finetune", 64)]}


def python():
    return os.environ.get("PYTHON", sys.executable)


def clean_env(threads):
    """No settings of one side's libraries: OpenBLAS picks its own kernels."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    env["OMP_NUM_THREADS"] = str(threads)
    return env


class Worker:
    """A process that times training steps on request."""

    def __init__(self, command, threads):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=clean_env(threads))
        self.hello = self.answer(command)

    def answer(self, what):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{what} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, seconds):
        self.process.stdin.write(f"run {seconds}\n")
        self.process.stdin.flush()
        return self.answer("worker")["samples_per_s"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def workers(model, batch, threads, build, compiled, device, inexact):
    args = [model, str(batch), str(threads)] + (["cuda"] if device == "cuda" else [])
    torch = [python(), str(HERE / "models.py"), *args]
    made = {"rankine": Worker([str(build / "benchmarks" / "bench_models"), *args,
                               *(["inexact"] if inexact else [])], threads),
            "eager": Worker(torch, threads)}
    if compiled:
        made["compiled"] = Worker([*torch, "compiled"], threads)
    return made


def spread(values):
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def compare_training(model, batch, threads, args):
    made = workers(model, batch, threads, args.build, args.compiled, args.device, args.inexact)
    rates = {name: [] for name in made}
    for _ in range(args.rounds):
        for name, worker in made.items():
            rates[name].append(worker.run(args.seconds))
    version = made["eager"].hello["torch"]
    for worker in made.values():
        worker.close()
    medians = {name: statistics.median(r) for name, r in rates.items()}
    best = max((n for n in medians if n != "rankine"), key=medians.get)
    ratios = [a / b for a, b in zip(rates["rankine"], rates[best])]
    print(f"| {model} | {batch} | {threads} | " + " | ".join(spread(rates[n]) if n in rates else "-"
          for n in ("rankine", "eager", "compiled")) +
          f" | **{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}, {best}) | {version} |", flush=True)


def train(args):
    print("| model | batch | threads | Rankine samples/s | PyTorch eager | PyTorch compiled | ours / faster | PyTorch |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.models.split(","):
        for model, batch in CASES[name]:
            for threads in map(int, args.threads.split(",")):
                compare_training(model, batch, threads, args)


def ours(args):
    """Pairs of our own configurations in turn: A, B, and A over B."""
    pairs = [("mlp 64, exact over inexact", ["mlp", "64"], ["mlp", "64", "inexact"]),
             ("cnn 64, exact over inexact", ["cnn", "64"], ["cnn", "64", "inexact"]),
             ("cnn 64, last layer over all layers", ["finetune", "64"], ["cnn", "64"])]
    print("| pair | threads | A samples/s | B samples/s | A / B |")
    print("|---|---|---|---|---|")
    for name, *two in pairs:
        for threads in args.threads.split(","):
            made = [Worker([str(args.build / "benchmarks" / "bench_models"), *w[:2], threads, *w[2:]], threads)
                    for w in two]
            rates = [[], []]
            for _ in range(args.rounds):
                for rate, worker in zip(rates, made):
                    rate.append(worker.run(args.seconds))
            for worker in made:
                worker.close()
            ratios = [a / b for a, b in zip(*rates)]
            print(f"| {name} | {threads} | {spread(rates[0])} | {spread(rates[1])} | "
                  f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


def launch(command, cwd, first):
    """Wall seconds until a line of the output has `first` in it, and peak resident MiB of the whole process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env=clean_env(2))
    seconds = next((time.perf_counter() - start for line in process.stdout if first in line), None)
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status or seconds is None:
        raise RuntimeError(f"{command} ended with {status}")
    return seconds, usage.ru_maxrss / 1024


def startup(args):
    rows = {"rankine": [], "PyTorch": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.rounds):
            ours = [str(args.build / "rankine"), "train", str(ROOT / "examples/fashion_mlp.yaml"), "run.steps=1",
                    f"run.dir={folder}/run{i}", "log.format=kv"]
            rows["rankine"].append(launch(ours, folder, " step=1 "))
            rows["PyTorch"].append(launch([python(), str(HERE / "first_step.py")], folder, "step"))
    print("| | launch to the end of the first step, s | peak memory, MiB |")
    print("|---|---|---|")
    for name, values in rows.items():
        seconds, memory = zip(*values)
        print(f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f}) | "
              f"{statistics.median(memory):.0f} |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["train", "ours", "startup"])
    p.add_argument("--build", type=Path, default=ROOT / "build")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--models", default="mlp,cnn,resnet")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--inexact", action="store_true", help="ours with parallel.exact: false")
    p.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    args = p.parse_args()
    args.build = args.build.resolve()
    {"train": train, "ours": ours, "startup": startup}[args.what](args)


if __name__ == "__main__":
    main()
