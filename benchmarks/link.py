#!/usr/bin/env python3
"""Two ranks on two hosts with a slow link between them: how much of it hides behind the computation.

    link.py [--models mlp,cnn] [--mbit 1000] [--rounds 3] [--each 1]

The hosts are two network namespaces with names of their own, a veth pair between them and a token bucket (tbf) on either
end; needs root, ip, tc and mpirun. Rows: milliseconds of a step over the link, the same step with both ranks on one host
(compute), the bytes that one host sent in a step as its interface counted them, what those take on the link, and the step over the
larger of the two. With --each 2 or more ranks on each host: the step with gradients that go straight to their ranks
(RANKINE_BY_NODE=0) against those that are added up by node first, in turn, and the bytes of both.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ranks import MODELS, ROOT, ROOT_USER, STEPS, Run

NAMES = ["rankine-a", "rankine-b"]
NET = "10.213.77"


def sh(*command):
    subprocess.run(command, check=True)


class Hosts:
    def __init__(self, mbit, folder):
        self.mbit = mbit
        self.agent = folder / "agent"
        self.agent.write_text("#!/bin/sh\n# what ssh would do\nhost=$1\nshift\n"
                              f"case $host in *.1) name={NAMES[0]} ;; *) name={NAMES[1]} ;; esac\n"
                              'exec ip netns exec "$name" unshare --uts sh -c "hostname $name; $*"\n')
        self.agent.chmod(0o755)

    def __enter__(self):
        for name in NAMES:
            sh("ip", "netns", "add", name)
        sh("ip", "link", "add", "eth0", "netns", NAMES[0], "type", "veth", "peer", "name", "eth0", "netns", NAMES[1])
        for i, name in enumerate(NAMES, 1):
            sh("ip", "-n", name, "addr", "add", f"{NET}.{i}/24", "dev", "eth0")
            sh("ip", "-n", name, "link", "set", "eth0", "up")
            sh("ip", "-n", name, "link", "set", "lo", "up")
            # a segment offloaded to the device is larger than the bucket, so packets are cut before
            subprocess.run(["ip", "netns", "exec", name, "ethtool", "-K", "eth0", "tso", "off", "gso", "off"],
                           stderr=subprocess.DEVNULL, check=False)
            sh("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", f"{self.mbit}mbit",
               "burst", "256kb", "latency", "50ms")
        return self

    def __exit__(self, *_):
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def sent(self):
        out = subprocess.run(["ip", "netns", "exec", NAMES[0], "cat", "/sys/class/net/eth0/statistics/tx_bytes"],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        return int(out)

    def command(self, each, by_node, *program):
        return ["ip", "netns", "exec", NAMES[0], "unshare", "--uts", "sh", "-c",
                f'hostname {NAMES[0]}; exec "$@"', "sh",
                "mpirun", "--mca", "plm_rsh_agent", str(self.agent), "--mca", "btl", "tcp,self",
                "--mca", "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include", "eth0", "--bind-to", "none",
                "--host", f"{NET}.1:{each},{NET}.2:{each}", "-n", str(2 * each), "-x", f"RANKINE_BY_NODE={int(by_node)}", *program]


def train(run, model, hosts, count, each=1, by_node=True):
    """Seconds a step, in the median window; bytes a step that the first host sent."""
    folder, steps = run.folder / f"link{count}", STEPS[model] // 2
    before = hosts.sent()
    command = hosts.command(each, by_node, str(run.args.build / "rankine"), "train", str(run.config(model)), f"run.dir={folder}",
                            f"run.steps={steps}", f"log.every={steps // 6}", "parallel.threads=1")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600, env=os.environ | ROOT_USER)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = statistics.median([line["step_s"] for line in lines if "step_s" in line][1:])
    return seconds, (hosts.sent() - before) / steps


def alone(args, run, hosts):
    """Rows of one rank a host."""
    print(f"| model, batch 64, {args.mbit} Mbit/s | step, ms | compute, ms | MB sent a step | on the link, ms | step / max |")
    print("|---|---|---|---|---|---|")
    for model in args.models.split(","):
        rows = []
        for i in range(args.rounds):
            step, sent = train(run, model, hosts, f"{model}{i}")
            rows.append((1e3 * step, 64e3 / run.rate(model, 2, 1), sent / 1e6, sent * 8e-3 / args.mbit))
        step, compute, sent, wire = (statistics.median(column) for column in zip(*rows))
        ratios = [r[0] / max(r[1], r[3]) for r in rows]
        print(f"| {model} | {step:.1f} | {compute:.1f} | {sent:.2f} | {wire:.1f} | **{statistics.median(ratios):.2f}** "
              f"({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


def several(args, run, hosts):
    """Rows of several ranks a host."""
    print(f"| model, batch 64, {args.mbit} Mbit/s, {args.each} ranks a host | straight: step, ms | MB sent a step | by node: step, ms "
          "| MB sent a step | straight / by node |")
    print("|---|---|---|---|---|---|")
    for model in args.models.split(","):
        pairs = [[train(run, model, hosts, f"{model}{i}{way}", args.each, way) for way in (False, True)] for i in range(args.rounds)]
        ratios = [straight[0] / by_node[0] for straight, by_node in pairs]
        columns = [statistics.median(p[way][k] * scale for p in pairs) for way in (0, 1) for k, scale in ((0, 1e3), (1, 1e-6))]
        print(f"| {model} | {columns[0]:.1f} | {columns[1]:.2f} | {columns[2]:.1f} | {columns[3]:.2f} | "
              f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}-{max(ratios):.2f}) |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", type=Path, default=ROOT / "build")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--models", default="mlp,cnn")
    p.add_argument("--mbit", type=int, default=1000)
    p.add_argument("--each", type=int, default=1)
    args = p.parse_args()
    args.build = args.build.resolve()
    if os.getuid():
        sys.exit("link.py: needs root for network namespaces")
    assert all(model in MODELS for model in args.models.split(","))
    with tempfile.TemporaryDirectory() as folder, Hosts(args.mbit, Path(folder)) as hosts:
        (several if args.each > 1 else alone)(args, Run(args, Path(folder)), hosts)


if __name__ == "__main__":
    main()
