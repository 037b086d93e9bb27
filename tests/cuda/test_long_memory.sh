#!/bin/sh
# What a run is told to need is what it takes, within 5%, for every stage of parallel.zero; and weights that ranks share are
# never whole on one of them.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
. "$root/tests/cuda/memory.sh"
stack stack.yaml 512 8
told=0
for zero in 0 1 2 3; do
    for n in 2 3 4; do
        holds stack $n parallel.zero=$zero
        told=$((told + 1))
    done
done
holds stack 1 optim.ema=0.9
holds stack 4 batch.micro=2 parallel.zero=3
holds stack 4 batch.micro=2 parallel.zero=1
holds stack 4 parallel.bucket=300000 parallel.zero=2

# 48 layers of 256, no state: 12.4 MB of weights. Four fifths of that are enough for 8 ranks, from the start on.
stack tall.yaml 256 48
trained tall run 8 9900000 parallel.zero=3 optim.kind=sgd || fail "tall: weights shared by 8 ranks do not fit: $(cat err)"
grep -q 'model: 3,' out || fail "tall: not so many weights: $(cat out)"
echo "$told stages and ranks, and 4 more runs: what they are told to need is right within 5%"
