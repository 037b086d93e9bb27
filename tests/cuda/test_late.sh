#!/bin/sh
# A device that takes steps by itself finds a bad one later than the CPU does. It tells the same: the step, what was not finite first,
# the samples; nothing of the steps behind it is logged or saved, and the snapshot before it is the CPU's.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
module=${RANKINE_CUDA:-$build/librankine_cuda_host.so}
. "$root/tests/cuda/device.sh"
export RANKINE_CUDA="$module"

make_csv points.csv 200
awk 'BEGIN {
    s = 4711
    print "a,b,c,d,y"
    for (i = 0; i < 64; i++) {
        for (j = 0; j < 4; j++) {
            s = (s * 1103515245 + 12345) % 2147483648
            printf("%s,", i == 37 && j == 2 ? "3.3e19" : s / 1073741824 - 1)
        }
        print i % 5
    }
}' >huge.csv

# A rate at which the loss leaves the numbers within some steps.
cat >loss.yaml <<END
data: {path: points.csv, split: 0.2, task: regression, label_column: c}
model: {layers: [{linear: 24}, batch_norm, relu, {linear: 1}]}
batch: {global: 16}
loss: {kind: mse}
optim: {kind: sgd, lr: 0.7, momentum: 0, ema: 0.9}
run: {steps: 60, seed: 3}
ckpt: {every: 4, keep: 100}
END
# A sample whose loss is a number and whose gradient is none.
cat >gradient.yaml <<END
data: {path: huge.csv, task: regression, label_column: y, normalize: none, shuffle: true}
model: {layers: [{linear: {out: 1}}]}
batch: {global: 1}
loss: {kind: mse}
optim: {kind: adamw, lr: 0.001}
run: {steps: 64, seed: 5}
ckpt: {every: 3, keep: 100}
END

# What a run has told, but for times and speeds.
told() # RUN
{
    sed -e 's/"time":"[^"]*",//; s/,"samples_per_s".*//' "$1/metrics.jsonl"
    sed -e 's/"time":"[^"]*",//' "$1/events.jsonl" | grep diverged
}

diverges() # DEVICE CONFIG RUN OPTION...
{
    device=$1
    config=$2
    run=$3
    shift 3
    expect 79 'not finite' "$rankine" train "$config.yaml" "run.dir=$run" "device=$device" parallel.threads=1 "$@"
    cp err "$run.err"
    told "$run" >"$run.told"
    ls "$run/snap" >"$run.snapshots"
}

for config in loss gradient; do
    for every in 1 10 1000; do
        diverges cpu $config cpu-$config-$every log.every=$every
        diverges cuda $config cuda-$config-$every log.every=$every
        for what in err told snapshots; do
            cmp -s cpu-$config-$every.$what cuda-$config-$every.$what || {
                diff cpu-$config-$every.$what cuda-$config-$every.$what >&2 || true
                fail "$config, a line every $every steps: $what of the CPU and the CUDA device differ"
            }
        done
        [ "$(hash_of cpu-$config-$every)" = "$(hash_of cuda-$config-$every)" ] || fail "$config: other weights in the last snapshot"
    done
    [ -s cpu-$config-1.snapshots ] || fail "$config: no snapshot before the bad step, so nothing was compared"
    cmp -s cuda-$config-1.err cuda-$config-1000.err || fail "$config: how often a line is written changes what is told"
done
grep -q 'the gradient of' cuda-gradient-1.err || fail "the loss, not the gradient, was not finite: $(cat cuda-gradient-1.err)"
grep -q 'the loss is' cuda-loss-1.err || fail "the gradient, not the loss, was not finite: $(cat cuda-loss-1.err)"

# Two ranks find it alike, though the samples are one rank's: from GPU to GPU, where NCCL is, and on one GPU over MPI. A snapshot that
# was being written when they end may be missing.
for config in loss gradient; do
    for devices in 1 2; do
        for every in 1 1000; do
            run=two-$config-$devices-$every
            expect_ranks 2 79 'not finite' env RK_EMU_DEVICES=$devices "$rankine" train $config.yaml run.dir=$run device=cuda \
                parallel.threads=1 log.every=$every
            grep '^rankine: ' err >$run.err
            told $run >$run.told
            for what in err told; do
                cmp -s cpu-$config-$every.$what $run.$what || {
                    diff cpu-$config-$every.$what $run.$what >&2 || true
                    fail "$config on two ranks and $devices GPUs, a line every $every steps: $what is not the CPU's"
                }
            done
            last=$(ls $run/snap | sed -n 's/^step-0*//p' | tail -1)
            [ -n "$last" ] || fail "$config on two ranks: no snapshot before the bad step"
            [ "$("$rankine" inspect cpu-$config-$every --hash --step "$last")" = "$("$rankine" inspect $run --hash --step "$last")" ] ||
                fail "$config on two ranks: other weights at step $last than the CPU's"
        done
    done
done

# Tensor shards side by side.
sed -e 's/^model: .*/model: {layers: [{linear: 128}, relu, {linear: 128}, relu, {linear: 1}]}/; s/lr: 0.7/lr: 7/' -e '$a grid: {tensor: 2}' loss.yaml >wide.yaml
diverges cpu wide cpu-wide log.every=1000
expect_ranks 2 79 'not finite' env RK_EMU_DEVICES=2 "$rankine" train wide.yaml run.dir=two-wide device=cuda parallel.threads=1 \
    parallel.tensor=2 log.every=1000
grep '^rankine: ' err >two-wide.err
told two-wide >two-wide.told
for what in err told; do
    cmp -s cpu-wide.$what two-wide.$what || fail "tensor shards: $what is not the CPU's: $(diff cpu-wide.$what two-wide.$what | head -4)"
done

# Workers, each judged by itself; the averaging comes before the bad step.
for every in 1 1000; do
    for device in cpu cuda; do
        diverges $device loss $device-workers-$every log.every=$every optim.ema=0 parallel.strategy=average average.workers=2 average.every=7 optim.lr=3
    done
    for what in err told snapshots; do
        cmp -s cpu-workers-$every.$what cuda-workers-$every.$what || {
            diff cpu-workers-$every.$what cuda-workers-$every.$what >&2 || true
            fail "workers, a line every $every steps: $what of the CPU and the CUDA device differ"
        }
    done
    [ "$(hash_of cpu-workers-$every)" = "$(hash_of cuda-workers-$every)" ] || fail "workers: other weights in the last snapshot"
done
grep -q 'worker [01]: ' cuda-workers-1.err || fail "no worker is named: $(cat cuda-workers-1.err)"

# Steps that a loss scale leaves out are told when they are read of, with their numbers.
sed -e 's/3.3e19/900/' huge.csv >large.csv
sed -e 's/huge.csv/large.csv/; s/global: 1/global: 8/; s/lr: 0.001/lr: 0.1/' -e '$a compute: f16' gradient.yaml >half.yaml
left_out()
{
    grep -o '"[^"]*the step is left out[^"]*"' "$1/events.jsonl"
}
ranks 1 "$rankine" train half.yaml run.dir=cpu-half device=cpu log.every=1000 >out 2>err || fail "f16 on the CPU"
left_out cpu-half >want || fail "no step is left out in f16, so nothing is compared"
for n in 1 2; do
    RK_EMU_DEVICES=2 ranks $n "$rankine" train half.yaml run.dir=cuda-half-$n device=cuda parallel.threads=1 log.every=1000 >out 2>err ||
        fail "f16 on $n ranks"
    left_out cuda-half-$n >have || true
    cmp -s want have || fail "f16 on $n ranks: other steps are left out: $(diff want have | head -4)"
    [ "$(hash_of cpu-half)" = "$(hash_of cuda-half-$n)" ] || fail "f16 on $n ranks: other weights than the CPU's"
done

# A run that is stopped looks before it saves; so does one that was asked for more steps than the device notes.
sed -e 's/lr: 0.7/lr: 0.01/; s/steps: 60/steps: 150/; s/every: 4,/every: 1000,/' loss.yaml >long.yaml
"$rankine" train long.yaml run.dir=cpu-long device=cpu log.every=1000 >out 2>err || fail "150 steps on the CPU"
"$rankine" train long.yaml run.dir=cuda-long device=cuda log.every=1000 >out 2>err || fail "150 steps on the CUDA device"
told cpu-long >cpu-long.told || true
told cuda-long >cuda-long.told || true
cmp -s cpu-long.told cuda-long.told || fail "150 steps: other lines than the CPU's"
[ "$(hash_of cpu-long)" = "$(hash_of cuda-long)" ] || fail "150 steps: other weights than the CPU's"

# Stopped anywhere, it goes on to the same weights.
sed -e 's/steps: 150/steps: 400/; s/^run: {/run: {dir: stopped, /' long.yaml >stopped.yaml
"$rankine" train stopped.yaml device=cuda log.every=1000 >out 2>err &
child=$!
i=0
until grep -q 'new run' out || [ $i -gt 200 ]; do
    i=$((i + 1))
    sleep 0.05
done
sleep 0.2
kill -TERM $child
status=0
wait $child || status=$?
[ $status -eq 75 ] || fail "exit $status, not 75, of a run that was asked to stop"
"$rankine" train stopped.yaml device=cuda log.every=1000 >out 2>err || fail "a stopped run does not go on"
"$rankine" train stopped.yaml run.dir=straight device=cpu log.every=1000 >out 2>err || fail "400 steps on the CPU"
[ "$(hash_of stopped)" = "$(hash_of straight)" ] || fail "stopped and continued: other weights than the CPU's"
echo "bad steps of the CUDA device: told as on the CPU"
