#!/bin/sh
# TERM, USR1 and the first interrupt: saved, 75, and the same command ends with the same bits. A second interrupt: 130.
. "$(dirname "$0")/lib.sh"

make_csv points.csv 400
make_config run.yaml
sed -i 's/epochs: 4/steps: 1500/' run.yaml
echo 'ckpt: {every: 200}' >>run.yaml
echo 'eval: {every: 500}' >>run.yaml

wait_for_step() # LOG
{
    for _ in $(seq 300); do
        grep -q 'step=' "$1" && return
        sleep 0.05
    done
    fail "no step in $1"
}

"$rankine" train run.yaml run.dir=straight >log 2>&1 || fail "the straight run: $(tail -1 log)"
whole=$(hash_of straight)

# A shell without job control lets its background children ignore INT, so it is set back for them here.
start() # RUN
{
    python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$rankine" train run.yaml run.dir="$1" >log.$1 2>err.$1 &
    pid=$!
}

for signal in TERM USR1 INT; do
    start $signal
    wait_for_step log.$signal
    kill -$signal $pid
    status=0
    wait $pid || status=$?
    [ $status -eq 75 ] || fail "$signal gives $status: $(cat err.$signal)"
    grep -q "^rankine: stopped on request at step [0-9]* and saved in $signal" err.$signal || fail "$signal says $(cat err.$signal)"
    last=$(sed -n 's/.*stopped on request at step \([0-9]*\).*/\1/p' err.$signal)
    [ "$last" -lt 1500 ] || fail "$signal came after the end"
    "$rankine" inspect $signal | grep -q "^step $last" || fail "$signal: step $last was not saved"
    "$rankine" train run.yaml run.dir=$signal >log.$signal 2>&1 || fail "after $signal: $(tail -1 log.$signal)"
    grep -q "step=$last " log.$signal && fail "step $last was trained twice"
    [ "$(hash_of $signal)" = "$whole" ] || fail "stopped by $signal and continued: other bits"
done

# Twice: gone at once.
start twice
wait_for_step log.twice
kill -STOP $pid
kill -INT $pid
kill -CONT $pid
kill -INT $pid || true
status=0
wait $pid || status=$?
[ $status -eq 130 ] || [ $status -eq 75 ] || fail "two interrupts give $status"
"$rankine" train run.yaml run.dir=twice >log.twice 2>&1 || fail "after two interrupts: $(tail -1 log.twice)"
[ "$(hash_of twice)" = "$whole" ] || fail "left at once and continued: other bits"
