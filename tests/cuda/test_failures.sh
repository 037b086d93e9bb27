#!/bin/sh
# The n-th call of CUDA's or cuBLAS's fails in a short training with snapshots: the program says so in one line with CUDA's words, or
# does without; nothing hangs or leaks; and the same command then goes on from the last snapshot to the same weights. Errors of CUDA's
# take turns; each has its exit code, its name and what it means, and only too little memory has advice about memory.
# EVERY=1 tries each n; otherwise a sample of them. MORE=1: a sample for a CNN and for one rank of two, by NCCL and over MPI, instead.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cuda/device.sh"
. "$root/tests/equivalence/table.sh"
export RANKINE_CUDA="$module"
cat >small.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: 40}, relu, {layer_norm: {}}, {linear: 24}, gelu, linear]}
batch: {global: 64}
optim: {lr: 0.01, clip_norm: 1, ema: 0.9}
run: {steps: 3, seed: 5}
ckpt: {every: 1}
eval: {every: 2, batch: 40}
END

# Of two ranks one fails and is counted, and mpirun has words of its own.
config=small
who=GPU # or what else the message names
of=1
limit=60
on_ranks() # COMMAND...
(
    if [ $of -eq 1 ]; then
        timeout $limit "$@"
    else
        ranks $of sh -c '[ $OMPI_COMM_WORLD_RANK -eq 1 ] || unset RK_EMU_FAIL RK_EMU_STATS; exec "$@"' sh "$@"
    fi
)

# attempt RUN OPTION...: its exit status
attempt()
{
    run=$1
    shift
    status=0
    on_ranks "$rankine" train "$config.yaml" "run.dir=$run" device=cuda parallel.threads=1 "$@" >out 2>err || status=$?
    grep -v '^rk_emu: call ' err >said || true
    [ $of -eq 1 ] || { grep -q 'rk_emu: [a-z]*: ' said && status=86; grep '^rankine: ' err >said; } || true
}

# What is there of snapshots is whole.
whole_snapshots() # RUN WHAT
{
    ls "$1"/snap/step-* >/dev/null 2>&1 || return 0
    "$rankine" verify "$1" >out 2>err || fail "$2: its snapshots are damaged"
    verified=$((verified + 1))
}

# told N: what the failed call must have come to: $want, the exit status; $words, in the message; $never, which is not in it.
told()
{
    never='needs about|batch\.micro|would fit'
    call=$(sed -n 's/^rk_emu: call [0-9]*, \(.*\), is made to fail.*/\1/p' err)
    case $call:$error in
    cublas*) want=70 words='CUBLAS_STATUS_INTERNAL_ERROR.*parallel.exact: true does without' ;;
    cudaGetDeviceCount:*) want=70 words='cannot be counted: .*(cudaError' ;;
    *:2) want=71 words='out of memory (cudaErrorMemoryAllocation)' never='would need|would fit|the same command' ;;
    *:214) want=70 words='(cudaErrorECCUncorrectable)' ;;
    *) want=70 words='(cudaErrorIllegalAddress)' ;;
    esac
    [ $of -eq 1 ] && return
    # What the other rank notices first may be that memory runs out here, or that this one is gone.
    words= never='^$' who='\(GPU\|NCCL\)'
    case $status in 70 | 71) want=$status ;; esac
}

# every N-TH... of a training with these options
failing() # WHAT OPTION...
{
    what=$1
    shift
    rm -rf whole stats
    RK_EMU_STATS=$dir/stats
    export RK_EMU_STATS
    attempt whole "$@"
    unset RK_EMU_STATS
    [ $status -eq 0 ] || fail "$what: does not train"
    calls=$(sed -n 's/^calls *\([0-9]*\) .*/\1/p' stats)
    step=${EVERY:-$((calls / 16 + 1))}
    failures=0 enough=0 verified=0
    error=2
    n=1
    while [ "$n" -le "$calls" ]; do
        rm -rf run
        RK_EMU_FAIL=$n RK_EMU_ERROR=$error
        export RK_EMU_FAIL RK_EMU_ERROR
        attempt run "$@"
        told
        unset RK_EMU_FAIL RK_EMU_ERROR
        case $status in
        0) [ "$(hash_of run)" = "$(hash_of whole)" ] || fail "$what: call $n failed, and other weights came of it" ;;
        "$want")
            failures=$((failures + 1))
            [ "$(wc -l <said)" -eq 1 ] || fail "$what: call $n failed, and not one line tells of it"
            grep -q "^rankine: .*$who.*$words" said || fail "$what: call $n, $call, failed with $error, and the message does not say so"
            grep -Eq "$never" said && fail "$what: call $n, $call, failed with $error, and the message advises what does not help"
            grep -q 'can be had, which is enough: another process' said && enough=$((enough + 1))
            whole_snapshots run "$what: call $n failed"
            attempt run "$@"
            [ $status -eq 0 ] || fail "$what: call $n failed, and the same command does not go on"
            [ "$(hash_of run)" = "$(hash_of whole)" ] || fail "$what: call $n failed, and going on came to other weights"
            ;;
        *) fail "$what: call $n, $call, failed with $error, and the exit status is $status" ;;
        esac
        n=$((n + step))
        case $error in 2) error=214 ;; 214) error=700 ;; *) error=2 ;; esac
    done
    [ $failures -gt 4 ] || fail "$what: only $failures of the calls that were made to fail did"
    [ $of -gt 1 ] || [ $enough -gt 0 ] || fail "$what: no message tells that memory is there"
    [ $verified -gt 0 ] || fail "$what: no failure left a snapshot to look at"
    echo "$what: $failures failed trainings of $calls calls, each $step; $verified left snapshots, which are whole"
}

# Layers of other kinds, and ranks of which one fails: it ends both.
if [ -n "${MORE-}" ]; then
    . "$root/tests/cli/mpi.sh"
    sed -e 's/layers: .*/layers: [{linear: 36}, {reshape: [1, 6, 6]}, {conv2d: {out: 3, pad: 1}}, batch_norm, relu, max_pool, {conv2d: {out: 4}}, flatten, linear]}/' small.yaml >conv.yaml
    config=conv
    EVERY=13
    failing cnn
    of=2
    EVERY=61
    for config in small conv; do
        for way in 1,MPI 2,NCCL; do
            export RK_EMU_DEVICES="${way%,*}" TMPDIR="$dir"
            failing "$config on two ranks by ${way#*,}"
            attempt whole run.steps=4
            grep -q "tensors go .*${way#*,}" out || fail "tensors of two ranks do not go by ${way#*,}"
        done
    done
    echo "a CNN, and ranks of which one fails: every failure was told, and each run went on to the same weights"
    exit 0
fi

failing exact
exact_calls=$calls
failing inexact parallel.exact=false

# A graph that cannot be made is a failure where it is demanded, and what to do about it is not to demand it.
n=200
while [ $n -lt 600 ]; do
    rm -rf graph
    RK_EMU_FAIL=$n; export RK_EMU_FAIL
    attempt graph device.graph=on run.steps=6 ckpt.every=9 eval.every=9
    unset RK_EMU_FAIL
    n=$((n + 17))
    grep -q '^rk_emu: call [0-9]*, cudaGraph\(Add\|Create\|Inst\)' err || continue
    [ $status -eq 71 ] || fail "graph: the exit status is $status"
    grep -q 'out of memory (cudaErrorMemoryAllocation).*device.graph: auto launches' said || fail "graph: the message does not help"
    grep -Eq 'needs about|would fit' said && fail "graph: other advice than of graphs"
    graphs=there
    break
done
[ "${graphs-}" ] || fail "graph: none of these calls made one"

# A GPU that is gone amid the run: all calls fail from there on.
rm -rf lost
RK_EMU_FAIL=$((exact_calls * 3 / 4))+ RK_EMU_ERROR=214 sh -c 'exec "$0" "$@"' "$rankine" train small.yaml run.dir=lost device=cuda >out 2>err && fail "lost: trains without a GPU"
grep -q '^rankine: .*GPU 0: uncorrectable ECC error.*nvidia-smi.*The last good snapshot is of step [0-9]' err || fail "lost: the message does not help"
"$rankine" verify lost >out 2>err || fail "lost: its snapshots are damaged"
attempt lost
[ "$(hash_of lost)" = "$(rm -rf whole; attempt whole; hash_of whole)" ] || fail "lost: going on came to other weights"

# A GPU that cannot be used is told in one sentence before anything begins; with device=auto the processor trains to the same weights,
# and the banner says why.
unusable() # PATTERN SETTING...
{
    reason=$1
    shift
    rm -rf unusable
    expect 70 "^rankine: device cuda: $reason; device: cpu trains without a GPU" \
        env "$@" "$rankine" train small.yaml run.dir=unusable device=cuda run.steps=1
    expect 0 " on the processor: $reason$" env "$@" "$rankine" train small.yaml run.dir=unusable device=auto run.steps=1
    grep -q 'rankine [0-9.]*: cpu ' out || fail "device=auto takes another device than the processor: $*"
    [ "$(hash_of unusable)" = "$want" ] || fail "other weights on the processor: $*"
}
rm -rf whole
attempt whole run.steps=1
want=$(hash_of whole)
unusable 'there is no NVIDIA driver \(libcuda.so.1\)' RK_EMU_DEVICES=-1
unusable 'the NVIDIA driver is too old: it goes up to CUDA 11.4, and this build is of [0-9.]*' RK_EMU_DEVICES=-2
unusable 'no GPU is visible; CUDA_VISIBLE_DEVICES is 7' RK_EMU_DEVICES=0 CUDA_VISIBLE_DEVICES=7
unusable 'no GPU is visible; CUDA_VISIBLE_DEVICES is empty' RK_EMU_DEVICES=0 CUDA_VISIBLE_DEVICES=
unusable 'GPU 0 [^,]*, compute capability 13.0.: .*has no code for it; build with its number in RANKINE_CUDA_ARCHITECTURES' RK_EMU_ARCH=130
unusable 'GPU 0 .* has compute capability 7.5; the kernels need 8.0 or newer' RK_EMU_ARCH=75
rm -rf unusable
RK_EMU_FAIL=1 expect 0 'on the processor: the GPUs cannot be counted: unknown error' "$rankine" train small.yaml run.dir=unusable run.steps=1
for verb in eval predict; do
    RK_EMU_ARCH=75 expect 0 '^rankine: on the processor: GPU 0 .* has compute capability 7.5' "$rankine" $verb unusable
    RK_EMU_DEVICES=0 "$rankine" $verb unusable 2>&1 >out | grep . && fail "$verb speaks of a GPU where there is none"
done

# doctor tells of the same, on the rows of the device and of CUDA, and ends as for every row that is bad.
doctor() # CODE DEVICE-ROW CUDA-ROW OPTION SETTING...
{
    status=0
    want=$1
    device_row=$2
    cuda_row=$3
    option=$4
    shift 4
    env "$@" "$rankine" doctor --threads 1 --device "$option" >out 2>err || status=$?
    [ "$status" -eq "$want" ] || fail "doctor ends with $status: $option $*"
    [ ! -s err ] || fail "doctor speaks on stderr: $option $*"
    grep -Eq "^$device_row" out || fail "doctor has no row $device_row: $option $*"
    grep -Eq "^$cuda_row" out || fail "doctor has no row $cuda_row: $option $*"
    grep -q '^ok    disk' out || fail "doctor does not end: $option $*"
}
host_run='host-run: RANKINE_CUDA names a library that runs kernels on the host, for tests'
doctor 0 'ok    device     cuda ' "ok    cuda       $host_run, as 1 GPU; " auto RK_EMU_DEVICES=1
doctor 70 'ok    device     cpu ' "BAD   cuda       $host_run, as 1 GPU, but GPU 0 .* capability 5.0; .*; " auto RK_EMU_ARCH=50
doctor 70 'BAD   device     device cuda: GPU 0 .* has no code for it' "BAD   cuda       .* has no code for it" cuda RK_EMU_ARCH=130
doctor 0 'ok    device     cpu ' "note  cuda       .* capability 5.0; " cpu RK_EMU_ARCH=50
doctor 0 'ok    device     cpu ' "note  cuda       $host_run, but there is no NVIDIA driver .*; " auto RK_EMU_DEVICES=-1
doctor 0 'ok    device     cpu ' "note  cuda       $host_run, but no GPU is visible; " auto RK_EMU_DEVICES=0
doctor 70 'BAD   device     device cuda: no GPU is visible' "note  cuda" cuda RK_EMU_DEVICES=0
doctor 70 'ok    device     cpu ' "BAD   cuda       .* driver is too old: .*; " auto RK_EMU_DEVICES=-2
doctor 78 'BAD   device     device auto: /etc/passwd cannot be loaded: [^/]*; device: cpu trains' 'note  cuda' auto RANKINE_CUDA=/etc/passwd
# Settings that say nothing are refused on one rank, too.
expect 78 'RANKINE_NCCL is maybe, wanted 0 ' env RANKINE_NCCL=maybe "$rankine" train small.yaml run.dir=none device=cuda
sed 's/^run:/device: [cuda]\nrun:/' small.yaml >list.yaml
expect 78 'device: a list, wanted auto, cpu or cuda, or a map: {kind: cuda' "$rankine" train list.yaml run.dir=none
echo "every failure was told, nothing leaked, and each run went on to the same weights"
