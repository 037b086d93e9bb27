#!/bin/sh
# Several ranks in the build at hand, sanitizers and all: an odd number of them, batch norm, passes of a few samples, tensor shards.
# tests/equivalence has the many layouts, in the program that users run.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
export ASAN_OPTIONS="$ASAN_OPTIONS:fast_unwind_on_malloc=0"
make_csv points.csv 90
cat >small.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 96}, relu, {linear: 192}, relu, {linear: 64}, {reshape: [1, 8, 8]}, {conv2d: {out: 4, pad: 1}}, {batch_norm: {scope: shard}},
                 relu, flatten, linear]}
batch: {global: 20}
optim: {lr: 0.01, clip_norm: 1, ema: 0.9}
run: {steps: 6}
eval: {every: 6}
ckpt: {every: 3}
grid: {tensor: 2}
parallel: {threads: 1}
END
"$rankine" train small.yaml run.dir=one >out 2>err || fail "one rank"
want=$("$rankine" inspect one --hash)
for job in "3 batch.micro=0" "2 batch.micro=7" "2 parallel.tensor=2"; do
    n=${job%% *}
    rm -rf several
    ranks "$n" "$rankine" train small.yaml run.dir=several "${job#* }" >out 2>err || fail "$job"
    [ "$("$rankine" inspect several --hash)" = "$want" ] || fail "$job: other weights"
done
echo "3 jobs of several ranks: $want"
