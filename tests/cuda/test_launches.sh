#!/bin/sh
# A training step on a device makes few launches, and the host does not wait for it between log lines: the MLP 784-512-512-10 with
# AdamW, counted by the stand-ins over the steps between a short run and a longer one.
. "$(dirname "$0")/../cli/lib.sh"
module=$build/librankine_cuda_host.so
if [ ! -e "$module" ]; then
    echo "skipped: built without librankine_cuda_host.so (CUDA's headers were not found)"
    exit 77
fi
most_launches=20
most_waits=0

awk 'BEGIN {
    s = 12345
    for (j = 0; j < 784; j++) printf("x%d,", j)
    print "class"
    for (i = 0; i < 128; i++) {
        for (j = 0; j < 784; j++) {
            s = (s * 1103515245 + 12345) % 2147483648
            printf("%.3f,", s / 2147483648)
        }
        printf("c%d\n", i % 10)
    }
}' >digits.csv
cat >mlp.yaml <<END
data: {path: digits.csv}
model: {layers: [{linear: 512}, relu, {linear: 512}, relu, {linear: 10}]}
batch: {global: 64}
optim: {kind: adamw, lr: 0.001, clip_norm: 1}
ckpt: {every: 1000}
log: {every: 1000}
END

# What the stand-ins have counted under a name. STEPS OPTION...
count() # NAME FILE
{
    awk -v name="$1" '$1 == name { print $2; exit }' "$2"
}

run() # STEPS FILE OPTION...
{
    steps=$1
    file=$2
    shift 2
    RANKINE_CUDA="$module" RK_EMU_STATS="$file" "$rankine" train mlp.yaml "run.dir=run-$file" "run.steps=$steps" device=cuda \
        parallel.threads=1 "$@" >out 2>err || fail "$steps steps $*"
    [ -n "$(count waits "$file")" ] || fail "$file has no count of waits"
}

# bars NAME LAUNCHES WAITS OPTION...: over twelve steps.
bars()
{
    name=$1
    launches=$2
    waits=$3
    shift 3
    run 4 "$name-short" "$@"
    run 16 "$name-long" "$@"
    l=$((($(count launches "$name-long") - $(count launches "$name-short")) / 12))
    w=$(($(count waits "$name-long") - $(count waits "$name-short")))
    echo "$name: $l launches a step, $w waits of the host in 12 steps"
    [ $l -le "$launches" ] || fail "$name: $l launches a step, at most $launches are wanted"
    [ $w -le "$waits" ] || fail "$name: the host waits $w times in 12 steps, at most $waits times is wanted"
}

bars adamw $most_launches $most_waits
bars averages $((most_launches + 1)) $most_waits optim.ema=0.9
bars sgd $most_launches $most_waits optim.kind=sgd optim.momentum=0.9
# A copy to the host, and its end, a log line.
bars logged $most_launches 12 log.every=2
