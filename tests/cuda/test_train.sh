#!/bin/sh
# Whole trainings on the CUDA device, run on the host: small networks of every kind end with the CPU's weights, optimiser state and
# logged numbers, bit by bit, on any number of ranks and in any layout; a run continues from one device on the other. RANKINE_CUDA
# names another library, such as that for GPUs.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
module=${RANKINE_CUDA:-$build/librankine_cuda_host.so}
. "$root/tests/cuda/device.sh"
. "$root/tests/equivalence/networks.sh"
steps=${STEPS-14} # an epoch of most, with its short last batch
most=8            # ranks; a sanitizer takes minutes for many
if grep -q __asan_init "$rankine"; then most=2; fi

wanted() # RANKS TIER: those of the long tier where the steps are many
{
    [ "$1" -le $most ] && { [ "$2" = short ] || [ "$steps" -gt 14 ]; }
}

# network, ranks, tier, more options. One rank has nothing to send; of several, whatever GPUs there are, tensors go over MPI.
compared=0
export RANKINE_NCCL=0
while read -r config n tier more; do
    wanted "$n" "$tier" || continue
    [ -d "cpu-$config" ] || train cpu "cpu-$config" "$config" 1 run.steps=$steps
    train cuda "run-$compared" "$config" "$n" run.steps=$steps $more
    same_training "cpu-$config" "run-$compared" "$config on $n ranks of the CUDA device $more"
    compared=$((compared + 1))
done <<END
mlp 1 short
mlp 2 short parallel.bucket=64
mlp 1 short batch.micro=3
mlp 4 short batch.micro=3
mlp 3 short parallel.zero=3 parallel.bucket=64
mlp 2 long parallel.zero=0
cnn 1 short
cnn 2 long
cnn 4 short
resnet 1 short
resnet 2 long
resnet 4 short
shard 1 long batch.micro=7
shard 3 short batch.micro=7
frozen 2 short parallel.zero=3
values 2 short
END

unset RANKINE_NCCL

# The same from GPU to GPU: each rank has one of its own. What the caller or the machine has not so many GPUs for is left out.
devices=${RK_EMU_DEVICES-}
export RK_EMU_DEVICES="${devices:-8}"
gpus=$(gpus_there)
[ "${gpus:-0}" -gt 0 ] || fail "doctor does not tell how many GPUs there are"
why="of more GPUs than $gpus"
nccl_there || { gpus=1; why="of NCCL, which is not there"; }
left_out=0
by_nccl() # RANKS WHAT...: the last training's tensors went so
{
    n=$1
    shift
    grep -q 'tensors go from GPU to GPU by NCCL' out || fail "tensors of $* on $n ranks do not go by NCCL"
}
while read -r config n tier more; do
    wanted "$n" "$tier" || continue
    if [ "$n" -gt "$gpus" ]; then
        left_out=$((left_out + 1))
        continue
    fi
    train cuda "run-$compared" "$config" "$n" run.steps=$steps $more
    by_nccl "$n" "$config"
    same_training "cpu-$config" "run-$compared" "$config on $n ranks with GPUs of their own $more"
    compared=$((compared + 1))
done <<END
mlp 2 short parallel.zero=2 parallel.bucket=64
mlp 3 long batch.micro=3
mlp 4 long
cnn 2 long
cnn 4 short parallel.zero=0
resnet 2 short
resnet 4 long
shard 3 short parallel.zero=3 parallel.bucket=64
frozen 4 short parallel.zero=3
END

# Workers that are averaged.
average="parallel.strategy=average average.workers=2 average.every=3 average.outer=nesterov optim.ema=0"
train cpu straight-average mlp 1 run.steps=$steps $average
for n in 1 2; do
    train cuda average-$n mlp $n run.steps=$steps $average
    same_training straight-average average-$n "workers on $n ranks of the CUDA device"
    compared=$((compared + 1))
done

# From the CPU to CUDA and back, in the middle of the run; a constant rate does not know where an attempt ends.
turns() # CONFIG RANKS
{
    sed -e 's/schedule: [a-z]*/schedule: constant/; s/warmup: 5/warmup: 0/' "$1.yaml" >"turns-$1.yaml"
    train cpu "straight-$1" "turns-$1" 1 run.steps=$steps
    train cpu "many-$1" "turns-$1" 2 run.steps=$((steps * 5 / 14))
    train cuda "many-$1" "turns-$1" "$2" run.steps=$((steps * 11 / 14))
    cp out out-cuda
    train cpu "many-$1" "turns-$1" 1 run.steps=$steps
    cp out-cuda out
    [ "$(hash_of "many-$1")" = "$(hash_of "straight-$1")" ] || fail "$1: CPU, CUDA, CPU: other weights than on the CPU alone"
    compared=$((compared + 1))
}
if wanted 4 long && [ "$gpus" -lt 2 ]; then
    left_out=$((left_out + 1))
elif wanted 4 long; then
    n=$((gpus < 4 ? gpus : 4))
    turns cnn "$n"
    by_nccl "$n" "cnn between two turns of the CPU"
fi
if [ -n "$devices" ]; then RK_EMU_DEVICES=$devices; else unset RK_EMU_DEVICES; fi
turns mlp 3

# A grid of tensor shards, held side by side.
sed -e 's/layers: .*/layers: [{linear: 128}, gelu, {linear: 128}, relu, linear]}/' mlp.yaml >wide.yaml
train cpu straight-shards wide 1 run.steps=5 grid.tensor=2
train cuda shards wide 2 run.steps=5 grid.tensor=2 parallel.tensor=2
same_training straight-shards shards "tensor shards on 2 ranks of the CUDA device"
rest=
[ $left_out -eq 0 ] || rest="; left out $left_out $why"
echo "$((compared + 1)) trainings on the CUDA device: the CPU's bits$rest"
