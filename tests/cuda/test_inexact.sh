#!/bin/sh
# Trainings with parallel.exact: false on the CUDA device, run on the host: products come from cuBLASLt's stand-in, and every
# loss is near the CPU's canonical one: within 1e-5 (relative) in f32, 1e-3 where operands are rounded to bf16 or f16: a sum
# that ends beside a rounding boundary may fall to the other side. Without the library our own kernels multiply.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
module=${RANKINE_CUDA:-$build/librankine_cuda_host.so}
. "$root/tests/cuda/device.sh"
if ! stand_ins; then
    RANKINE_CUDA=$module "$build/tests/cuda_test_blas" it_says_who_multiplies >out 2>&1 ||
        { echo "skipped: cuBLASLt is not there"; exit 77; }
fi
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

version='13[.]0' # the stand-in's
stand_ins || version='[0-9]'
for compute in f32 bf16 f16; do
    tolerance=1e-3
    [ $compute != f32 ] || tolerance=1e-5
    train cpu cpu-$compute mlp 1 compute=$compute
    train cuda exact-$compute mlp 1 compute=$compute
    compare exact-$compute cpu-$compute 0
    for n in 1 2; do
        train cuda $compute-$n mlp $n compute=$compute parallel.exact=false
        grep -q ", cuBLASLt $version" out || fail "the banner does not tell who multiplies"
        compare $compute-$n cpu-$compute $tolerance
    done
done
# Weights in 16 bits are those of the step at hand, whoever has changed the weights: averages that take their place in an
# evaluation, other ranks, another worker, a snapshot.
while read -r name n options; do
    train cpu "cpu-$name" mlp "$n" compute=bf16 eval.every=6 run.steps=24 $options
    train cuda "kept-$name" mlp "$n" compute=bf16 eval.every=6 run.steps=24 parallel.exact=false $options
    compare "kept-$name" "cpu-$name" 1e-3
done <<END
averages 1 optim.ema=0.8 optim.lr=0.02
micro 1 optim.ema=0.8 batch.micro=5
zero1 2 optim.ema=0.8 parallel.zero=1
zero2 2 parallel.zero=2 parallel.bucket=64
zero3 2 parallel.zero=3 parallel.bucket=64 batch.micro=6
workers 1 parallel.strategy=average average.workers=2 average.every=4
END
# A run has the bits of another, and of its continuation: algorithms are chosen by nothing that differs between them. The stand-in's
# differ in their bits.
for compute in f32 bf16; do
    for run in straight again short; do
        steps=24
        [ $run != short ] || steps=11
        train cuda $run-$compute mlp 1 compute=$compute parallel.exact=false run.steps=$steps
    done
    train cuda short-$compute mlp 1 compute=$compute parallel.exact=false run.steps=24
    for run in again short; do
        [ "$(hash_of $run-$compute)" = "$(hash_of straight-$compute)" ] || fail "$run-$compute: other weights than straight-$compute"
    done
    train cuda exact mlp 1 compute=$compute run.steps=24
    [ "$(hash_of straight-$compute)" != "$(hash_of exact)" ] || fail "the hash does not see what was trained"
    rm -r exact
done
train cuda micro mlp 2 parallel.exact=false batch.micro=5
compare micro cpu-f32 1e-5
if stand_ins; then
    RK_EMU_BLAS=off train cuda missing mlp 1 parallel.exact=false
    grep -q 'own kernels: libcublasLt.so.13 was not found' out || fail "the banner does not tell what is missing"
    compare missing cpu-f32 1e-5
fi
# All ranks multiply by cuBLASLt or none does, whoever lacks it: the same bits as where all do.
lacks="0 1 all"
stand_ins || lacks=
for lacking in $lacks; do
    RK_EMU_BLAS=off
    export RK_EMU_BLAS
    [ $lacking = all ] || lack="[ \$OMPI_COMM_WORLD_RANK = $lacking ] || unset RK_EMU_BLAS;"
    rm -rf lacking
    RANKINE_CUDA=$module ranks 2 sh -c "${lack-} "'exec "$@"' sh "$rankine" train mlp.yaml run.dir=lacking device=cuda \
        parallel.threads=1 parallel.exact=false run.steps=4 log.every=1 >out 2>err || fail "rank $lacking lacks cuBLASLt"
    unset RK_EMU_BLAS lack
    case $lacking in all) who=0 ;; *) who=$lacking ;; esac
    grep -q "own kernels: libcublasLt.so.13 was not found (rank $who), " out || fail "the banner does not tell that rank $who lacks cuBLASLt"
    hash=$(hash_of lacking)
    [ "$hash" = "${lacking_hash=$hash}" ] || fail "other weights where rank $lacking lacks cuBLASLt"
done
train cpu cpu-cnn cnn 1
train cuda cnn cnn 1 parallel.exact=false
compare cnn cpu-cnn 1e-5
