#!/bin/sh
# Tensor parallelism: ranks that hold cut parameters side by side end with one rank's weights, optimiser state and logged numbers,
# whatever the mesh; a run changes its mesh between snapshots; what does not fit is one clear sentence.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"

awk -v rows=210 'BEGIN {
    s = 99
    print "a,b,c,kind" > "kinds.csv"
    print "u,v,w,kind" > "words.csv"
    for (i = 0; i < rows; i++) {
        for (j = 0; j < 3; j++) {
            s = (s * 1103515245 + 12345) % 2147483648
            x[j] = s / 2147483648
        }
        k = x[0] + x[1] > 1.2 ? 2 : x[2] > x[1]
        printf("%.6f,%.6f,%.6f,k%d\n", x[0], x[1], x[2], k) > "kinds.csv"
        printf("%d,%d,%d,k%d\n", x[0] * 19, x[1] * 19, x[2] * 19, k) > "words.csv"
    }
}'

# Every way to be cut: pairs with functions between, a gathered column, a row by itself, in a residual block, the classes.
cat >mlp.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: 40}, gelu, {dropout: 0.1}, {linear: 25}, gelu_tanh, {layer_norm: {}}, {linear: 18}, relu, {rms_norm: {}},
                 {linear: {out: 24, bias: false}}, silu, {residual: {main: [{linear: 17}, tanh, {linear: 24}]}}, linear]}
parallel: {place: {linear1: column, linear2: row, linear3: column, linear4: row, block1.main.linear1: column,
                   block1.main.linear2: row, linear5: column}}
grid: {tensor: 2}
batch: {global: 20}
loss: {label_smoothing: 0.1}
optim: {lr: 0.01, weight_decay: 0.1, clip_norm: 0.5, ema: 0.9}
run: {steps: 20, seed: 5}
eval: {every: 10, batch: 37}
log: {every: 1}
END
cat >cnn.yaml <<END
data: {path: kinds.csv, split: 0.2, noise: 0.01}
model: {layers: [{linear: 72}, {reshape: [2, 6, 6]}, {conv2d: {out: 6, pad: 1}}, batch_norm, relu, max_pool,
                 {conv2d: {out: 9, pad: 1}}, relu, flatten, {linear: 16}, relu, linear]}
parallel: {place: {"conv?": channels, linear1: none, linear2: column, linear3: row}}
grid: {tensor: 4}
batch: {global: 23}
optim: {kind: sgd, lr: 0.05, clip_norm: 1}
run: {steps: 16}
eval: {every: 8}
log: {every: 1}
END
cat >words.yaml <<END
data: {path: words.csv, split: 0.2, normalize: none}
model: {layers: [{embedding: {rows: 19, dim: 7}}, flatten, {linear: 12}, relu, linear]}
parallel: {place: {embedding1: rows, linear1: none, linear2: none}}
grid: {tensor: 8}
batch: {global: 20}
optim: {lr: 0.01, clip_norm: 0.5}
run: {steps: 16}
eval: {every: 8}
log: {every: 1}
END
sed 's/tensor: 2/tensor: 4/; s/linear5: column/linear5: none/' mlp.yaml >four.yaml

train() # RUN CONFIG RANKS OPTION...
{
    into=$1
    config=$2
    started=$3
    shift 3
    (ranks "$started" "$rankine" train "$config.yaml" "run.dir=$into" "$@" >out 2>err) ||
        fail "$config on $started ranks: $*"
}

# model, ranks, tensor, threads, samples a pass at most (0: all), more options
layouts='
mlp 2 2 1 0
mlp 4 2 2 0
mlp 6 2 1 3
mlp 4 2 1 0 parallel.zero=0
mlp 2 1 1 0
four 4 4 1 0
four 8 4 1 2
four 2 2 2 0
four 8 2 1 0
four 3 1 1 0
cnn 2 2 2 0
cnn 4 4 1 0
cnn 6 2 1 0
cnn 3 1 1 0
words 2 2 1 0
words 8 8 1 0
words 6 2 1 5
'
compared=0
echo "$layouts" >table
while read -r model n tensor threads micro more; do
    [ -n "$model" ] || continue
    [ -d "straight-$model" ] || train "straight-$model" "$model" 1 parallel.threads=1
    run=run-$compared
    train "$run" "$model" "$n" parallel.tensor="$tensor" parallel.threads="$threads" batch.micro="$micro" $more
    same_training "straight-$model" "$run" \
        "$model on $n ranks, tensor $tensor, $threads threads, passes of $micro $more"
    compared=$((compared + 1))
done <table

# Four meshes of one run; snapshots know logical tensors only.
train many four 2 parallel.tensor=2 run.steps=5
train many four 8 parallel.tensor=4 run.steps=10
train many four 3 parallel.tensor=1 run.steps=15
train many four 4 parallel.tensor=4 run.steps=20
[ "$(hash_of many)" = "$(hash_of straight-four)" ] || fail "four meshes of one run: other weights"
for run in many straight-four; do
    "$rankine" eval "$run" --step 20 >"eval-$run" 2>err || fail "eval of $run"
done
cmp -s eval-many eval-straight-four || fail "eval: $(diff eval-many eval-straight-four | head -4)"
[ -s eval-many ] || fail "eval said nothing"

# Fine-tuning loads whole weights and keeps boxes of them.
sed 's/^model:.*/model: {from: straight-four}/; /^ *{linear: {out: 24, bias/d; s/steps: 20/steps: 4/' four.yaml >fine.yaml
train fine-1 fine 1
train fine-4 fine 4 parallel.tensor=2
[ "$(hash_of fine-1)" = "$(hash_of fine-4)" ] || fail "fine-tuning: other weights"

expect_ranks 3 78 'parallel.tensor 2 does not divide the 3 ranks' "$rankine" train mlp.yaml run.dir=x parallel.tensor=2
expect 78 'parallel.tensor: 4 ranks cannot share the 2 tensor shards' "$rankine" train mlp.yaml run.dir=x parallel.tensor=4
expect 78 'parallel.tensor 2 needs as many ranks' "$rankine" train mlp.yaml run.dir=x parallel.tensor=2
expect 78 'parallel.tensor: 3, wanted a power of two' "$rankine" train four.yaml run.dir=x parallel.tensor=3
expect_ranks 2 78 'no layer can be cut' "$rankine" train straight-four/config.json run.dir=x grid.tensor=64 parallel.tensor=2 \
    parallel.place=null
echo "$compared layouts and one run in four meshes: the same bits"
