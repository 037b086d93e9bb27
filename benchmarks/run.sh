#!/bin/sh
# Every benchmark, one after the other, as Markdown on standard output (make bench keeps it in build/bench.md).
# PYTHON names an interpreter with torch; without torch the comparisons with PyTorch are left out, with a line that
# says so. Nothing else should run on the machine meanwhile.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
python=${PYTHON:-python3}

block() { # TITLE COMMAND [ARG ...]
    printf '\n## %s\n\n```\n$ %s\n' "$1" "$(shift; echo "$*")"
    shift
    "$@" 2>&1 || printf '(ended with %s)\n' $?
    printf '```\n'
}

printf '# Benchmarks, %s\n\n' "$(date -u +%Y-%m-%d)"
printf -- '- %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) cores" \
    "$(uname -sr), $(cc --version | head -n 1)" "$("$build/rankine" version | head -n 1)"

for threads in 1 2; do
    for what in gemm conv; do
        if [ -x "$build/benchmarks/bench_${what}_vs_onednn" ]; then
            block "$what against oneDNN, $threads threads" "$build/benchmarks/bench_${what}_vs_onednn" --threads $threads
        else
            printf '\n%s against oneDNN: left out, libdnnl-dev is not installed\n' "$what"
        fi
    done
done
block "Memory-bound kernels" "$build/benchmarks/bench_kernels"
block "Loader" "$build/benchmarks/bench_loader"
if command -v mpirun >/dev/null 2>&1; then
    as_root=
    [ "$(id -u)" -ne 0 ] || as_root=--allow-run-as-root
    for copy in none cma; do # how Open MPI moves long messages within a node
        block "Sums over 2 ranks, Open MPI's single copy: $copy" mpirun $as_root -n 2 \
            --mca btl_vader_single_copy_mechanism $copy "$build/rankine" bench comm --threads 1
    done
else
    printf '\nSums over ranks: left out, there is no mpirun (openmpi-bin)\n'
fi
[ ! -x "$build/benchmarks/bench_ckpt" ] || block "Snapshots" "$build/benchmarks/bench_ckpt"

printf '\n## Exact against inexact, one layer against all\n\n'
python3 benchmarks/pytorch/compare.py ours --build "$build"
if command -v mpirun >/dev/null; then
    for what in threads exact start; do
        printf '\n## Several ranks: %s\n\n' $what
        python3 benchmarks/ranks.py $what --build "$build"
    done
    [ "$(id -u)" -ne 0 ] || { printf '\n## Two hosts, 1 Gbit/s\n\n'; python3 benchmarks/link.py --build "$build"
        printf '\n## Two hosts of two ranks, 1 Gbit/s\n\n'; python3 benchmarks/link.py --build "$build" --each 2; }
fi
if "$python" -c 'import torch' 2>/dev/null; then
    printf '\n## Training against PyTorch\n\n'
    PYTHON=$python python3 benchmarks/pytorch/compare.py train --build "$build"
    printf '\n## Several ranks against DistributedDataParallel\n\n'
    PYTHON=$python python3 benchmarks/ranks.py ddp --build "$build"
    printf '\n## From launch to the first step\n\n'
    PYTHON=$python python3 benchmarks/pytorch/compare.py startup --build "$build"
else
    printf '\nAgainst PyTorch: left out, %s has no torch (PYTHON=/path/to/python with torch)\n' "$python"
fi
