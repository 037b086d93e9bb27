#!/bin/sh
# Which way tensors go between GPUs: by NCCL where each rank has a GPU of its own, else over MPI, which is told in one sentence; and
# which GPU a rank takes. librankine_cuda.so needs no library of NVIDIA's to be loaded.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
gpu_library=$build/librankine_cuda.so
loaded="no librankine_cuda.so was built"
if [ -e "$gpu_library" ] && command -v readelf >/dev/null; then
    loaded="librankine_cuda.so needs nothing of NVIDIA's"
    readelf -d "$gpu_library" >dynamic
    if grep NEEDED dynamic | grep -E 'nccl|cublas|cudart|cudnn|libcuda' >err; then
        fail "librankine_cuda.so does not load where these are missing"
    fi
    if strings "$gpu_library" | grep -q ncclCommInitRankConfig; then
        expect 0 'cuda .*(NCCL [0-9]+[.][0-9]+|NCCL cannot be loaded: )' "$rankine" doctor
        RANKINE_NCCL_LIBRARY=$dir/nowhere.so expect 0 'NCCL cannot be loaded: .*nowhere.so' "$rankine" doctor
        RANKINE_NCCL_LIBRARY=libz.so.1 expect 0 'libz.so.1 is too old: it has no nccl' "$rankine" doctor
    fi
fi
module=$build/librankine_cuda_host.so
if [ ! -e "$module" ] || ! grep -q ncclCommInitRankConfig "$module"; then
    echo "skipped: the CUDA device for the host, or nccl.h, was not there; $loaded"
    exit 77
fi
export RANKINE_CUDA="$module"
make_csv points.csv 200
make_config mlp.yaml

option=device.nccl=auto
# way RANKS PATTERN SETTING...: trains with $option, and the banner tells which way tensors go.
way()
{
    n=$1
    pattern=$2
    shift 2
    rm -rf run
    ranks "$n" env "$@" "$rankine" train mlp.yaml run.dir=run run.steps=3 device=cuda "$option" >out 2>err || fail "$n ranks, $*"
    grep -Eq "tensors go $pattern" out || fail "tensors do not go $pattern: $n ranks, $*"
    hash=$(hash_of run)
    [ "$hash" = "${first_hash=$hash}" ] || fail "other weights when tensors go $pattern"
}
way 2 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2
way 3 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=4 RANKINE_NCCL=1
way 2 "over MPI and the host's memory: ranks 0 and 1 share a GPU, which NCCL refuses" RK_EMU_DEVICES=1
way 3 "over MPI and the host's memory: ranks 0 and 2 share a GPU, which NCCL refuses" RK_EMU_DEVICES=2
way 2 "over MPI and the host's memory: ranks 0 and 1 have slices of one GPU, which NCCL refuses" RK_EMU_DEVICES=2 RK_EMU_SLICES=2
way 2 "over MPI and the host's memory, for RANKINE_NCCL is 0 " RK_EMU_DEVICES=2 RANKINE_NCCL=0
# device.nccl says the same for all, and the environment comes before it.
option=device.nccl=off
way 2 "over MPI and the host's memory, for device.nccl is off .rank 0" RK_EMU_DEVICES=2
way 2 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2 RANKINE_NCCL=1
option=device.nccl=on
way 2 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2
way 2 "over MPI and the host's memory, for RANKINE_NCCL is 0 .rank 0" RK_EMU_DEVICES=2 RANKINE_NCCL=0
option=device.nccl=auto
way 2 "over MPI and the host's memory: NCCL cannot be loaded: " RK_EMU_DEVICES=2 RK_EMU_NCCL=absent
# Every access to device memory checked: what is sent was computed, what has come is waited for.
if [ -e "$build/librankine_cuda_check.so" ]; then
    way 2 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2 "RANKINE_CUDA=$build/librankine_cuda_check.so"
    way 2 "over MPI and the host's memory" RK_EMU_DEVICES=1 "RANKINE_CUDA=$build/librankine_cuda_check.so"
fi
# Nodes have GPUs of their own, and what two ranks of a node have is added up there: by either way, and checked.
on_nodes()
{
    way 3 "$@" sh -c 'RANKINE_NODE=$((OMPI_COMM_WORLD_RANK / 2)) exec "$@"' sh
    grep -q 'gradients are added up by node' out || fail "no sums of nodes: $*"
}
way 2 'from GPU to GPU by NCCL$' sh -c 'RANKINE_NODE=$OMPI_COMM_WORLD_RANK exec "$@"' sh
on_nodes 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2
on_nodes "over MPI and the host's memory" RK_EMU_DEVICES=1
if [ -e "$build/librankine_cuda_check.so" ]; then
    on_nodes 'from GPU to GPU by NCCL$' RK_EMU_DEVICES=2 "RANKINE_CUDA=$build/librankine_cuda_check.so"
fi

# Sums in any order: reduced by NCCL, to nearly the same losses.
numbers() # RUN
{
    grep -oE '"(val_)?loss":[0-9.e+-]+' "$1/metrics.jsonl" | cut -d: -f2
}
ranks 1 "$rankine" train mlp.yaml run.dir=exact run.steps=20 log.every=1 device=cpu >out 2>err || fail "exact"
numbers exact >want
for zero in 0 1 3; do
    rm -rf run
    ranks 3 env RK_EMU_DEVICES=3 "$rankine" train mlp.yaml run.dir=run run.steps=20 log.every=1 device=cuda parallel.exact=false \
        parallel.zero=$zero parallel.bucket=1024 >out 2>err || fail "any order, parallel.zero=$zero"
    numbers run | paste - want | awk '{ d = $1 - $2; n++ } d * d > 1e-8 * $2 * $2 { bad = 1 } END { exit bad || n < 20 }' ||
        fail "sums in any order, parallel.zero=$zero: other losses"
done

# Insisted on where it cannot be: refused by all ranks, with the way that works.
rm -rf run
expect_ranks 2 78 'device.nccl is on .rank 0., but .*; device.nccl: off sends tensors over MPI' \
    env RK_EMU_DEVICES=1 "$rankine" train mlp.yaml run.dir=run device=cuda device.nccl=on
expect_ranks 2 78 'RANKINE_NCCL is yes, wanted 0 .*, 1 .* or nothing' \
    env RK_EMU_DEVICES=2 RANKINE_NCCL=yes "$rankine" train mlp.yaml run.dir=run device=cuda
expect 78 'device.nccl: maybe, wanted one of auto.on.off' "$rankine" train mlp.yaml run.dir=run device.nccl=maybe
for setting in RK_EMU_DEVICES=1 RK_EMU_NCCL=absent; do
    rm -rf run
    expect_ranks 2 78 'RANKINE_NCCL is 1 .*, but .*; RANKINE_NCCL=0 sends tensors over MPI' \
        env "$setting" RANKINE_NCCL=1 "$rankine" train mlp.yaml run.dir=run device=cuda
done

# Each rank takes the GPU of its local rank: that of the launcher, or where it tells none, of the ranks that MPI finds on the node.
for bare in '' 'env -u OMPI_COMM_WORLD_LOCAL_RANK -u MPI_LOCALRANKID -u PMIX_LOCAL_RANK -u SLURM_LOCALID'; do
    way 3 'from GPU to GPU' RK_EMU_DEVICES=3 $bare
    for rank in 1 2; do
        grep -q "rank $rank of 3,.* GPU $rank," "run/rank-$rank.log" || fail "rank $rank did not take GPU $rank"
    done
done

# One rank without a GPU ends all, in one sentence.
rm -rf run
expect_ranks 3 70 'rankine: rank 1: device cuda: no GPU is visible' sh -c \
    'RK_EMU_DEVICES=$((OMPI_COMM_WORLD_RANK == 1 ? 0 : 3)) exec "$@"' sh "$rankine" train mlp.yaml run.dir=run device=cuda
expect_ranks 2 70 'rankine: device cuda: no GPU is visible' env RK_EMU_DEVICES=0 "$rankine" train mlp.yaml run.dir=run device=cuda
# With device: auto the ranks agree before they compute: all on GPUs, all on the processor with the reasons, or not at all.
auto() # CODE PATTERN SETTING-OF-RANK-1 OPTION...
{
    code=$1
    pattern=$2
    other=$3
    shift 3
    rm -rf run
    expect_ranks 2 "$code" "$pattern" sh -c "[ \$OMPI_COMM_WORLD_RANK = 0 ] || { export $other; }; "'exec "$@"' sh \
        "$rankine" train mlp.yaml run.dir=run run.steps=3 "$@"
}
mixed='rankine: device auto: rank 0 .on .*. has a GPU, and rank 1 .on .*. has none that it can use: '
auto 78 "${mixed}no GPU is visible. device: cpu trains on the processors of all ranks" RK_EMU_DEVICES=0
auto 78 "${mixed}GPU 0 .* has compute capability 5.0; .* device: cpu trains" RK_EMU_ARCH=50
# The library for GPUs may have been built, and there may be a GPU.
auto 78 "${mixed}(there is no (librankine_cuda.so|NVIDIA driver)|.*CUDA_VISIBLE_DEVICES).* device: cpu trains" "RANKINE_CUDA= CUDA_VISIBLE_DEVICES="
auto 66 'rankine: rank 1: mlp.yaml: No such file' 'HOME=/; cd /'
RK_EMU_ARCH=50 auto 0 'on the processor: GPU 0 .* compute capability 5.0; .* .rank 0.; no GPU is visible .rank 1.' RK_EMU_DEVICES=0
[ "$(hash_of run)" = "$first_hash" ] || fail "other weights where no rank can use its GPU"
grep -q 'on the processor: .*no GPU is visible' run/rank-1.log || fail "the log of rank 1 does not tell why it is on the processor"
echo "tensors go both ways, with the same weights; $loaded"
