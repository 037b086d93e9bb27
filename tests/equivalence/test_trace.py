#!/usr/bin/env python3
"""RANKINE_TRACE: one JSON file with every rank's steps, aligned in time, and the same bits as without."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

rankine = str(pathlib.Path(sys.argv[1]).resolve() / "rankine")
RANKS, STEPS = 3, 24
if not shutil.which("mpirun"):
    print("skipped: mpirun is not installed (Debian package openmpi-bin)")
    sys.exit(77)
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none",
                   ASAN_OPTIONS="detect_leaks=0")


def train(run, ranks, trace=None, code=0, *options, nodes=1):
    launch = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    if nodes > 1:
        launch += ["sh", "-c", f'RANKINE_NODE=$((OMPI_COMM_WORLD_RANK * {nodes} / {ranks})) exec "$0" "$@"']
    done = subprocess.run(launch + [rankine, "train", "run.yaml", f"run.dir={run}", *options], capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL,
                          env=dict(environment, RANKINE_TRACE=trace) if trace else environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def hash_of(run):
    return subprocess.run([rankine, "inspect", run, "--hash"], check=True, capture_output=True, text=True).stdout


def check(path, ranks, expected):
    with open(path) as f:
        events = json.load(f)["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names) == list(range(ranks)), names
    assert all(names[r].startswith(f"rank {r} on ") for r in names), names
    steps = []
    for rank in range(ranks):
        spans = [e for e in events if e["ph"] == "X" and e["pid"] == rank]
        count = {name: sum(e["name"] == name for e in spans) for name in {e["name"] for e in spans}}
        for name in expected:
            assert count.get(name, 0) >= (1 if name in ("snapshot", "evaluation") else STEPS), (rank, name, count)
        assert all(e["dur"] >= 0 and e["ts"] >= -1e3 for e in spans)
        steps.append(sorted(((e["ts"], e["ts"] + e["dur"]) for e in spans if e["name"] == "step"), key=lambda s: s[0]))
        assert len(steps[-1]) == STEPS
        for e in spans:  # what belongs to a step lies within one
            if e["name"] in ("forward", "backward", "exchange", "optimiser"):
                assert any(b - 1 <= e["ts"] and e["ts"] + e["dur"] <= end + 1 for b, end in steps[-1]), e
    # Aligned: ranks meet in every step, so their spans of one step overlap.
    for i in range(STEPS):
        assert max(s[i][0] for s in steps) < min(s[i][1] for s in steps), (i, [s[i] for s in steps])


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with open("points.csv", "w") as f:
        f.write("a,b,class\n")
        f.writelines(f"{i % 7},{i % 11},{'up' if i % 7 > i % 11 else 'down'}\n" for i in range(400))
    with open("run.yaml", "w") as f:
        f.write("data: {path: points.csv, split: 0.2}\nmodel: {layers: [{linear: 64}, relu, linear]}\nbatch: {global: 32}\n"
                f"run: {{steps: {STEPS}}}\nparallel: {{threads: 1}}\neval: {{every: 12}}\nlog: {{every: 5}}\n")
    every = ["loader", "step", "forward", "backward", "optimiser", "evaluation"]
    train("plain", 1)
    train("one", 1, "one.json")
    check("one.json", 1, every + ["snapshot"])
    train("many", RANKS, "many.json")
    check("many.json", RANKS, every + ["exchange"])
    train("micro", 2, "micro.json", 0, "batch.micro=3")
    check("micro.json", 2, every + ["exchange"])
    # "Nodes" of one machine, which compare their clocks.
    train("nodes", 4, "nodes.json", 0, nodes=2)
    check("nodes.json", 4, every + ["exchange"])
    out = train("nowhere", RANKS, "/nowhere/trace.json")
    assert "the trace /nowhere/trace.json cannot be written" in out, out
    # A run that fails: each rank writes what it has, with the steps that led there.
    with open("numbers.csv", "w") as f:
        f.write("a,b,c\n")
        f.writelines(f"{i % 7},{i % 11},{i % 5}\n" for i in range(400))
    train("diverges", RANKS, "failed.json", 79, "optim.kind=sgd", "optim.lr=1000", "optim.momentum=0", "loss.kind=mse",
          "data.path=numbers.csv", "data.task=regression", "data.label_column=c", "model.layers=[{linear: 32}, {linear: 1}]")
    for rank in range(RANKS):
        with open("failed.json" + (f".rank-{rank}" if rank else "")) as f:
            events = json.load(f)["traceEvents"]
        spans = [e["name"] for e in events if e["ph"] == "X"]
        assert {e["pid"] for e in events} == {rank} and spans.count("forward") >= spans.count("step") >= 1, (rank, spans)
    assert len({hash_of(run) for run in ("plain", "one", "many", "micro", "nodes", "nowhere")}) == 1
print(f"a trace of {RANKS} ranks and {STEPS} steps: parsed, complete, aligned")
