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
# Workers that average, shared out unevenly, continued on another number of ranks between two averagings.
apart='parallel.strategy=average average.every=2 average.outer=nesterov'
"$rankine" train small.yaml run.dir=apart $apart >out 2>err || fail "averaging on one rank"
ranks 3 "$rankine" train small.yaml run.dir=apart-3 $apart batch.micro=3 >out 2>err || fail "averaging on three ranks"
rm -r apart-3/DONE apart-3/snap/step-*6
ranks 2 "$rankine" train small.yaml run.dir=apart-3 $apart >out 2>err || fail "averaging, continued on two ranks"
apart=$("$rankine" inspect apart --hash)
[ "$("$rankine" inspect apart-3 --hash)" = "$apart" ] || fail "averaging: other weights"
[ "$apart" != "$want" ] || fail "averaging has no effect"
echo "5 jobs of several ranks: $want"
