#!/bin/sh
# What a run is told to need is what it takes, within 5%, for every stage of parallel.zero, for tensor shards and for workers; what
# is named fits; and weights that ranks share are never whole on one of them.
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

# Cut parameters, on ranks that share the batch and on others; weights are never whole while a run is set up.
for zero in 1 3; do
    holds stack 4 grid.tensor=2 parallel.tensor=2 parallel.zero=$zero
done
holds stack 4 grid.tensor=4 parallel.tensor=4 optim.kind=sgd
holds stack 4 grid.tensor=4 parallel.tensor=2 batch.micro=2
# Workers: all of them on one rank, or shared by ranks; averaged in each step, or at the end.
for outer in none nesterov; do
    holds stack 1 parallel.strategy=average average.workers=2 average.outer=$outer
    holds stack 2 parallel.strategy=average average.workers=2 average.outer=$outer
    holds stack 3 parallel.strategy=average average.workers=4 average.outer=$outer average.every=1
done
holds stack 2 parallel.strategy=average average.workers=4 optim.ema=0.9 optim.kind=sgd

# What is named is what the configuration allows, and it does.
names() # RANKS MEMORY PATTERN OPTION...: sets $named
{
    n=$1 room=$2 pattern=$3
    shift 3
    trained stack run "$n" "$room" "$@" && fail "stack on $n ranks $*: $room bytes were enough"
    named=$(says "; $pattern")
    [ -n "$named" ] || fail "stack on $n ranks $*: not named: $pattern: $(cat err)"
}
names 4 13000000 'parallel.zero \(.\) would need' grid.tensor=2 parallel.tensor=2
trained stack run 4 13000000 grid.tensor=2 parallel.tensor=2 parallel.zero="$named" || fail "parallel.zero $named does not fit: $(cat err)"
names 2 14500000 'parallel.zero 3 on \([0-9]*\) ranks would fit' grid.tensor=2 parallel.tensor=2
trained stack run "$named" 14500000 grid.tensor=2 parallel.tensor=2 parallel.zero=3 || fail "$named ranks do not fit: $(cat err)"
names 1 65000000 '\([0-9]*\) ranks would fit' parallel.strategy=average average.workers=4
trained stack run "$named" 65000000 parallel.strategy=average average.workers=4 || fail "$named ranks do not fit: $(cat err)"
# A worker cannot be shared.
names 2 45000000 '\(a smaller model or a GPU with more memory would fit\)' parallel.strategy=average average.workers=2
grep -q 'parallel.zero' err && fail "workers are told of parallel.zero: $(cat err)"

# 48 layers of 256, no state: 12.4 MB of weights. Four fifths of that are enough for 8 ranks, from the start on.
stack tall.yaml 256 48
trained tall run 8 9900000 parallel.zero=3 optim.kind=sgd || fail "tall: weights shared by 8 ranks do not fit: $(cat err)"
grep -q 'model: 3,' out || fail "tall: not so many weights: $(cat out)"
echo "$told stages and ranks, and 15 more runs: what they are told to need is right within 5%, and what is named fits"
