#!/bin/sh
# compute: f16 with a loss scale that moves: small networks whose gradients overflow at first end with the same weights, state
# and logged numbers on any number of ranks, in any layout and, run on the host, on the CUDA device; a run continues where it
# stopped, in the middle of left out steps, there or here; a run that began in f32 goes on in f16.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/equivalence/networks.sh"
module=$build/librankine_cuda_host.so

# Large values make large gradients: the first steps are left out, and some later ones.
awk -F, -v OFS=, 'NR > 1 { $5 = 1000 * $5 } 1' values.csv >large.csv
cat >half.yaml <<END
data: {path: large.csv, split: 0.25, task: regression}
model: {layers: [{linear: 40}, gelu, {linear: 24}, relu, linear]}
batch: {global: 20}
optim: {lr: 0.1, clip_norm: 100, ema: 0.9}
run: {steps: 40}
eval: {every: 10}
log: {every: 1}
compute: f16
END
sed -e 's/^compute: .*/compute: f16/; t' -e '$a compute: f16' -e 's/run: {steps: 24}/run: {steps: 8}/' cnn.yaml >half-cnn.yaml
sed -e 's/{linear: 40}/{linear: 128}/; s/{linear: 24}/{linear: 128}/' half.yaml >half-wide.yaml

train() # DEVICE RUN CONFIG RANKS OPTION...
(
    device=$1
    run=$2
    config=$3
    n=$4
    shift 4
    [ "$device" = cpu ] || export RANKINE_CUDA="$module"
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" "device=$device" parallel.threads=1 "$@" >out 2>err ||
        fail "$config on $n ranks, $device $*"
)

devices=cpu
[ ! -e "$module" ] || devices="cpu cuda"
compared=0
while read -r config n more; do
    [ -n "$config" ] || continue
    [ -d "one-$config" ] || train cpu "one-$config" "$config" 1
    for device in $devices; do
        train "$device" "run-$compared" "$config" "$n" $more
        same_training "one-$config" "run-$compared" "$config on $n ranks, $device $more"
        compared=$((compared + 1))
    done
done <<END
half 1
half 2
half 4 batch.micro=3
half 3 parallel.zero=3 parallel.bucket=64
half 2 parallel.zero=0
half-cnn 2
END
left=$(grep -c 'the step is left out' one-half/events.jsonl)
[ "$left" -ge 6 ] || fail "$left steps were left out"
grep -q '"loss_scale":' one-half/metrics.jsonl || fail "the scale is not logged"
python3 - <<'END' || fail "f16 did not learn"
import json
losses = [json.loads(line)["loss"] for line in open("one-half/metrics.jsonl") if '"loss"' in line and '"val_loss"' not in line]
assert len(losses) == 40 and sum(losses[-8:]) < 0.8 * sum(losses[:8]), (sum(losses[:8]), sum(losses[-8:]))
END

# Tensor shards, held side by side.
train cpu one-wide half-wide 1 run.steps=12 grid.tensor=2
train cpu shards half-wide 2 run.steps=12 grid.tensor=2 parallel.tensor=2
same_training one-wide shards "tensor shards in f16"

# Amid left out steps, and after them; on other devices in between.
for turn in $devices; do
    train cpu many-$turn half 1 run.steps=3
    train "$turn" many-$turn half 2 run.steps=17
    train cpu many-$turn half 3
    [ "$(hash_of many-$turn)" = "$(hash_of one-half)" ] || fail "stopped at steps 3 and 17, by way of $turn: other weights"
done

# A run that began in f32 has no scale yet.
train cpu change half 1 run.steps=5 compute=f32
ranks 1 "$rankine" train half.yaml run.dir=change device=cpu --allow-change >out 2>err || fail "from f32 to f16"
grep -q 'scaled by 65536' out || fail "the scale does not begin at 65536"

# A scale that stays where it is; one that is none; gradients that no scale makes finite.
train cpu fixed half 1 optim.loss_scale=1 run.steps=8
expect 79 'not finite at a loss scale of 65536; a smaller one may help' "$rankine" train half.yaml run.dir=high device=cpu optim.loss_scale=65536
expect 78 'wanted auto or a power of two' "$rankine" train half.yaml run.dir=bad device=cpu optim.loss_scale=1000
expect 78 'auto does not go with compute f16 and parallel.strategy average' "$rankine" train half.yaml run.dir=bad device=cpu parallel.strategy=average
echo "$((compared + 5)) trainings in f16, $left steps left out: one run's bits"
