#!/usr/bin/env python3
"""What all ranks send in a step, counted where bytes leave a rank, against a ring all-reduce: 2 (p - 1) / p of the gradients on
each of p ranks; and what goes between nodes, where the gradients of a node are added up first. test_bytes.py BUILD [--table]:
prints the rows of docs/results.md."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

rankine = str(pathlib.Path(sys.argv[1]).resolve() / "rankine")
STEPS, WINDOW, CHUNK = 6, 3, 4096
MOST = 2.4  # times a ring, where ranks are not a power of two
if not shutil.which("mpirun"):
    print("skipped: mpirun is not installed (Debian package openmpi-bin)")
    sys.exit(77)
environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_hwloc_base_binding_policy="none",
                   PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe", PRTE_MCA_hwloc_default_binding_policy="none",
                   ASAN_OPTIONS="detect_leaks=0")
# Sizes in whole cache lines: what is sent is the parameters and nothing else.
SHAPES = [(256, 32), (256,), (512, 256), (512,), (16, 512), (16,)]
BYTES = 4 * sum(s[0] * (s[1] if len(s) > 1 else 1) for s in SHAPES)
CHUNKS = sum(-(-(s[0] * (s[1] if len(s) > 1 else 1)) // CHUNK) for s in SHAPES)


def stages():
    """The values of parallel.zero that this build knows."""
    schema = subprocess.run([rankine, "config", "schema"], check=True, capture_output=True, text=True).stdout
    zero = json.loads(schema)["properties"]["parallel"]["properties"]["zero"]
    return range(zero["minimum"], zero["maximum"] + 1)


def ring(p):
    return 2 * (p - 1) / p * BYTES * p


def around(p):
    """What else a step may send: the norm's sum of each chunk to everyone, the loss's parts, whether to stop."""
    return 8 * CHUNKS * (p - 1) + 64 * p * (p - 1)


def train(ranks, *options, by_node=True):
    """Trains with so many ranks on each node; the lines of metrics.jsonl, and the banner."""
    run = f"run-{len(os.listdir())}"
    node_of = "".join(str(k) * n for k, n in enumerate(ranks))
    launch = ["mpirun", "-n", str(sum(ranks)), "sh", "-c",
              f'node={node_of}; RANKINE_NODE=$(echo $node | cut -c $((OMPI_COMM_WORLD_RANK + 1))) exec "$0" "$@"']
    done = subprocess.run(launch + [rankine, "train", "run.yaml", f"run.dir={run}", *options], capture_output=True, text=True,
                          timeout=120, stdin=subprocess.DEVNULL, env=dict(environment, RANKINE_BY_NODE=str(int(by_node))))
    assert done.returncode == 0, (ranks, options, done.stdout, done.stderr)
    if sum(ranks) == 1:
        return [], done.stdout, run
    assert re.search(r"exchange: a rank sends [0-9.]+ [KM]iB a step", done.stdout), done.stdout
    with open(f"{run}/metrics.jsonl") as f:
        windows = [line for line in map(json.loads, f) if "sent_bytes" in line]
    assert len(windows) == STEPS // WINDOW, windows
    return windows, done.stdout, run


def check(p, *options, nodes=1, share=1.0):
    """share: of the ring's bytes that this way of sharing out needs at most on a power of two of ranks."""
    windows = [line["sent_bytes"] for line in train([p // nodes] * nodes, *options)[0]]
    least, most = ring(p), (share if p & (p - 1) == 0 else share * MOST) * ring(p) + around(p)
    for x in windows:
        assert least <= x <= most, f"{p} ranks {options}: {x} bytes a step, not {least} to {most}"
    assert max(windows) - min(windows) <= around(p), f"{p} ranks {options}: {windows}"
    return max(windows)


def hash_of(run):
    return subprocess.run([rankine, "inspect", run, "--hash"], check=True, capture_output=True, text=True).stdout


def check_nodes(ranks, sums, *options, by_node=True):
    """Between nodes: of each node's sums those of the others' pieces, as many as the subtrees that its ranks make up, and each
    piece of the weights to each other node once. And the same weights as on one node."""
    p, nodes = sum(ranks), len(ranks)
    times = sum(s * (p - n) / p for s, n in zip(sums, ranks)) + nodes - 1
    lines, banner, run = train(ranks, *options, by_node=by_node)
    assert ("gradients are added up by node" in banner) == by_node, banner
    for line in lines:
        assert 0.99 < line["far_bytes"] / (times * BYTES) < 1.01 + around(p) / BYTES, \
            f"{ranks} {options}: {line['far_bytes']} bytes between nodes, not {times * BYTES:.0f}"
    assert hash_of(run) == hash_of(alone), (ranks, options)
    return times


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    with open("points.csv", "w") as f:
        f.write(",".join(f"x{i}" for i in range(32)) + ",class\n")
        f.writelines(",".join(str((i * (k + 3)) % 11) for k in range(32)) + f",c{i % 16:02}\n" for i in range(192))
    with open("run.yaml", "w") as f:
        f.write("data: {path: points.csv}\nmodel: {layers: [{linear: 256}, relu, {linear: 512}, relu, {linear: 16}]}\n"
                f"batch: {{global: 32}}\nrun: {{steps: {STEPS}}}\nparallel: {{threads: 1}}\nlog: {{every: {WINDOW}}}\n"
                "optim: {clip_norm: 1}\nckpt: {every: 1000}\n")
    rows = 0
    for zero in stages():
        # Stage 3 gathers the weights twice, for the forward and the backward pass, but for those that are still there.
        share = 1.5 if zero == 3 else 1.0
        for p in range(2, 9):
            by_grid = [check(p, f"parallel.zero={zero}", f"grid.data={v}", share=share) / ring(p)
                       for v in ([8, 16] if p & (p - 1) else [8])]
            rows += len(by_grid)
            if "--table" in sys.argv:
                print(f"| {zero} | {p} | {ring(p):,.0f} | " + " | ".join(f"{x:.3f}" for x in by_grid + by_grid[:2 - len(by_grid)]) + " |")
    check(4, "parallel.exact=false")
    # Every rank on a "node" of its own, and two on each: what crosses a network counts as what crosses memory.
    alike = {check(4, nodes=n) for n in (1, 2, 4)}
    assert len(alike) == 1, alike
    alone = train([1])[2]
    # Ranks of each node, and the subtrees of the grid that each node's make up together, and one by one.
    for ranks, sums, straight in [([2, 2], [1, 1], [2, 2]), ([4, 4], [1, 1], [4, 4]), ([2] * 4, [1] * 4, [2] * 4),
                                  ([3, 1], [2, 1], [3, 1]), ([2, 4], [1, 2], [2, 4])]:
        times = check_nodes(ranks, sums, "parallel.bucket=65536")
        if "--table" in sys.argv:
            print(f"| {' + '.join(map(str, ranks))} | {check_nodes(ranks, straight, by_node=False):.3f} | {times:.3f} |")
    check_nodes([2, 2], [2, 2], by_node=False)
    for zero in (0, 2):
        check_nodes([2, 2], [1, 1], "parallel.bucket=65536", f"parallel.zero={zero}")
print(f"{rows + 4} layouts: at most {MOST} times a ring's bytes, as many on 2, 4 and 8 ranks; what goes between nodes")
