"""Training steps under PyTorch's DistributedDataParallel over gloo, one process a rank, threads of their own each.

    ddp.py MODEL BATCH RANKS THREADS SECONDS

BATCH is the global one. Prints one JSON line: samples_per_s of the median step of the first rank.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from models import MODELS


def rank_main(rank, name, batch, ranks, threads, seconds):
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    os.sched_setaffinity(0, {c for c in sorted(os.sched_getaffinity(0))[rank * threads:(rank + 1) * threads]}
                         or os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    model, shape = MODELS[name]()
    model = DistributedDataParallel(model)
    x, y = torch.randn(batch // ranks, *shape), torch.randint(0, 10, (batch // ranks,))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        opt.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        opt.step()

    for _ in range(5):
        step()
    go, times, start = torch.ones(1), [], time.perf_counter()
    while True: # the first rank says when it is enough
        t = time.perf_counter()
        step()
        times.append(time.perf_counter() - t)
        if len(times) % 10 == 0:
            go[0] = time.perf_counter() - start < seconds
            dist.broadcast(go, 0)
            if not go[0]:
                break
    if rank == 0:
        times.sort()
        print(json.dumps({"samples_per_s": batch / times[len(times) // 2], "steps": len(times),
                          "torch": torch.__version__}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    name, (batch, ranks, threads), seconds = sys.argv[1], map(int, sys.argv[2:5]), float(sys.argv[5])
    mp.spawn(rank_main, (name, batch, ranks, threads, seconds), nprocs=ranks)
