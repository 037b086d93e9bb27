#!/bin/sh
# parallel.exact: false with several ranks: other bits are allowed, other results are not. Every loss of 40 steps and the
# evaluation at their end are within 1e-4 (relative) of the exact ones, for 1, 2, 3 and 4 ranks and for micro-batches.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"

make_csv points.csv 400
cat >mlp.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 32}, gelu, {layer_norm: {}}, {linear: 16}, relu, linear]}
batch: {global: 48}
optim: {lr: 0.01, clip_norm: 1}
run: {steps: 40}
log: {every: 1}
eval: {every: 40}
END
cat >cnn.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 64}, {reshape: [1, 8, 8]}, {conv2d: {out: 6, pad: 1}}, batch_norm, relu, max_pool, flatten, linear]}
batch: {global: 48}
optim: {kind: sgd, lr: 0.02}
run: {steps: 40}
log: {every: 1}
eval: {every: 40}
END

train() # RUN CONFIG RANKS OPTION...
{
    run=$1
    config=$2
    n=$3
    shift 3
    ranks "$n" "$rankine" train "$config.yaml" run.dir="$run" parallel.threads=1 "$@" >out 2>err || fail "$config on $n ranks $*"
}

compare() # RUN EXACT-RUN
{
    python3 - "$1" "$2" <<'END' || fail "$1 is too far from $2"
import json, sys

def numbers(run):
    lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    return [(name, line["step"], line[name]) for line in lines for name in ("loss", "val_loss") if name in line]

have, want = numbers(sys.argv[1]), numbers(sys.argv[2])
assert len(have) == len(want) == 41, (len(have), len(want))
worst = 0
for (name, step, x), (_, _, y) in zip(have, want):
    worst = max(worst, abs(x - y) / max(abs(y), 1e-3))
    if worst > 1e-4:
        sys.exit("%s of step %d: %r instead of %r" % (name, step, x, y))
print("%s: within %.1e of %s" % (sys.argv[1], worst, sys.argv[2]))
END
}

for config in mlp cnn; do
    train exact-$config $config 1
    for n in 1 2 3 4; do
        train $config-$n $config $n parallel.exact=false
        compare $config-$n exact-$config
        grep -q ', inexact' out || fail "the banner does not tell that additions are not exact"
    done
done
train mlp-micro mlp 3 parallel.exact=false batch.micro=5
compare mlp-micro exact-mlp
