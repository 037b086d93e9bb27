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
for order in fwd,eager rev,lazy 7,7 20261,eager; do
    for suite in conformance_test_kernels; do
        RK_EMU_SCHED=${order%,*} RK_EMU_STREAMS=${order#*,} "$build/tests/$suite" >/dev/null || {
            echo "$suite failed with RK_EMU_SCHED=${order%,*} RK_EMU_STREAMS=${order#*,}"
            exit 1
        }
    done
done
