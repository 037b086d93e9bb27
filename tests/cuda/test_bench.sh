#!/bin/sh
# rankine bench on the device: times are those of the work, not of asking for it, and sums of ranks are right whichever way they go.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
export RANKINE_CUDA="$module"

# sums RANKS DEVICE PATTERN SETTING...: a table without a wrong value, and which way they went. A busy machine may have
# time for the first size only.
sums()
{
    n=$1
    kind=$2
    pattern=$3
    shift 3
    ranks "$n" env "$@" "$rankine" bench comm --device "$kind" --seconds 0.01 --threads 1 >out 2>err || fail "sums of $n ranks on $kind, $*"
    grep -Eq "^# sum over $n ranks, $kind .* tensors go $pattern" out || fail "sums do not tell that they go $pattern"
    [ "$(grep -Ec '^ +[0-9]+ +[0-9]+ [|] +[0-9.]+ +[0-9.]+ +[0-9.]+ +0( |$)' out)" -ge 1 ] || fail "no row that is right"
    [ "$(grep -vc '^#' out)" -eq "$(grep -Ec ' 0( [|].*)?$' out)" ] || fail "values are not the sum"
}
if stand_ins; then
    sums 2 cuda "over MPI and the host's memory: ranks 0 and 1 share a GPU" RK_EMU_DEVICES=1
    sums 3 cuda "over MPI and the host's memory" RK_EMU_DEVICES=1 # more than two parts: partial sums
else
    sums 2 cuda '(over MPI|from GPU to GPU)' RANKINE_NCCL=
fi
! grep -q Allreduce out || fail "a device's sums are compared with those of the host's memory"
if stand_ins && nccl_there; then
    sums 2 cuda 'from GPU to GPU by NCCL' RK_EMU_DEVICES=2
fi
sums 2 cpu 'through shared memory'
grep -q 'MPI_Allreduce of the host' out || fail "what MPI is compared with is not told"

# What the host computes for the device is no faster than the host, and no GPU has more than this by its float32 units.
peak=200000
said=cuda
if stand_ins; then
    expect 0 'measured peak' "$rankine" doctor --device cpu
    peak=$(sed -n 's/.*measured peak \([0-9.]*\) GFLOP.*/\1/p' out)
    said='say nothing about a GPU'
fi
expect 0 "$said" "$rankine" bench --device cuda --seconds 0.01
! grep -q peak out || fail "a device is measured against the processor's peak"
[ "$(grep -Ec ' x .* [0-9.]+ +[0-9.]+$' out)" -eq 6 ] || fail "not six rows"
awk -v peak="$peak" '/ x / && ($NF > peak || $(NF - 1) <= 0) { print; bad = 1 } END { exit bad }' out >err ||
    fail "faster than $peak GFLOP/s, which cannot be"
expect 64 'seconds is "0"' "$rankine" bench --seconds 0

# Buckets are measured until the bytes are there: each gather of the measurement is waited for, before it and after it.
make_csv points.csv 200
make_config mlp.yaml
waits() # RUN OPTION: of two ranks that make one step, in a shell of its own
{
    rm -rf stats
    export RK_EMU_DEVICES=2 RK_EMU_STATS="$dir/stats"
    train cuda "$1" mlp 2 run.steps=1 "$2"
    count waits stats
}
if stand_ins; then
    given=$(waits given parallel.bucket=64)
    measured=$(waits measured run.seed=7)
    [ "$measured" -ge $((given + 2 * 2 * 2 * 5)) ] || fail "$measured waits with buckets that are measured, $given with buckets that are given"
fi
