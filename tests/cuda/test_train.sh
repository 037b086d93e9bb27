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

# network, ranks, tier, more options
compared=0
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

# The same from GPU to GPU: each rank has one of its own.
export RK_EMU_DEVICES=8
while read -r config n tier more; do
    wanted "$n" "$tier" || continue
    train cuda "run-$compared" "$config" "$n" run.steps=$steps $more
    grep -q 'tensors go from GPU to GPU by NCCL' out || fail "tensors of $config on $n ranks do not go by NCCL"
    same_training "cpu-$config" "run-$compared" "$config on $n ranks with GPUs of their own $more"
    compared=$((compared + 1))
done <<END
mlp 2 short parallel.zero=2 parallel.bucket=64
mlp 3 long batch.micro=3
cnn 4 short parallel.zero=0
resnet 2 short
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
unset RK_EMU_DEVICES

# From the CPU to CUDA and back, in the middle of the run; a constant rate does not know where an attempt ends.
sed -e 's/schedule: cosine/schedule: constant/; s/warmup: 5/warmup: 0/' mlp.yaml >turns.yaml
train cpu straight turns 1 run.steps=$steps
train cpu many turns 2 run.steps=5
train cuda many turns 3 run.steps=11
train cpu many turns 1 run.steps=$steps
[ "$(hash_of many)" = "$(hash_of straight)" ] || fail "CPU, CUDA, CPU: other weights than on the CPU alone"

# A grid of tensor shards, held side by side.
sed -e 's/layers: .*/layers: [{linear: 128}, gelu, {linear: 128}, relu, linear]}/' mlp.yaml >wide.yaml
train cpu straight-shards wide 1 run.steps=5 grid.tensor=2
train cuda shards wide 2 run.steps=5 grid.tensor=2 parallel.tensor=2
same_training straight-shards shards "tensor shards on 2 ranks of the CUDA device"
echo "$((compared + 2)) trainings on CUDA, run on the host: the CPU's bits"
