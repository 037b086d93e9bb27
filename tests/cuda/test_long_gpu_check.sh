#!/bin/sh
# What gpu-check runs on a GPU passes on the device that runs on the host.
. "$(dirname "$0")/../cli/lib.sh"
module=$build/librankine_cuda_host.so
if [ ! -x "$build/benchmarks/bench_gpu" ] || [ ! -e "$module" ]; then
    echo "skipped: built without the benchmarks or librankine_cuda_host.so"
    exit 77
fi
RANKINE_CUDA=$module STEPS=16 "$root/tools/gpu-check.sh" "$build" >out 2>err || fail "gpu-check on the host"
for what in 'every kernel' 'odd numbers' 'shapes' 'copies' 'cuBLASLt' 'trainings, 16 steps'; do
    grep -q "^passed *.*$what" out || fail "gpu-check did not run: $what"
done
grep -q '| passed |' "$build/gpu-check.md" || fail "gpu-check wrote no report"
rm -f "$build/gpu-check.md" "$build/gpu-check.log"
echo "gpu-check passes on the device that runs on the host"
