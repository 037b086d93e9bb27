#!/bin/sh
# What gpu-check runs on a GPU passes on the device that runs on the host, with one GPU, and with two, as machines have them.
. "$(dirname "$0")/../cli/lib.sh"
module=$build/librankine_cuda_host.so
if [ ! -x "$build/benchmarks/bench_gpu" ] || [ ! -e "$module" ]; then
    echo "skipped: built without the benchmarks or librankine_cuda_host.so"
    exit 77
fi
export RANKINE_CUDA="$module" STEPS=16 RK_EMU_GUARD=off
RK_EMU_DEVICES=2 "$root/tools/gpu-check.sh" "$build" "$dir/report" >out 2>err || fail "gpu-check on the host"
for what in 'every kernel' 'odd numbers' 'shapes' 'copies' 'cuBLASLt' 'held back' 'trainings, 16 steps' 'near the CPU' 'graphs' \
    'bad steps'; do
    grep -q "^passed *.*$what" out || fail "gpu-check did not run: $what"
done
! grep -Eq '^(FAILED|skipped)' out || fail "something was skipped"
grep -q 'trainings, 16 steps.*left out [0-9]* of more GPUs than 2$' out || fail "what needs more than two GPUs is not told"
RK_EMU_DEVICES=1 ONLY=trainings "$root/tools/gpu-check.sh" "$build" "$dir/report" >out 2>err || fail "gpu-check on one GPU"
grep -q '^passed *.*trainings, 16 steps.*left out [0-9]* of more GPUs than 1$' out || fail "what needs two GPUs is not told"
echo "gpu-check passes on the device that runs on the host, with one GPU and with two"
