#!/bin/sh
# parallel.strategy average: K workers give the same weights, states and logged numbers on any number of ranks, with any number of
# threads, in passes of any size, and when a run goes on from any snapshot on other ranks, between two averagings too. What they
# compute is what the method says: one worker is a run of its own, averaging each step of plain SGD is the step of the whole batch.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"

. "$root/tests/equivalence/table.sh"

# 264 rows to train on: batches of 29, and a last one of 3, in which one of the four workers has nothing.
cat >mlp.yaml <<END
data: {path: kinds.csv, split: 0.2, noise: 0.01}
model: {layers: [{linear: 40}, gelu, {layer_norm: {}}, {dropout: 0.1}, {linear: 24}, silu, linear]}
batch: {global: 29}
optim: {lr: 0.01, weight_decay: 0.1, schedule: cosine, warmup: 5, clip_norm: 0.5, ema: 0.9}
run: {steps: 33, seed: 5}
eval: {every: 7, batch: 37}
log: {every: 1}
ckpt: {every: 5, keep: 100}
parallel: {strategy: average}
average: {every: 7, workers: 4}
END
cat >resnet.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: 64}, {reshape: [1, 8, 8]}, {conv2d: {out: 6, pad: 1, bias: false}}, batch_norm, relu,
                 {residual: {main: [{conv2d: {out: 6, pad: 1}}, {batch_norm: {scope: shard}}, relu, {conv2d: {out: 6, pad: 1}}, batch_norm]}},
                 relu, adaptive_avg_pool, flatten, linear]}
batch: {global: 29}
optim: {kind: sgd, lr: 0.05}
run: {steps: 24}
freeze: ["conv1.*"]
eval: {every: 12}
log: {every: 1}
ckpt: {every: 5, keep: 100}
parallel: {strategy: average}
average: {every: 9, workers: 4, outer: nesterov}
END
# Early stopping, which waits for an averaging.
sed -e 's/every: 7, batch: 37/every: 3, patience: 2/; s/steps: 33/steps: 400/; s/workers: 4/workers: 8, outer: nesterov, lr: 0.5/' \
    mlp.yaml >early.yaml

train() # RUN CONFIG RANKS THREADS OPTION...
(
    run=$1
    config=$2
    n=$3
    threads=$4
    shift 4
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" "parallel.threads=$threads" "$@" >out 2>err ||
        fail "$config on $n ranks, $threads threads $*"
)

# config, ranks, threads, more options: the first of a config is what the others are compared with
cat >table <<END
mlp 1 1
mlp 2 1
mlp 3 1
mlp 4 1
mlp 1 2 batch.micro=3
mlp 3 2 batch.micro=1
resnet 1 2
resnet 2 1
resnet 3 1
resnet 4 1
early 1 1
early 3 1
early 8 1
early 5 1 batch.micro=2
END
compared=0
while read -r model n threads more; do
    straight=straight-$model
    [ -d "$straight" ] || { train "$straight" "$model" "$n" "$threads" $more && continue; }
    train "run-$compared" "$model" "$n" "$threads" $more
    same_training "$straight" "run-$compared" "$model on $n ranks, $threads threads $more"
    compared=$((compared + 1))
    [ "$model" != resnet ] || cp out banner
done <table
[ "$(hash_of straight-mlp)" != "$(hash_of straight-early)" ] || fail "the hash does not see what was trained"
stopped=$(tail -1 straight-early/metrics.jsonl | grep -oE '"step":[0-9]+' | cut -d: -f2)
[ "$stopped" -lt 400 ] || fail "early stopping was not tried: it ran to its end"
[ $((stopped % 7)) -eq 0 ] || fail "stopped early at step $stopped, where nothing was averaged"

# Two ranks send their halves of 1,339 weights, which begin at cache lines (1,392 floats), to each other twice an averaging; between two of
# them they send some numbers for the log.
train bytes mlp 2 1 run.steps=12 eval.every=100 ckpt.every=100
sent_at() # STEP
{
    grep "\"step\":$1,.*sent_bytes" bytes/metrics.jsonl | grep -oE '"sent_bytes":[0-9.e+]+' | cut -d: -f2
}
awk -v few="$(sent_at 4)" -v many="$(sent_at 7)" 'BEGIN { exit !(few > 0 && few < 300 && many - few == 2 * 4 * 1392) }' ||
    fail "two ranks sent $(sent_at 4) bytes in step 4 and $(sent_at 7) in step 7, with an averaging"
grep -q 'strategy: 4 workers of up to 8 samples a step, averaged every 9 steps, outer nesterov lr 0.7 momentum 0.9' banner ||
    fail "the banner does not tell the strategy"

# As if a job had been killed after the snapshot of STEP, and continued on other ranks.
continued() # CONFIG STEP RANKS OPTION...
{
    config=$1
    step=$2
    n=$3
    shift 3
    rm -rf went-on
    cp -r "straight-$config" went-on
    rm went-on/DONE
    for snap in went-on/snap/step-*; do
        number=$(echo "${snap##*-}" | sed 's/^0*//')
        [ "$number" -le "$step" ] || rm -r "$snap"
    done
    train went-on "$config" "$n" 1 "$@"
    same_training "straight-$config" went-on "$config continued from step $step on $n ranks"
    compared=$((compared + 1))
}
continued mlp 5 3
continued mlp 10 4 batch.micro=2
continued mlp 20 2
continued mlp 30 1
continued resnet 5 2
continued resnet 15 4
continued resnet 20 3
continued early 5 6

# Stopped by a signal somewhere, and continued on other ranks.
sed -e 's/steps: 33/steps: 3000/; s/every: 7, batch: 37/every: 700/; s/log: {every: 1}/log: {every: 100}/; s/every: 5, keep: 100/every: 500/' \
    mlp.yaml >long.yaml
train straight-long long 1 1
mpirun -n 3 "$rankine" train long.yaml run.dir=signal parallel.threads=1 >out 2>err </dev/null &
job=$!
for _ in $(seq 600); do
    grep -qs '"step":100' signal/metrics.jsonl && break
    sleep 0.02
done
kill -USR1 $job
status=0
wait $job || status=$?
[ $status -eq 75 ] || fail "exit $status instead of 75 after a signal"
[ ! -e signal/DONE ] || fail "the run was over before it was stopped"
train signal long 2 1
same_training straight-long signal "stopped by a signal on 3 ranks, continued on 2"

# ---- what it computes ----

# One worker is a run of its own, whenever it is averaged with nobody: bit by bit.
weights_of() # RUN: the hash of its weights and buffers alone
{
    rm -rf alone
    "$rankine" average "$1" --out alone >/dev/null || fail "average $1"
    hash_of alone
}
train sync mlp 1 1 parallel.strategy=sync optim.ema=0
train worker mlp 1 1 average.workers=1 average.every=4 optim.ema=0
[ "$(weights_of sync)" = "$(weights_of worker)" ] || fail "one worker is no run of its own"
train sync-resnet resnet 1 1 parallel.strategy=sync
train worker-resnet resnet 1 1 average.workers=1 average.outer=none
[ "$(weights_of sync-resnet)" = "$(weights_of worker-resnet)" ] || fail "one worker with batch norm is no run of its own"
# With an outer learning rate of 1 and no momentum DiLoCo's step is the mean, up to rounding; with others it is not.
last_loss() # RUN
{
    grep -oE '"val_loss":[^,}]*' "$1/metrics.jsonl" | tail -1 | cut -d: -f2
}
near() # A B TOLERANCE
{
    awk -v a="$1" -v b="$2" -v most="$3" 'BEGIN { d = a > b ? a - b : b - a; exit !(d <= most * (a > b ? a : b)) }'
}
train mean mlp 1 1 average.every=1
train step mlp 1 1 average.every=1 average.outer=nesterov average.lr=1 average.momentum=0
train other mlp 1 1 average.every=1 average.outer=nesterov average.lr=1 average.momentum=0.5
near "$(last_loss mean)" "$(last_loss step)" 1e-4 || fail "lr 1 without momentum: $(last_loss mean) and $(last_loss step)"
! near "$(last_loss mean)" "$(last_loss other)" 1e-3 || fail "the outer momentum has no effect"
# Averaging after each step of plain SGD on shares of one size is the step of the whole batch, up to rounding.
plain='optim.kind=sgd optim.lr=0.1 optim.momentum=0 optim.clip_norm=0 optim.ema=0 batch.global=24 average.every=1'
sed -e 's/{dropout: 0.1}, //' mlp.yaml >even.yaml
train even even 1 1 $plain
train even-sync even 1 1 $plain parallel.strategy=sync
train even-far even 1 1 $plain average.every=11
near "$(last_loss even)" "$(last_loss even-sync)" 1e-4 || fail "SGD: $(last_loss even) and $(last_loss even-sync) in one step"
! near "$(last_loss even)" "$(last_loss even-far)" 1e-3 || fail "average.every has no effect"

# What a snapshot is evaluated with are the outer weights, here averaged once more (ema), as in the run.
told=$(grep -oE '"val_accuracy":[^,}]*' straight-mlp/metrics.jsonl | tail -1 | cut -d: -f2)
have=$("$rankine" eval straight-mlp --step 33 | grep -oE 'accuracy=[0-9.]+' | cut -d= -f2)
near "$told" "$have" 1e-5 || fail "eval tells an accuracy of $have, the run of $told"

# ---- mistakes ----

expect_ranks 5 78 '^rankine: 5 ranks, but average.workers is 4: a rank needs a worker. Start at most 4 ranks' \
    "$rankine" train mlp.yaml run.dir=x
expect 78 'average.workers: 3, wanted a power of two' "$rankine" train mlp.yaml run.dir=x average.workers=3
expect 78 'batch.global: 3 samples for the 4 workers' "$rankine" train mlp.yaml run.dir=x batch.global=3
expect 78 'parallel.tensor: 2 does not go with parallel.strategy average' \
    "$rankine" train mlp.yaml run.dir=x grid.tensor=2 parallel.tensor=2
expect 78 'parallel.zero: 2 does not go with parallel.strategy average' "$rankine" train mlp.yaml run.dir=x parallel.zero=2
expect 78 'average.every: 0' "$rankine" train mlp.yaml run.dir=x average.every=0
expect 78 'average.workers: 4 in the run, 2 now' "$rankine" train mlp.yaml run.dir=straight-mlp average.workers=2
expect 78 'average.every: 7 in the run, 8 now.*--allow-change' "$rankine" train mlp.yaml run.dir=straight-mlp average.every=8
expect 78 'parallel.strategy: "average" in the run, "sync" now' "$rankine" train mlp.yaml run.dir=straight-mlp parallel.strategy=sync
for n in 1 3; do
    expect_ranks $n 79 '^rankine: (rank [0-9]: )?step [0-9]+: worker [0-3]: .*not finite; first not finite: .*samples [0-9]+ [0-9]+' \
        "$rankine" train mlp.yaml run.dir=wild-$n optim.kind=sgd optim.lr=1000 optim.weight_decay=1000 optim.warmup=0 optim.clip_norm=0
done
echo "$compared layouts of averaged workers: the same bits"
