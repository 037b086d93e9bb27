#!/bin/sh
# The kernels' suites with the CUDA device's threads, blocks and streams in other orders: test_schedules.sh BUILD. A
# kernel in canonical order has the same bits in all of them. Only the device that runs on the host can be told so.
set -eu
build=$(cd "$1" && pwd)
if [ ! -r "$build/librankine_cuda_host.so" ]; then
    echo "skipped: the CUDA device that runs on the host was not built (no CUDA headers)"
    exit 77
fi
export RANKINE_CUDA="$build/librankine_cuda_host.so"
export RK_EMU_GUARD=off # as test_same_bits: many small kernels

in_order() # THREADS STREAMS SUITE...
{
    threads=$1
    streams=$2
    shift 2
    for suite; do
        RK_EMU_SCHED=$threads RK_EMU_STREAMS=$streams "$build/tests/$suite" >/dev/null || {
            echo "$suite failed with RK_EMU_SCHED=$threads RK_EMU_STREAMS=$streams"
            exit 1
        }
    done
}

in_order rev lazy conformance_test_kernels cuda_test_shapes
in_order 7 7 conformance_test_kernels
