#!/bin/sh
# test_schedules.sh, and the shapes and bits of the CUDA device's own suites in more orders.
"$(dirname "$0")/test_schedules.sh" "$1" || exit $?
build=$(cd "$1" && pwd)
export RANKINE_CUDA="$build/librankine_cuda_host.so"
for order in "7 7" "rev eager" "20261 eager"; do
    RK_EMU_SCHED=${order% *} RK_EMU_STREAMS=${order#* } "$build/tests/cuda_test_shapes" >/dev/null || {
        echo "cuda_test_shapes failed with threads and streams in the order $order"
        exit 1
    }
done
echo "shapes in three more orders"
