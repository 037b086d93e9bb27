#!/usr/bin/env python3
"""For contrast: the same network trained by PyTorch's DistributedDataParallel (gloo) on 1, 2 and 4 processes, and how many of
its parameters differ from those of one process, bit by bit. Prints; nothing here is ours to pass or fail but that it runs."""
import os
import socket
import sys

try:
    import numpy
    import torch
    import torch.distributed
    import torch.multiprocessing
except ImportError as missing:
    print(f"skipped: {missing.name} is not installed")
    sys.exit(77)

STEPS, BATCH, INPUTS, CLASSES = 60, 64, 784, 10


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(INPUTS, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
                               torch.nn.Linear(512, CLASSES))


def data():
    """The same batches for every number of processes."""
    generator = numpy.random.default_rng(1)
    x = generator.standard_normal((STEPS, BATCH, INPUTS), dtype=numpy.float32)
    return torch.from_numpy(x), torch.from_numpy(generator.integers(0, CLASSES, (STEPS, BATCH)))


def work(rank, ranks, port, out):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    net = torch.nn.parallel.DistributedDataParallel(network())
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
    x, y = data()
    share = BATCH // ranks
    for step in range(STEPS):
        mine = slice(rank * share, (rank + 1) * share)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(x[step, mine]), y[step, mine]).backward()
        optimiser.step()
    if rank == 0:
        torch.save([p.detach().clone() for p in net.module.parameters()], out)
    torch.distributed.destroy_process_group()


def train(ranks):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = f"ddp-{os.getpid()}-{ranks}.pt"
    try:
        torch.multiprocessing.spawn(work, (ranks, port, out), nprocs=ranks)
        return torch.cat([p.flatten() for p in torch.load(out)])
    finally:
        if os.path.exists(out):
            os.unlink(out)


if __name__ == "__main__":
    weights = {ranks: train(ranks) for ranks in (1, 2, 4)}
    again = train(2)
    for ranks in (2, 4):
        differ = int((weights[ranks].view(torch.int32) != weights[1].view(torch.int32)).sum())
        far = float((weights[ranks] - weights[1]).abs().max())
        print(f"PyTorch {torch.__version__} DDP, {STEPS} steps: {ranks} processes against one: {differ:,} of "
              f"{weights[1].numel():,} parameters differ ({100 * differ / weights[1].numel():.1f}%), by at most {far:.1e}")
    differ = int((again.view(torch.int32) != weights[2].view(torch.int32)).sum())
    print(f"2 processes twice: {differ:,} differ")
