#!/bin/sh
# The promise, small: the same weights, the same optimiser state and the same logged numbers from every layout. Small networks of
# every kind on a small table, ranks that divide the eight shards and ranks that do not, short last batches, evaluation and early
# stopping; then one run whose layout changes three times.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"

. "$root/tests/equivalence/networks.sh"

# model, ranks, threads, samples a pass at most (0: all), more options
layouts='
mlp 2 1 0
mlp 3 1 0
mlp 4 1 3
mlp 5 2 0
mlp 8 1 1
cnn 2 2 0
cnn 3 1 4
cnn 7 1 0
resnet 2 1 0
resnet 3 1 0
resnet 5 1 0
resnet 8 1 0
shard 3 1 0
shard 2 1 7
shard 1 1 4
values 2 1 0
values 3 2 5
values 7 1 0
mlp 1 2 5
cnn 1 1 3
mlp 3 1 0 grid.data=4
mlp 3 1 1
mlp 16 1 0 grid.data=16
mlp 3 1 0 parallel.zero=0
resnet 2 1 0 parallel.zero=0
mlp 3 1 0 parallel.bucket=64
mlp 2 1 0 parallel.zero=0 parallel.bucket=64
mlp 4 1 0 parallel.zero=2 parallel.bucket=64
mlp 3 1 3 parallel.zero=2 parallel.bucket=64
mlp 5 1 0 parallel.zero=3
mlp 2 1 0 parallel.zero=3 parallel.bucket=64
mlp 3 1 1 parallel.zero=3 parallel.bucket=64
mlp 8 1 2 parallel.zero=3 parallel.bucket=1000
cnn 7 1 4 parallel.zero=3 parallel.bucket=64
resnet 3 1 0 parallel.zero=3 parallel.bucket=64
resnet 2 1 0 parallel.zero=2 parallel.bucket=64
shard 3 1 7 parallel.zero=3 parallel.bucket=64
frozen 3 1 3 parallel.zero=3 parallel.bucket=64
frozen 2 1 0 parallel.zero=3 parallel.bucket=64
values 7 1 0 parallel.zero=3
'

train() # RUN CONFIG RANKS THREADS MICRO OPTION...: in a shell of its own, whose names are not those of the table
(
    run=$1
    config=$2
    n=$3
    threads=$4
    micro=$5
    shift 5
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" "parallel.threads=$threads" "batch.micro=$micro" "$@" \
        >out 2>err || fail "$config on $n ranks, $threads threads, passes of $micro $*"
)

compared=0
echo "$layouts" >table
while read -r model n threads micro more; do
    [ -n "$model" ] || continue
    case $more in grid.*) grid=$more ;; *) grid= ;; esac
    straight=straight-$model$grid
    [ -d "$straight" ] || train "$straight" "$model" 1 1 0 $grid
    run=run-$compared
    train "$run" "$model" "$n" "$threads" "$micro" $more
    same_training "$straight" "$run" "$model $more on $n ranks, $threads threads, passes of $micro"
    compared=$((compared + 1))
done <table
grep -q '"val_rmse"' want || grep -q val_rmse straight-values/metrics.jsonl || fail "no regression was evaluated"
stopped=$(tail -1 straight-values/metrics.jsonl | grep -oE '"step":[0-9]+')
[ "$stopped" != '"step":200' ] || fail "early stopping was not tried: values.yaml ran to its end"

# One run, four layouts: stopped by a signal to the launcher, by the death of a rank, by the file STOP.
sed -e 's/steps: 30/steps: 900/; s/every: 10,/every: 300,/; s/every: 1}/every: 20}/' mlp.yaml >long.yaml
echo 'ckpt: {every: 100}' >>long.yaml
train straight long 1 1 0

start() # RANKS OPTION...
{
    n=$1
    shift
    step_before=$(steps_of many)
    mpirun -n "$n" "$rankine" train long.yaml run.dir=many parallel.threads=1 "$@" >out 2>err </dev/null &
    job=$!
    for _ in $(seq 600); do
        [ "$(steps_of many)" -gt "$step_before" ] && return
        sleep 0.02
    done
    kill $job
    fail "no step on $n ranks"
}

steps_of() # RUN: the last logged step
{
    last=$(tail -1 "$1/metrics.jsonl" 2>/dev/null | grep -oE '"step":[0-9]+' | cut -d: -f2)
    echo "${last:-0}"
}

stopped() # CODE: the job has ended so, before its end
{
    status=0
    wait $job || status=$?
    [ $status -eq "$1" ] || fail "exit $status instead of $1 on $n ranks"
    [ ! -e many/DONE ] || fail "the run was over before it was stopped"
}

start 3
kill -USR1 $job
stopped 75
start 8 batch.micro=2
kill -KILL "$(pids_of $job | tail -1)"
stopped 137
start 2
touch many/STOP
stopped 75
train many long 5 1 0
[ "$(hash_of many)" = "$(hash_of straight)" ] || fail "3, 8, 2, then 5 ranks: other weights than on one"
echo "$compared layouts and one run in four layouts: the same bits"
