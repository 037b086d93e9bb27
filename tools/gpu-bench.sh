#!/bin/sh
# Times of the CUDA device on a GPU: gpu-bench.sh BUILD. Writes BUILD/gpu-bench.md: kernels against the model of
# docs/gpu-model.md, products against cuBLAS alone, training against PyTorch (PYTHON names an interpreter that has it)
# eager and compiled. Nothing else should run on the GPU meanwhile.
set -u
build=$(cd "${1:-build}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
report=$build/gpu-bench.md
export RANKINE_CUDA="${RANKINE_CUDA:-$build/librankine_cuda.so}"

if ! "$build/benchmarks/bench_gpu" once add 0 >"$report" 2>&1; then
    echo "gpu-bench: no GPU can be used: $(tail -n 1 "$report")" >&2
    exit 69
fi
part() # TITLE COMMAND...
{
    printf '\n## %s\n\n' "$1"
    shift
    "$@" 2>&1 || printf '\n(ended with %s)\n' $?
}
{
    printf '# The CUDA device on this machine, %s\n\n' "$(date -u +%Y-%m-%d)"
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null | sed 's/^/- /'
    part "Kernels against the model" "$build/benchmarks/bench_gpu" kernels
    part "Products against cuBLAS alone" "$build/benchmarks/bench_gemm_vs_cublas"
    if "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        for how in "" --inexact; do
            part "Training against PyTorch ${how:-exact}" env PYTHON="$python" python3 "$root/benchmarks/pytorch/compare.py" \
                train --device cuda --threads 1 --build "$build" $how
        done
    else
        printf '\nTraining against PyTorch: left out, %s has no torch with CUDA (PYTHON names another)\n' "$python"
    fi
} >"$report"
cat "$report"
