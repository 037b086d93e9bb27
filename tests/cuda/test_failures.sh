#!/bin/sh
# The n-th call of CUDA's or cuBLAS's fails in a short training with snapshots: the program says so in one line with CUDA's words, or
# does without; nothing hangs or leaks; and the same command then goes on from the last snapshot to the same weights.
# EVERY=1 tries each n; otherwise a sample of them.
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

# attempt RUN OPTION...: its exit status
attempt()
{
    run=$1
    shift
    status=0
    timeout 60 "$rankine" train small.yaml "run.dir=$run" device=cuda parallel.threads=1 "$@" >out 2>err || status=$?
    grep -v '^rk_emu: call ' err >said || true
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
    failures=0
    n=1
    while [ "$n" -le "$calls" ]; do
        rm -rf run
        RK_EMU_FAIL=$n
        export RK_EMU_FAIL
        attempt run "$@"
        unset RK_EMU_FAIL
        case $status in
        0) [ "$(hash_of run)" = "$(hash_of whole)" ] || fail "$what: call $n failed, and other weights came of it" ;;
        70 | 71 | 78)
            failures=$((failures + 1))
            [ "$(wc -l <said)" -eq 1 ] || fail "$what: call $n failed, and not one line tells of it"
            grep -Eq '^rankine: .*(GPU|CUDA|cuda|cuBLAS)' said || fail "$what: call $n failed, and the message does not say what"
            attempt run "$@"
            [ $status -eq 0 ] || fail "$what: call $n failed, and the same command does not go on"
            [ "$(hash_of run)" = "$(hash_of whole)" ] || fail "$what: call $n failed, and going on came to other weights"
            ;;
        *) fail "$what: call $n failed, and the exit status is $status" ;;
        esac
        n=$((n + step))
    done
    [ $failures -gt 4 ] || fail "$what: only $failures of the calls that were made to fail did"
    echo "$what: $failures failed trainings of $calls calls, each $step"
}

failing exact
exact_calls=$calls
failing inexact parallel.exact=false

# A GPU that is gone amid the run: all calls fail from there on.
rm -rf lost
RK_EMU_FAIL=$((exact_calls * 3 / 4))+ RK_EMU_ERROR=214 sh -c 'exec "$0" "$@"' "$rankine" train small.yaml run.dir=lost device=cuda >out 2>err && fail "lost: trains without a GPU"
grep -q '^rankine: .*GPU 0: uncorrectable ECC error.*nvidia-smi.*the last good one is of step [0-9]' err || fail "lost: the message does not help"
"$rankine" verify lost >out 2>err || fail "lost: its snapshots are damaged"
attempt lost
[ "$(hash_of lost)" = "$(rm -rf whole; attempt whole; hash_of whole)" ] || fail "lost: going on came to other weights"

# A GPU that cannot be used is told in one sentence before anything begins.
unusable() # PATTERN SETTING...
{
    pattern=$1
    shift
    expect 70 "^rankine: device cuda: $pattern" env "$@" "$rankine" train small.yaml run.dir=unusable device=cuda
}
unusable 'the NVIDIA driver is missing or too old for CUDA [0-9.]*; install a newer one' RK_EMU_DEVICES=-1
unusable 'no GPU is visible; CUDA_VISIBLE_DEVICES is 7' RK_EMU_DEVICES=0 CUDA_VISIBLE_DEVICES=7
unusable '.*has no code for it; build with its number in RANKINE_CUDA_ARCHITECTURES' RK_EMU_ARCH=130
unusable 'GPU 0 .* has compute capability 7.5; the kernels need 8.0 or newer' RK_EMU_ARCH=75
echo "every failure was told, nothing leaked, and each run went on to the same weights"
