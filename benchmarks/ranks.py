#!/usr/bin/env python3
"""Several ranks: what they cost and gain. Both sides of a row take turns; medians of the rounds, and of their ratios.

    ranks.py threads [--models mlp,cnn]    2 ranks of 1 thread against 1 rank of 2 threads
    ranks.py exact   [--ranks 2,4]         canonical order against parallel.exact: false
    ranks.py ddp     [--models mlp,cnn]    against PyTorch's DistributedDataParallel over gloo, 2 processes of 1 thread
    ranks.py start   [--ranks 4]           launch to the end of the first step, against mpirun of a program that does nothing
    ranks.py memory  [--ranks 4]           memory a rank of a deep network with parallel.zero 0 to 3 against one rank alone
    ranks.py average [--workers 2] [--every 50] [--outer none,nesterov]
                                           bytes and test accuracy of parallel.strategy average against sync: trains
                                           examples/fashion_cnn.yaml on 2 ranks, in each round with another seed

Trains on Fashion-MNIST, read and shuffled as in a real run (PyTorch is given one batch that lies in memory).
PYTHON names an interpreter that has torch (default: this one). More ranks than cores say nothing about speed.
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
ROOT = HERE.parent
DATA = "data: {path: /usr/share/datasets/fashion-mnist/train}\n"
MODELS = {
    "mlp": "[flatten, {linear: 512}, relu, {linear: 512}, relu, {linear: 10}]",
    "cnn": "[{conv2d: {out: 32}}, relu, {conv2d: {out: 64}}, relu, {max_pool: 2}, flatten, {linear: 128}, relu, {linear: 10}]",
}
STEPS = {"mlp": 600, "cnn": 60}
ROOT_USER = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    return env | (ROOT_USER if os.getuid() == 0 else {})


def mpirun(ranks, *command):
    crowded = ranks > os.cpu_count()
    return ["mpirun", "-n", str(ranks), *(["--oversubscribe", "--bind-to", "none"] if crowded else []), *command]


class Run:
    """Trains a model and tells samples/s: the median of the windows between log lines, without the first."""

    def __init__(self, args, folder):
        self.args, self.folder, self.count = args, folder, 0

    def config(self, model):
        path = self.folder / f"{model}.yaml"
        path.write_text(f"{DATA}model: {{layers: {MODELS[model]}}}\nbatch: {{global: 64}}\nrun: {{seed: 1}}\n")
        return path

    def rate(self, model, ranks, threads, *options):
        self.count += 1
        run, steps = self.folder / f"run{self.count}", STEPS[model]
        command = [str(self.args.build / "rankine"), "train", str(self.config(model)), f"run.dir={run}",
                   f"run.steps={steps}", f"log.every={steps // 6}", f"parallel.threads={threads}", *options]
        subprocess.run(mpirun(ranks, *command) if ranks > 1 else command, check=True, env=environment(),
                       stdout=subprocess.DEVNULL, timeout=600)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return statistics.median([line["samples_per_s"] for line in lines if "samples_per_s" in line][1:])


def spread(values):
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def row(name, first, second, rounds):
    """One line of the table: two measurements in turn."""
    pairs = [(first(), second()) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    print(f"| {name} | {spread([a for a, _ in pairs])} | {spread([b for _, b in pairs])} | "
          f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


def threads(args, run):
    print("| model, batch 64 | 2 ranks x 1 thread, samples/s | 1 rank x 2 threads | ratio |\n|---|---|---|---|")
    for model in args.models.split(","):
        row(model, lambda: run.rate(model, 2, 1), lambda: run.rate(model, 1, 2), args.rounds)


def exact(args, run):
    print("| model, ranks | exact, samples/s | inexact | ratio |\n|---|---|---|---|")
    for model in args.models.split(","):
        for ranks in map(int, args.ranks.split(",")):
            row(f"{model}, {ranks}", lambda: run.rate(model, ranks, 1),
                lambda: run.rate(model, ranks, 1, "parallel.exact=false"), args.rounds)


def ddp(args, run):
    python = os.environ.get("PYTHON", sys.executable)

    def theirs(model):
        out = subprocess.run([python, str(HERE / "pytorch/ddp.py"), model, "64", "2", "1", "3"], check=True, text=True,
                             stdout=subprocess.PIPE, env=environment() | {"OMP_NUM_THREADS": "1"}, timeout=600).stdout
        return json.loads(out.splitlines()[-1])["samples_per_s"]

    print("| model, batch 64, 2 ranks x 1 thread | Rankine, samples/s | PyTorch DDP | ratio |\n|---|---|---|---|")
    for model in args.models.split(","):
        row(model, lambda: run.rate(model, 2, 1), lambda: theirs(model), args.rounds)


def start(args, run):
    def seconds(command, until=None):
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
        at = next((time.perf_counter() - begun for line in process.stdout if until and until in line), None)
        process.communicate(timeout=600)
        return at or time.perf_counter() - begun

    def ours(ranks):
        run.count += 1
        return 1000 * seconds(mpirun(ranks, str(args.build / "rankine"), "train", str(run.config("mlp")), "run.steps=1",
                                     f"run.dir={run.folder}/run{run.count}", "log.format=kv", "parallel.threads=1"), " step=1 ")

    print("| ranks | to the end of the first step, ms | mpirun true | ratio |\n|---|---|---|---|")
    for ranks in map(int, args.ranks.split(",")):
        row(f"{ranks}", lambda: ours(ranks), lambda: 1000 * seconds(mpirun(ranks, "true")), args.rounds)


def memory(args, run):
    """Proportional set size while steps are made, without what a network of one layer takes: its weights, gradients and
    optimiser state are next to nothing. Pages that several ranks read count once."""
    def config(layers):
        body = "{linear: 512}, relu, " * layers
        path = run.folder / f"deep{layers}.yaml"
        path.write_text(f"{DATA}model: {{layers: [flatten, {body}{{linear: 10}}]}}\nbatch: {{global: 8}}\nlog: {{every: 1}}\n")
        return path

    def children(pid):
        own = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return own + [pid for child in own for pid in children(child)]

    def resident(pid):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if name == "rankine" else []
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return 0
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))

    def peak(layers, ranks, zero):
        run.count += 1
        command = [str(args.build / "rankine"), "train", str(config(layers)), f"run.dir={run.folder}/run{run.count}",
                   "log.format=kv", "parallel.threads=1", f"parallel.zero={zero}"]
        process = subprocess.Popen(mpirun(ranks, *command) if ranks > 1 else command, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.DEVNULL, env=environment())
        most, steps, pids = 0, 0, []
        for line in process.stdout:
            steps += " step=" in line
            if steps == 2 and not pids:
                pids = [pid for pid in [process.pid, *children(process.pid)] if resident(pid)]
                assert len(pids) == ranks, pids
            until = time.perf_counter() + 0.05
            while pids and time.perf_counter() < until:
                most = max(most, *map(resident, pids))
            if steps >= 30:
                break
        for pid in pids:
            os.kill(pid, 9)  # before a snapshot is staged
        process.communicate(timeout=600)
        return most

    print("| ranks, parallel.zero | MiB a rank for weights, gradients, optimiser state | of one rank's |\n|---|---|---|")
    one = None
    for ranks, zero in [(1, 0)] + [(int(n), zero) for n in args.ranks.split(",") for zero in range(4)]:
        deep, flat = ([peak(layers, ranks, zero) for _ in range(args.rounds)] for layers in (64, 1))
        mib = (statistics.median(deep) - statistics.median(flat)) / 2**20
        one = one or mib
        print(f"| {ranks}, {zero} | {mib:,.0f} | **{mib / one:.2f}** |", flush=True)


def average(args, run):
    def train(seed, *options):
        run.count += 1
        folder = run.folder / f"run{run.count}"
        subprocess.run(mpirun(2, str(args.build / "rankine"), "train", str(ROOT / "examples/fashion_cnn.yaml"),
                              f"run.dir={folder}", f"run.seed={seed}", f"log.every={args.every}", "parallel.threads=1",
                              *options), check=True, env=environment(), stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        windows = [(line["step"], line["sent_bytes"]) for line in lines if "sent_bytes" in line]
        steps = [step for step, _ in windows]
        sent = sum(each * (step - before) for (step, each), before in zip(windows, [0, *steps]))
        return sent / steps[-1], json.loads((folder / "result.json").read_text())["val_accuracy"]

    apart = ["parallel.strategy=average", f"average.workers={args.workers}", f"average.every={args.every}"]
    kinds = {"sync": []} | {f"average, outer {o}": [*apart, f"average.outer={o}"] for o in args.outer.split(",")}
    results = {kind: [train(1 + i, *options) for i in range(args.rounds)] for kind, options in kinds.items()}
    base_bytes, base_accuracy = (statistics.median(column) for column in zip(*results["sync"]))
    print(f"| strategy, 2 ranks, {args.workers} workers, every {args.every} | KB a step, both ranks | times fewer | "
          "test accuracy | points from sync |\n|---|---|---|---|---|")
    for kind, rounds in results.items():
        each, accuracy = ([r[i] for r in rounds] for i in range(2))
        print(f"| {kind} | {statistics.median(each) / 1e3:,.1f} | **{base_bytes / statistics.median(each):.1f}** | "
              f"{statistics.median(accuracy):.4f} ({min(accuracy):.4f}-{max(accuracy):.4f}) | "
              f"**{100 * (statistics.median(accuracy) - base_accuracy):+.2f}** |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["threads", "exact", "ddp", "start", "memory", "average"])
    p.add_argument("--build", type=Path, default=ROOT / "build")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--models", default="mlp,cnn")
    p.add_argument("--ranks")
    p.add_argument("--every", type=int, default=50)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--outer", default="none")
    args = p.parse_args()
    args.build = args.build.resolve()
    args.ranks = args.ranks or {"exact": "2,4", "start": "4", "memory": "4"}.get(args.what)
    with tempfile.TemporaryDirectory() as folder:
        what = {"threads": threads, "exact": exact, "ddp": ddp, "start": start, "memory": memory, "average": average}
        what[args.what](args, Run(args, Path(folder)))


if __name__ == "__main__":
    main()
