#!/bin/sh
# A rank whose NCCL fails in a call, now or later, ends all ranks in one sentence with NCCL's words, soon, and no device memory is left;
# a rank that is killed ends the job, which continues with the weights of one that was not.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/nccl_failures.sh"
for n in 1 2 3 5 9 17; do
    fails_at RK_EMU_NCCL_FAIL=$n || fail "call $n was not made"
done
for n in 1 4 7; do
    fails_at RK_EMU_NCCL_ASYNC=$n || fail "operation $n was not made"
done
# Where the exchange is part of graphs, which are waited for.
steps=8
for n in 21 26; do
    fails_at RK_EMU_NCCL_ASYNC=$n || fail "operation $n was not made"
done
unset steps
! fails_at RK_EMU_NCCL_FAIL=1000000 || fail "a millionth call"

# Killed in the middle of a step: the job ends soon; the same command goes on to the same weights.
train() # RUN: the command and its options, on standard output
{
    echo "$rankine train mlp.yaml run.dir=$1 run.steps=150 log.every=1 ckpt.every=7 device=cuda"
}
ranks 2 $(train straight) >out 2>err || fail "straight"
timeout 60 mpirun -n 2 $(train killed) >out 2>err </dev/null &
job=$!
steps=0
for i in $(seq 600); do
    steps=$(grep -c '"step"' killed/metrics.jsonl 2>/dev/null || true)
    [ "${steps:-0}" -lt 25 ] || break
    sleep 0.02
done
[ "${steps:-0}" -ge 25 ] || fail "no step of the run to be killed was seen"
mpirun=$(pids_of $job)
set -- $(pids_of "$mpirun")
kill -9 "${2-$1}" || fail "rank 1 had ended before it was killed"
begun=$(date +%s)
status=0
wait $job || status=$?
[ $status -eq 137 ] || fail "exit $status of mpirun instead of 137"
[ $(($(date +%s) - begun)) -le 10 ] || fail "the job went on for more than ten seconds after a rank was killed"
ranks 2 $(train killed) >out 2>err || fail "after the kill"
grep -q 'continues at step\|resum' out || fail "the killed run was not continued"
[ "$(hash_of killed)" = "$(hash_of straight)" ] || fail "other weights after a kill"
echo "11 failures of NCCL's calls and operations, a killed rank: all end cleanly"
