#!/bin/sh
# A training step on a device makes few launches, all of them in one graph; the host does not wait for it between log lines, and
# nothing is allocated: the MLP 784-512-512-10 with AdamW, counted by the stand-ins over the steps between a short run and a longer one.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
most_launches=20
most_waits=0

awk 'BEGIN {
    s = 12345
    for (j = 0; j < 784; j++) printf("x%d,", j)
    print "class"
    for (i = 0; i < 128; i++) {
        for (j = 0; j < 784; j++) {
            s = (s * 1103515245 + 12345) % 2147483648
            printf("%.3f,", s / 2147483648)
        }
        printf("c%d\n", i % 10)
    }
}' >digits.csv
cat >mlp.yaml <<END
data: {path: digits.csv}
model: {layers: [{linear: 512}, relu, {linear: 512}, relu, {linear: 10}]}
batch: {global: 64}
optim: {kind: adamw, lr: 0.001, clip_norm: 1}
END

# Launches of the kernels whose name has this in it.
launches_of() # PATTERN FILE
{
    awk -v name="$1" 'index($0, name) && $1 ~ /^[0-9]+$/ { n += $1 } END { print n + 0 }' "$2"
}

run() # STEPS FILE CONFIG OPTION...
{
    steps=$1
    file=$2
    config=$3
    shift 3
    RANKINE_CUDA="$module" RK_EMU_STATS="$file" "$rankine" train "$config.yaml" "run.dir=run-$file" "run.steps=$steps" device=cuda \
        parallel.threads=1 log.every=1000 ckpt.every=1000 eval.every=1000 "$@" >out 2>err || fail "$config, $steps steps $*"
    [ -n "$(count waits "$file")" ] || fail "$file has no count of waits"
}

# more NAME KIND: what the longer run of NAME has of it beyond the shorter one.
more()
{
    echo $(($(count "$2" "$1-long") - $(count "$2" "$1-short")))
}

# bars NAME LAUNCHES WAITS CONFIG OPTION...: of twelve steps, the launches of one. The host copies nothing back and asks for no memory.
bars()
{
    name=$1
    launches=$2
    waits=$3
    shift 3
    run 4 "$name-short" "$@"
    run 16 "$name-long" "$@"
    l=$(($(more "$name" launches) / 12))
    w=$(more "$name" waits)
    g=$(more "$name" graph_launches)
    echo "$name: $l launches a step, $g graphs and $w waits of the host in 12 steps"
    # A list of 256 operations, copies among them, goes as a graph of its own.
    [ "$g" -ge 12 ] && [ "$g" -le $((12 * (1 + l / 220))) ] || fail "$name: $l launches a step go as $g graphs in 12 steps"
    [ $l -le "$launches" ] || fail "$name: $l launches a step, at most $launches are wanted"
    [ "$w" -le "$waits" ] || fail "$name: the host waits $w times in 12 steps, at most $waits times is wanted"
    for kind in allocations frees pinned plain_launches graphs_made; do
        [ "$(more "$name" $kind)" -eq 0 ] || fail "$name: $(more "$name" $kind) $kind in 12 steps"
    done
    for kernel in step_kernel judge_kernel piece_squares_kernel; do
        n=$(($(launches_of $kernel "$name-long") - $(launches_of $kernel "$name-short")))
        [ $n -ge 12 ] || fail "$name: $n launches of $kernel in 12 steps, so the optimiser was not counted"
    done
}

sed -e 's/{linear: 512}/{linear: 48}/g' mlp.yaml >narrow.yaml

bars adamw $most_launches $most_waits mlp
bars averages $((most_launches + 1)) $most_waits narrow optim.ema=0.9
bars sgd $most_launches $most_waits narrow optim.kind=sgd optim.momentum=0.9
# A wait a log line.
bars logged $most_launches 6 narrow log.every=2

# Products by cuBLASLt are in the graph too; the sums of three biases' gradients and two masks of ReLU come with them. Operands of 16
# bits are converted: weights once a step, whatever the micro-batches, and gradients once for both products that read them.
bars inexact 15 $most_waits mlp batch.global=16 parallel.exact=false
bars inexact_bf16 30 $most_waits narrow batch.global=16 parallel.exact=false compute=bf16

# More parameters than travel with a launch, statistics that run along, micro-batches; batches that are all of a size.
. "$root/tests/equivalence/networks.sh"
bars resnet 210 $most_waits resnet batch.global=24
bars micro 290 $most_waits mlp batch.global=24 batch.micro=3

# more_of NAME KIND RANKS: the same over the ranks of a job.
more_of()
{
    sum=0
    r=0
    while [ $r -lt "$3" ]; do
        sum=$((sum + $(count "$2" "$1-long-$r") - $(count "$2" "$1-short-$r")))
        r=$((r + 1))
    done
    echo $sum
}

# alone NAME RANKS CONFIG OPTION...: over twelve steps after $begun, between log lines no rank's host waits for its device, or reads of it, or asks for memory, whatever is
# judged there: sums of all ranks, a loss scale that moves, tensor shards, the steps of workers.
alone()
{
    name=$1
    n=$2
    config=$3
    shift 3
    for file in "$name-short" "$name-long"; do
        steps=$begun
        [ "$file" = "$name-short" ] || steps=$((begun + 12))
        RANKINE_CUDA="$module" RK_EMU_DEVICES=$n ranks "$n" sh -c 'RK_EMU_STATS=$0-${OMPI_COMM_WORLD_RANK:-0} exec "$@"' "$file" "$rankine" \
            train "$config.yaml" "run.dir=run-$file" "run.steps=$steps" device=cuda parallel.threads=1 log.every=1000 ckpt.every=1000 \
            eval.every=1000 batch.global=24 "$@" >out 2>err || fail "$config on $n ranks, $steps steps $*"
    done
    for kind in waits copies_out allocations frees pinned; do
        [ "$(more_of "$name" $kind "$n")" -eq 0 ] || fail "$name: $(more_of "$name" $kind "$n") $kind of $n ranks in 12 steps"
    done
    r=0
    while [ $r -lt "$n" ]; do
        k=$(($(launches_of judge_kernel "$name-long-$r") - $(launches_of judge_kernel "$name-short-$r")))
        [ $k -ge 12 ] || fail "$name: $k launches of judge_kernel in 12 steps of rank $r: it was not judged there"
        r=$((r + 1))
    done
    echo "$name: $(($(more_of "$name" launches "$n") / 12 / n)) launches a step and rank, no waits of the host on $n ranks in 12 steps"
}

begun=4
alone half 1 mlp compute=f16
alone averaged 1 mlp optim.ema=0 parallel.strategy=average average.workers=2 average.every=100
if grep -q ncclCommInitRankConfig "$module"; then
    # A step is one graph of each rank, with what they exchange; it is made after the first exchanges, and they wait for each other as
    # long as it takes.
    begun=10
    export RANKINE_NCCL_PATIENCE=20
    alone two 2 mlp
    unset RANKINE_NCCL_PATIENCE
    grep -q 'by NCCL' out || fail "tensors of 2 ranks do not go by NCCL"
    [ "$(more_of two graph_launches 2)" -eq 24 ] || fail "two: $(more_of two graph_launches 2) graphs of 2 ranks in 12 steps"
    for kind in plain_launches graphs_made; do
        [ "$(more_of two $kind 2)" -eq 0 ] || fail "two: $(more_of two $kind 2) $kind in 12 steps"
    done
    begun=4
    alone pieces 2 mlp parallel.zero=3 batch.micro=3 compute=f16
    alone norms 2 resnet parallel.zero=0
    sed -e 's/layers: .*/layers: [{linear: 128}, gelu, {linear: 128}, relu, linear]}/' mlp.yaml >wide.yaml
    alone shards 2 wide grid.tensor=2 parallel.tensor=2
fi
