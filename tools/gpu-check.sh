#!/bin/sh
# What the tests show of the CUDA device on the host, shown on a GPU: gpu-check.sh BUILD [REPORT]. Writes BUILD/gpu-check.md,
# and ends with 1 if anything failed, with 69 if there is no GPU. What needs more GPUs than there are is left out, and the report
# says so. RANKINE_CUDA names another library than BUILD/librankine_cuda.so; ONLY=WORDS runs what has them in its title;
# STEPS=N is how long the trainings are that are compared with the CPU's.
set -u
build=$(cd "${1:-build}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
report=${2:-$build/gpu-check.md}
log=$report.log
cd "$build" || exit 66
export RANKINE_CUDA="${RANKINE_CUDA:-$build/librankine_cuda.so}" RK_TEST_GPU=1
failed=0

# check TITLE COMMAND...: its last line, or all of it if it fails.
check()
{
    title=$1
    shift
    case $title in *"${ONLY-}"*) ;; *) return ;; esac
    begun=$(date +%s)
    "$@" >"$log" 2>&1
    status=$?
    case $status in
    0) result=passed ;;
    77) result=skipped ;;
    *)
        result="FAILED ($status)"
        failed=1
        ;;
    esac
    printf '%-8s %s (%d s): %s\n' "$result" "$title" $(($(date +%s) - begun)) "$(tail -n 1 "$log")"
    printf '| %s | %s | %s |\n' "$title" "$result" "$(tail -n 1 "$log" | tr '|' '/')" >>"$report"
    [ "$failed" -eq 0 ] || [ "$status" -eq 0 ] || [ "$status" -eq 77 ] || sed 's/^/    /' "$log"
}

# What only the stand-ins of src/cuda/host can show: none of it is run here.
leave() # TESTS REASON
{
    case "left out $1" in *"${ONLY-}"*) printf '| %s | left out | %s |\n' "$1" "$2" >>"$report" ;; esac
}

if ! "$build/benchmarks/bench_gpu" once add 0 >"$log" 2>&1; then
    echo "gpu-check: no GPU can be used: $(tail -n 1 "$log")" >&2
    echo "gpu-check: rankine doctor says what is missing; make check runs the same kernels on the host" >&2
    exit 69
fi
what=$("$build/rankine" doctor --device cpu 2>&1 | sed -n 's/^[a-zA-Z]* *cuda  *//p')
{
    printf '# The CUDA device on this machine, %s\n\n' "$(date -u +%Y-%m-%d)"
    printf -- '- %s\n' "$what" "$("$build/rankine" version | head -n 1)"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | sed 's/^/- /'
    printf '\n| what | result | |\n|---|---|---|\n'
} >"$report"

check "every kernel, all devices, bit by bit" tests/conformance_test_kernels
check "the CPU's bits on ordinary and odd numbers" tests/cuda_test_same_bits
check "shapes, strides, segments" tests/cuda_test_shapes
check "copies and casts" tests/cuda_test_copy
check "products in any order, by cuBLASLt" tests/cuda_test_blas
check "weights that are kept in 16 bits" tests/cuda_test_rounded
check "what is held back and staged" tests/cuda_test_queue
check "whole trainings, ${STEPS=60} steps: the CPU's hashes" env STEPS="$STEPS" "$root/tests/cuda/test_train.sh" "$build"
check "whole trainings, products by cuBLASLt: near the CPU's losses" "$root/tests/cuda/test_inexact.sh" "$build"
check "steps as graphs: the same weights" "$root/tests/cuda/test_graph.sh" "$build"
check "the speed that a training tells" tests/cuda_test_progress
check "rankine bench: right sums, times that can be" "$root/tests/cuda/test_bench.sh" "$build"
check "bad steps: told as on the CPU" "$root/tests/cuda/test_late.sh" "$build"
for tool in memcheck racecheck synccheck initcheck; do
    more=
    [ $tool != memcheck ] || more='--leak-check full'
    for program in conformance_test_kernels cuda_test_copy; do
        if command -v compute-sanitizer >/dev/null; then
            check "compute-sanitizer $tool: $program" compute-sanitizer --tool $tool $more --error-exitcode 9 tests/$program
        else
            leave "compute-sanitizer $tool: $program" "compute-sanitizer is not installed"
        fi
    done
done
leave "cuda/test_launches" "the stand-ins count launches, waits and allocations"
leave "cuda/test_memory, test_long_memory" "the stand-ins have as much memory as they are told to (RK_EMU_MEMORY)"
leave "cuda/test_failures, test_nccl_failures" "the stand-ins fail when they are told to (RK_EMU_FAIL, RK_EMU_NCCL_FAIL)"
leave "cuda/test_device, test_nccl" "they ask for other GPUs, drivers and libraries than there are (RK_EMU_DEVICES, RK_EMU_ARCH)"
leave "cuda/test_planted, test_graphs, test_long_bytes" "they test the stand-ins and their checker, or count by it"
leave "conformance/test_schedules" "the stand-ins order threads and streams (RK_EMU_SCHED, RK_EMU_STREAMS)"
leave "conformance/test_comm by NCCL" "its arrays are the host's, which no GPU need see; the trainings have NCCL's calls"
echo "written: $report"
exit $failed
