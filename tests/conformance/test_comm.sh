#!/bin/sh
# The communicators' suite with several ranks: test_comm.sh BUILD. First through shared memory, then with ranks that
# pretend to be on other nodes (RANKINE_NODE), whose messages are cut into small pieces (RANKINE_COMM_PIECE) as those
# over 1 GiB are; once as if tensors lay in memory that the host does not see (RK_TEST_STAGED); and
# through NCCL (RK_TEST_NCCL) on the CUDA device that runs on the host, where one was built.
set -eu
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
program=$build/tests/conformance_test_comm
if ! command -v mpirun >/dev/null 2>&1; then
    echo "skipped: no mpirun (openmpi-bin)"
    exit 77
fi
as_root=
[ "$(id -u)" -ne 0 ] || as_root=--allow-run-as-root
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# Every number of ranks in the program as users run it; with sanitizers, which take minutes, some.
several="1 2 3 4 5 8" jobs="2,1 5,2 8,3"
[ -z "${ASAN_OPTIONS-}${TSAN_OPTIONS-}" ] || { several="1 3 4" jobs="3,2"; }
# Open MPI's own leaks are known by their whole stacks (libraries.supp), which it has no frame pointers for.
export ASAN_OPTIONS="${ASAN_OPTIONS-}:fast_unwind_on_malloc=0"
# A sanitizer makes everything slower, and 8 ranks share few cores.
export TMPDIR="$out"
export RK_TEST_SLOW="${RK_TEST_SLOW-2}"

ranks() # WHAT RANKS COMMAND...
{
    what=$1
    n=$2
    shift 2
    begun=$(date +%s%N)
    if ! timeout 100 mpirun $as_root --oversubscribe -n "$n" "$@" >"$out/log" 2>&1 ||
        [ "$(grep -c ' passed, 0 failed' "$out/log")" -ne "$n" ]; then
        echo "FAILED: $n ranks, $what"
        grep -v '^--*$' "$out/log" | head -60
        exit 1
    fi
    printf '%d ranks, %s: %d ms\n' "$n" "$what" $((($(date +%s%N) - begun) / 1000000))
}

for n in $several; do
    ranks "one node" $n "$program"
done
ranks "as for a device, 2 a node" 3 env RK_TEST_STAGED=1 sh -c "RANKINE_NODE=\$((OMPI_COMM_WORLD_RANK / 2)) exec $program"
cuda=$build/librankine_cuda_host.so check=$build/librankine_cuda_check.so
nccl="no NCCL: the CUDA device for the host, or nccl.h, was not there"
if [ -e "$cuda" ] && grep -q ncclCommInitRankConfig "$cuda"; then
    nccl="NCCL's calls on 2 and 3"
    for n in 2 3; do
        ranks "through NCCL" $n env RK_TEST_NCCL=1 RANKINE_CUDA="$cuda" RK_EMU_GUARD=off RK_EMU_STREAMS=eager "$program"
    done
    # Ranks on nodes of their own, whose pieces NCCL passes on; and once more under the checker.
    ranks "through NCCL, 2 a node" 3 env RK_TEST_NCCL=1 RANKINE_CUDA="$cuda" RK_EMU_GUARD=off RK_EMU_STREAMS=eager \
        sh -c "RANKINE_NODE=\$((OMPI_COMM_WORLD_RANK / 2)) exec $program"
    if [ -e "$check" ]; then
        ranks "through NCCL, checked" 2 env RK_TEST_NCCL=1 RANKINE_CUDA="$check" RK_EMU_GUARD=off RK_EMU_STREAMS=eager \
            "$program"
    fi
    rm -rf "$out"/rk_emu_nccl.*
fi
export RANKINE_COMM_PIECE=9973
nodes() # RANKS RANKS-A-NODE
{
    ranks "$2 a node" "$1" --mca btl tcp,self --mca btl_tcp_if_include lo \
        sh -c "RANKINE_NODE=\$((OMPI_COMM_WORLD_RANK / $2)) exec $program"
}
for job in $jobs; do
    nodes "${job%,*}" "${job#*,}"
done
echo "$several ranks on one node; ranks, and ranks of a node, on several: $jobs; $nccl"
