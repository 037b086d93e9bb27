#!/bin/sh
# What the tests show of the CUDA device on the host, shown on a GPU: gpu-check.sh BUILD. Writes BUILD/gpu-check.md, and
# ends with 1 if anything failed, with 69 if there is no GPU. RANKINE_CUDA names another library than
# BUILD/librankine_cuda.so.
set -u
build=$(cd "${1:-build}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$build" || exit 66
export RANKINE_CUDA="${RANKINE_CUDA:-$build/librankine_cuda.so}" RK_TEST_GPU=1
report=$build/gpu-check.md
failed=0

# check TITLE COMMAND...: its last line, or all of it if it fails.
check()
{
    title=$1
    shift
    begun=$(date +%s)
    "$@" >gpu-check.log 2>&1
    status=$?
    case $status in
    0) result=passed ;;
    77) result=skipped ;;
    *)
        result="FAILED ($status)"
        failed=1
        ;;
    esac
    printf '%-8s %s (%d s): %s\n' "$result" "$title" $(($(date +%s) - begun)) "$(tail -n 1 gpu-check.log)"
    printf '| %s | %s | %s |\n' "$title" "$result" "$(tail -n 1 gpu-check.log | tr '|' '/')" >>"$report"
    [ "$failed" -eq 0 ] || [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || sed 's/^/    /' gpu-check.log
}

what=$("$build/rankine" doctor 2>&1 | sed -n 's/^[a-zA-Z]* *cuda: *//p' | head -n 1)
if ! "$build/benchmarks/bench_gpu" once add 0 >gpu-check.log 2>&1; then
    echo "gpu-check: no GPU can be used: $(tail -n 1 gpu-check.log)" >&2
    echo "gpu-check: rankine doctor says what is missing; make check runs the same kernels on the host" >&2
    exit 69
fi
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU') || gpus=1
{
    printf '# The CUDA device on this machine, %s\n\n' "$(date -u +%Y-%m-%d)"
    printf -- '- %s\n' "${what:-$RANKINE_CUDA}" "$("$build/rankine" version | head -n 1)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | sed 's/^/- /'
    printf '\n| what | result | |\n|---|---|---|\n'
} >"$report"

check "every kernel, all devices, bit by bit" tests/conformance_test_kernels
check "the CPU's bits on ordinary and odd numbers" tests/cuda_test_same_bits
check "shapes, strides, segments" tests/cuda_test_shapes
check "copies and casts" tests/cuda_test_copy
check "products in any order, by cuBLASLt" tests/cuda_test_blas
check "weights that are kept in 16 bits" tests/cuda_test_rounded
check "whole trainings, ${STEPS=60} steps: the CPU's hashes" env STEPS="$STEPS" "$root/tests/cuda/test_train.sh" "$build"
if [ "$gpus" -gt 1 ] && command -v mpirun >/dev/null; then
    check "NCCL between 2 GPUs: the communicators' suite" mpirun --allow-run-as-root -n 2 \
        env RK_TEST_NCCL=1 tests/conformance_test_comm
else
    echo "left out NCCL: it needs two GPUs, and here is $gpus" | tee -a gpu-check.log
    printf '| NCCL | left out | it needs two GPUs |\n' >>"$report"
fi
if command -v compute-sanitizer >/dev/null; then
    check "compute-sanitizer memcheck" compute-sanitizer --error-exitcode 9 --leak-check full tests/cuda_test_copy
    check "compute-sanitizer racecheck" compute-sanitizer --tool racecheck --error-exitcode 9 tests/cuda_test_copy
fi
echo "written: $report"
exit $failed
