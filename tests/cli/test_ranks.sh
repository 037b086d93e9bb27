#!/bin/sh
# What a user of several ranks meets: one clear sentence for each mistake, from one rank, the right exit code and no hang; logs of
# the other ranks; signals to the launcher and to one rank.
. "$(dirname "$0")/lib.sh"
. "$root/tests/cli/mpi.sh"
limit=60

make_csv points.csv 400
make_config run.yaml

# ---- mistakes ----

expect_ranks 3 66 '^rankine: nope.yaml: No such file' "$rankine" train nope.yaml
expect_ranks 3 78 '^rankine: .*unknown key optim.lrr; did you mean optim.lr' "$rankine" train run.yaml optim.lrr=3
expect_ranks 3 64 '^rankine: train: there is no flag --bad' "$rankine" train run.yaml --bad
expect_ranks 9 78 '^rankine: 9 ranks, but grid.data is 8' "$rankine" train run.yaml
expect_ranks 4 78 '^rankine: .*parallel.tensor: 4 ranks cannot share the 2 tensor shards' "$rankine" train run.yaml \
    parallel.tensor=4 grid.tensor=2
expect_ranks 3 66 '^rankine: /nope: no such file' "$rankine" train run.yaml data.path=/nope

# two COUNT "OPTIONS" COUNT "OPTIONS" CODE PATTERN: a job of two kinds of ranks
two()
{
    status=0
    timeout 60 mpirun -n "$1" "$rankine" train $2 : -n "$3" "$rankine" train $4 >out 2>err </dev/null || status=$?
    [ $status -eq "$5" ] || fail "exit $status instead of $5: $2 beside $4"
    [ "$(grep -c '^rankine: ' err)" -eq 1 ] || fail "not one line from rankine: $2 beside $4"
    grep -Eq -- "$6" err || fail "no \"$6\": $2 beside $4"
}
two 2 run.yaml 1 nope.yaml 66 '^rankine: rank 2: nope.yaml: No such file'
two 2 run.yaml 1 'run.yaml --bad' 64 '^rankine: rank 2: train: there is no flag --bad'
two 1 run.yaml 2 'run.yaml optim.lr=0.5' 78 \
    '^rankine: ranks 1-2 and rank 0 have different configurations: optim.lr is 0.01 on rank 0 and 0.5 on rank 1'
two 2 run.yaml 1 'run.yaml optim.clip_norm=2' 78 'rank 2 and rank 0 .*: optim.clip_norm is 0 on rank 0 and 2 on rank 2'

# Hosts that see different files: folders here.
mkdir a b c
cp points.csv a/
head -201 points.csv >b/points.csv
elsewhere() # FOLDER CODE PATTERN
{
    status=0
    timeout 60 mpirun -n 2 -wdir "$dir/a" "$rankine" train ../run.yaml run.dir="$dir/where" : \
        -n 1 -wdir "$dir/$1" "$rankine" train ../run.yaml run.dir="$dir/where" >out 2>err </dev/null || status=$?
    [ $status -eq "$2" ] || fail "exit $status instead of $2 with other data"
    [ "$(grep -c '^rankine: ' err)" -eq 1 ] || fail "not one line from rankine about other data"
    grep -Eq -- "$3" err || fail "no \"$3\""
}
elsewhere c 66 '^rankine: rank 2: points.csv: No such file'
elsewhere b 65 '^rankine: points.csv: rank 2 and rank 0 see different data: 160 and 320 samples to train on'
sed 's/,0\.3/,0.4/' points.csv >b/points.csv
elsewhere b 65 'rank 2 and rank 0 see as many samples, but of other content'

# Another build of the program.
if command -v objcopy >/dev/null && readelf -n "$rankine" 2>/dev/null | grep -q 'Build ID'; then
    objcopy --remove-section .note.gnu.build-id "$rankine" other
    chmod +x other
    status=0
    timeout 60 mpirun -n 2 "$rankine" train run.yaml : -n 1 ./other train run.yaml >out 2>err </dev/null || status=$?
    [ $status -eq 78 ] || fail "exit $status instead of 78 with another build"
    grep -q '^rankine: rank 2 and rank 0 run different programs' err || fail "another build is not told"
fi

# Other verbs are the first rank's work.
[ "$(ranks 3 "$rankine" version 2>&1 | grep -c rankine)" -eq 1 ] || fail "version speaks more than once"

# ---- a run ----

ranks 3 "$rankine" train run.yaml parallel.threads=2 >out 2>err || fail "3 ranks of 2 threads"
grep -Eq 'mesh: 3 ranks x 2 threads on 1 node, over a grid of 8 x 1 shards' out || fail "the banner does not tell the mesh"
grep -Eq 'exchange: a rank sends [0-9.]+ [KMGT]?i?B|exchange: a rank sends [0-9.]+ bytes' out || fail "the banner tells no bytes"
grep -Eq 'in [1-9][0-9]* buckets? of [0-9.]+ [KM]iB \(measured\)' out || fail "the banner tells no buckets"
grep -Eq 'step=[0-9]+ .* exchange_ms=[0-9.e-]+' out || fail "log lines tell no exchange"
grep -q '"exchange_s":' runs/run/metrics.jsonl || fail "metrics.jsonl tells no exchange"
python3 "$root/tests/cli/check_log.py" kv out step
if [ "$(nproc)" -lt 6 ]; then
    grep -Eq '3 ranks with 6 threads share [0-9]+ processors' out || fail "more threads than processors are not warned of"
fi
for r in 1 2; do
    grep -Eq "rank $r of 3, process [0-9]+ on " runs/run/rank-$r.log || fail "rank-$r.log does not begin with who it is"
    grep -q 'finished: 40 steps' runs/run/rank-$r.log || fail "rank-$r.log does not tell the end"
done
[ ! -e runs/run/rank-0.log ] || fail "the rank that speaks has a log too"
ranks 2 "$rankine" train run.yaml --fresh >out 2>err && fail "--fresh without --yes"
grep -q 'add --yes' err || fail "--fresh does not ask for --yes"
ranks 2 "$rankine" train run.yaml --fresh --yes optim.kind=sgd optim.lr=1000 optim.momentum=0 loss.kind=mse \
    data.task=regression data.label_column=c model.layers='[{linear: {out: 32}}, {linear: {out: 1}}]' >out 2>err && fail "a training that diverges"
[ "$(grep -c '^rankine: ' err)" -eq 1 ] || fail "a training that diverges speaks more than once"
grep -Eq '^rankine: step [0-9]+: .*not finite' err || fail "a training that diverges does not say so"
"$rankine" train run.yaml run.dir=alone optim.kind=sgd optim.lr=1000 optim.momentum=0 loss.kind=mse data.task=regression \
    data.label_column=c model.layers='[{linear: {out: 32}}, {linear: {out: 1}}]' >out 2>err.alone && fail "one rank does not diverge"
[ "$(grep '^rankine: ' err)" = "$(cat err.alone)" ] || fail "one rank says: $(cat err.alone)"
grep -q 'failed: ' runs/run/rank-1.log || fail "rank-1.log does not tell the failure"

# A rank with a slower build of the kernels: it is named, and the bits are the same all the same.
if ! "$rankine" doctor 2>/dev/null | grep -q 'cpu portable'; then
    cat >slow.yaml <<END
data: {path: points.csv, split: 0.2}
model: {layers: [{linear: 256}, relu, {linear: 256}, relu, linear]}
batch: {global: 128}
run: {steps: 10}
parallel: {threads: 1}
log: {every: 5}
END
    timeout 60 mpirun -n 1 "$rankine" train slow.yaml run.dir=slow : -n 1 -x RANKINE_ISA=portable "$rankine" train slow.yaml \
        run.dir=slow >out 2>err </dev/null || fail "ranks with different instruction sets"
    grep -Eq ' slow_rank=1 slow_by=1\.[3-9]' out || fail "the slow rank is not in the log lines"
    grep -Eq 'slowest: rank 1 on .*, 1\.[3-9][0-9]* times the median' out || fail "the slow rank's host is not named"
    grep -Eq '"slow_rank":1,"slow_by":1\.[3-9][0-9]*,"slow_host":"[^"]+"' slow/metrics.jsonl || fail "nor in metrics.jsonl"
    "$rankine" train slow.yaml run.dir=fast >out 2>err || fail "one rank"
    [ "$(hash_of slow)" = "$(hash_of fast)" ] || fail "ranks with different instruction sets: other weights"
fi

# ---- signals, and two jobs in one folder ----

# few log lines: a launcher that is ending a job reads no more of them, and a rank waits when its pipe is full
sed -i 's/epochs: 4/steps: 1000000/; s/log: {every: 10}/log: {every: 1000}/' run.yaml
echo 'ckpt: {every: 1000000}' >>run.yaml
echo 'eval: {every: 1000000}' >>run.yaml

start() # RUN: three ranks in the background, in a step
{
    mpirun -n 3 "$rankine" train run.yaml run.dir="$1" parallel.threads=1 >log.$1 2>err.$1 </dev/null &
    job=$!
    [ "${2-}" = early ] && return
    for _ in $(seq 400); do
        grep -q 'step=' log.$1 && return
        sleep 0.05
    done
    fail "no step in $1: $(cat err.$1)"
}

stopped() # RUN CODE: the job ends so, and its last step is saved
{
    status=0
    wait $job || status=$?
    [ $status -eq "$2" ] || fail "$1: exit $status instead of $2: $(cat err.$1)"
    [ ! -e $1/DONE ] || fail "$1: over before it was stopped"
    grep -q 'stopped on request at step' $1/events.jsonl || fail "$1: did not stop on request"
    "$rankine" inspect $1 | grep -Eq '^step [0-9]+' || fail "$1: nothing was saved"
    [ "$(grep -c 'stopped on request at step' err.$1)" -le 1 ] || fail "$1: said more than once: $(cat err.$1)"
}

start usr1
status=0
timeout 60 mpirun -n 2 "$rankine" train run.yaml run.dir=usr1 >out 2>err </dev/null || status=$?
[ $status -eq 73 ] || fail "exit $status instead of 73 for a second job in the folder"
[ "$(grep -c '^rankine: ' err)" -eq 1 ] || fail "the second job speaks more than once"
kill -USR1 $job
stopped usr1 75
start usr1
kill -USR1 $job
stopped usr1 75

start one-rank
kill -TERM "$(pids_of $job | sed -n 2p)"
stopped one-rank 75
start int-one
kill -INT "$(pids_of $job | sed -n 3p)"
stopped int-one 75
# The launcher's own way to end a job: TERM to the ranks, KILL some time after; the exit code is its own. A busy disk may need
# more than the second that is usual.
export OMPI_MCA_odls_base_sigkill_timeout=4
start term
unset OMPI_MCA_odls_base_sigkill_timeout
kill -TERM $job
status=0
wait $job || status=$?
[ $status -ne 0 ] || fail "term: exit 0"
"$rankine" inspect term | grep -Eq '^step [0-9]+' ||
    fail "TERM to the launcher: nothing was saved: $(cat err.term)"

# Asked to stop while it starts: as soon as the ranks have met, without a step or after few.
start early early
for _ in $(seq 200); do
    [ "$(pids_of $job | wc -l)" -eq 3 ] && break
    sleep 0.01
done
sleep 0.05
for pid in $(pids_of $job); do
    kill -USR1 "$pid" 2>/dev/null || true
done
stopped early 75
