#!/bin/sh
# What people do by mistake: each gets its exit code, the reason and what to do, in one line.
. "$(dirname "$0")/lib.sh"
make_csv points.csv 60
make_config run.yaml

# Configurations.
expect 66 'a folder, wanted a file' "$rankine" train .
expect 66 'nowhere.yaml: No such file' "$rankine" train nowhere.yaml
expect 66 'wanted a file' "$rankine" train /dev/null
printf 'run:\n\tsteps: 4\n' >tab.yaml
expect 78 'tab.yaml:2:1: .*a tab; indent with spaces' "$rankine" train tab.yaml
printf 'run: {steps: 4\nmodel: @\n' >open.yaml
expect 78 'open.yaml:2:' "$rankine" train open.yaml
expect 78 'run.steps and run.epochs are both 0' "$rankine" train run.yaml run.epochs=0
expect 78 'optim.lr: -1 is out of range, wanted 0 to 1000' "$rankine" train run.yaml optim.lr=-1
expect 78 'optim.lr: nan, wanted a number' "$rankine" train run.yaml optim.lr=nan
expect 78 'batch.global: 99999999999999999999 is out of range' "$rankine" train run.yaml batch.global=99999999999999999999
expect 78 'batch.global: 2.5, wanted a whole number' "$rankine" train run.yaml batch.global=2.5
expect 0 'batch.global 1073741824 is more than the .* each step takes all of them' \
    "$rankine" train run.yaml run.dir=huge batch.global=1073741824 run.steps=2

# Data.
expect 66 'nowhere.csv: No such file' "$rankine" train run.yaml data.path=nowhere.csv
expect 66 'no such file, nor an IDX pair' "$rankine" train run.yaml data.path=.
: >empty.csv
expect 65 'empty.csv: an empty file; wanted rows below a line' "$rankine" train run.yaml data.path=empty.csv
echo a,b,c,class >header.csv
expect 65 'header.csv: a header, but no rows' "$rankine" train run.yaml data.path=header.csv
{ cat points.csv && awk 'BEGIN { for (i = 0; i < 300000; i++) printf("7777777777") ; print ",1,2,up" }'; } >line.csv
expect 65 'line.csv:62: column 1: a field of more than 1 MiB' "$rankine" train run.yaml data.path=line.csv

# Run folders.
expect 74 'points.csv: Not a directory; a run needs a folder that can be written to' "$rankine" train run.yaml run.dir=points.csv
if [ "$(id -u)" -ne 0 ]; then
    chmod 000 header.csv
    expect 66 'header.csv: Permission denied' "$rankine" train run.yaml data.path=header.csv
    mkdir locked && chmod 500 locked
    expect 74 'locked/run: Permission denied; a run needs' "$rankine" train run.yaml run.dir=locked/run
fi
expect 0 '' "$rankine" train run.yaml run.dir=one run.steps=4
expect 78 'model: .* in the run.*Choose another run.dir, or --fresh' \
    "$rankine" train run.yaml run.dir=one run.steps=8 'model={layers: [{linear: 5}, relu, linear]}'
expect 78 'run.seed: 7 in the run, 9 now' "$rankine" train run.yaml run.dir=one run.steps=8 run.seed=9

# A reader of the log that leaves does not end the run, and the exit code tells about the run.
{ status=0; "$rankine" train run.yaml run.dir=piped run.steps=2000 log.every=1 2>err || status=$?; echo $status >code; } | head -1 >first
[ "$(cat code)" -eq 0 ] || fail "exit $(cat code) after the reader of the log has left"
[ -e piped/DONE ] || fail "the reader of the log has left, and the run is not done"
grep -q 'piped/metrics.jsonl has it' err || fail "nobody was told that the log is lost"

# With standard files closed their numbers go to no file of the run.
"$rankine" train run.yaml run.dir=closed run.steps=4 <&- >&- 2>&- || fail "training with closed standard files"
[ "$(wc -c <closed/LOCK)" -eq "$(wc -c <one/LOCK)" ] || fail "something was written into LOCK: $(head -c 200 closed/LOCK)"
expect 0 '' "$rankine" verify closed
[ "$(hash_of closed)" = "$(hash_of one)" ] || fail "with closed standard files another run"
status=0
"$rankine" eval one --data points.csv 2>err >&- || status=$?
[ $status -eq 74 ] || fail "eval without a standard output exits with $status"
