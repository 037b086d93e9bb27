#!/bin/sh
# test_nccl_failures.sh for every call and every operation of NCCL in a short training, with weights by piece too.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/nccl_failures.sh"
failures=0
for zero in 1 3; do
    for kind in FAIL ASYNC; do
        call=1
        while fails_at "RK_EMU_NCCL_$kind=$call"; do
            call=$((call + 1))
        done
        [ $call -gt 10 ] || fail "only $call of RK_EMU_NCCL_$kind"
        failures=$((failures + call - 1))
    done
done
echo "$failures failures of NCCL: all end cleanly"
