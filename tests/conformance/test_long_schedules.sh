#!/bin/sh
# test_schedules.sh, and in more orders the shapes that only the CUDA device's own suite draws.
"$(dirname "$0")/test_schedules.sh" "$1" || exit $?
build=$(cd "$1" && pwd)
export RANKINE_CUDA="$build/librankine_cuda_host.so" RK_EMU_GUARD=off
for order in "fwd eager" "7 7" "rev eager" "20261 eager"; do
    for suite in cuda_test_shapes conformance_test_kernels; do
        RK_EMU_SCHED=${order% *} RK_EMU_STREAMS=${order#* } "$build/tests/$suite" >/dev/null || {
            echo "$suite failed with threads and streams in the order $order"
            exit 1
        }
    done
done
echo "both suites in four more orders"
