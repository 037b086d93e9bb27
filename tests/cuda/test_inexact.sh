#!/bin/sh
# Trainings with parallel.exact: false on the CUDA device, run on the host: products come from cuBLASLt's stand-in, and every
# loss is near the CPU's canonical one: within 1e-5 (relative) in f32, 1e-3 where operands are rounded to bf16 or f16: a sum
# that ends beside a rounding boundary may fall to the other side. Without the library our own kernels multiply.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
make_csv points.csv 400
cat >mlp.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 32}, relu, {linear: 24}, gelu, {linear: 20}, gelu_tanh, {layer_norm: {}}, linear]}
batch: {global: 48}
optim: {lr: 0.002, clip_norm: 1}
run: {steps: 40}
log: {every: 1}
eval: {every: 40}
END
cat >cnn.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 64}, {reshape: [1, 8, 8]}, {conv2d: {out: 6, pad: 1}}, relu, max_pool, flatten, linear]}
batch: {global: 48}
optim: {kind: sgd, lr: 0.02}
run: {steps: 10}
log: {every: 1}
eval: {every: 10}
END

compare() # RUN CPU-RUN TOLERANCE
{
    python3 - "$@" <<'END' || fail "$1 is too far from $2"
import json, sys

def numbers(run):
    lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    return [(name, line["step"], line[name]) for line in lines for name in ("loss", "val_loss") if name in line]

have, want = numbers(sys.argv[1]), numbers(sys.argv[2])
assert len(have) == len(want) > 10, (len(have), len(want))
worst = 0
for (name, step, x), (_, _, y) in zip(have, want):
    worst = max(worst, abs(x - y) / max(abs(y), 1e-3))
    if worst > float(sys.argv[3]):
        sys.exit("%s of step %d: %r instead of %r" % (name, step, x, y))
print("%s: within %.1e of %s" % (sys.argv[1], worst, sys.argv[2]))
END
}

for compute in f32 bf16 f16; do
    tolerance=1e-3
    [ $compute != f32 ] || tolerance=1e-5
    train cpu cpu-$compute mlp 1 compute=$compute
    train cuda exact-$compute mlp 1 compute=$compute
    compare exact-$compute cpu-$compute 0
    for n in 1 2; do
        train cuda $compute-$n mlp $n compute=$compute parallel.exact=false
        grep -q ', cuBLASLt 13[.]0' out || fail "the banner does not tell who multiplies"
        compare $compute-$n cpu-$compute $tolerance
    done
done
train cuda micro mlp 2 parallel.exact=false batch.micro=5
compare micro cpu-f32 1e-5
RK_EMU_BLAS=off train cuda missing mlp 1 parallel.exact=false
grep -q 'own kernels: libcublasLt.so.13 was not found' out || fail "the banner does not tell what is missing"
compare missing cpu-f32 1e-5
train cpu cpu-cnn cnn 1
train cuda cnn cnn 1 parallel.exact=false
compare cnn cpu-cnn 1e-5
