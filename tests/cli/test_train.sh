#!/bin/sh
# A run from its first line to its end: log lines, files, resume, another configuration, a second job, --fresh.
. "$(dirname "$0")/lib.sh"
here=$root/tests/cli

make_csv points.csv 400
make_config run.yaml

# 320 training samples, 10 steps an epoch, 40 in all.
expect 0 'step=40 ' "$rankine" train run.yaml
python3 "$here/check_log.py" kv out step loss lr grad_norm samples_per_s step_ms mem_gib val_loss val_accuracy
[ ! -s err ] || fail "a good run writes to stderr"
[ -e runs/run/DONE ] || fail "no DONE"
for file in metrics.jsonl events.jsonl; do
    python3 -c 'import json, sys; assert [json.loads(l) for l in open(sys.argv[1])]' runs/run/$file || fail "$file"
done
python3 -c 'import json; r = json.load(open("runs/run/result.json"))' || fail "result.json"
whole=$(hash_of runs/run)
echo "$whole" | grep -Eq '^sha256 [0-9a-f]{64}$' || fail "inspect --hash prints $whole"

# The same command again has nothing to do and changes nothing.
expect 0 '' "$rankine" train run.yaml
[ "$(hash_of runs/run)" = "$whole" ] || fail "a finished run changed"

# The same configuration elsewhere gives the same bits; so does another log format.
expect 0 '' "$rankine" train run.yaml run.dir=again log.format=json
python3 "$here/check_log.py" json out step loss val_loss
[ "$(hash_of again)" = "$whole" ] || fail "two runs of one configuration differ"
expect 0 '' "$rankine" train run.yaml --run.dir=other run.seed=8
[ "$(hash_of other)" != "$whole" ] || fail "another seed gives the same weights"

# Longer: the run goes on from its end, and ends as a run that was that long from the start.
expect 0 'step=60 ' "$rankine" train run.yaml --num-epochs 6
grep -q 'step=10 ' out && fail "a longer run began anew"
expect 0 '' "$rankine" train run.yaml run.dir=straight --num-epochs 6
[ "$(hash_of runs/run)" = "$(hash_of straight)" ] || fail "resumed and straight differ"

# What a run is made of may not change under it.
expect 78 'batch.global|run.seed' "$rankine" train run.yaml run.seed=9
expect 78 'optim.lr' "$rankine" train run.yaml --num-epochs 7 optim.lr=0.002
expect 0 '' "$rankine" train run.yaml --num-epochs 7 optim.lr=0.002 --allow-change

# --fresh asks before it throws away.
expect 64 'holds a run of 70 steps; --fresh would remove it: add --yes' "$rankine" train run.yaml --fresh
expect 0 'step=40 ' "$rankine" train run.yaml --fresh --yes
[ "$(hash_of runs/run)" = "$whole" ] || fail "a fresh run differs"
expect 0 '' "$rankine" train run.yaml run.dir=new --fresh

# Two jobs on one folder: the second is refused, the first goes on.
"$rankine" train run.yaml run.dir=locked run.epochs=100000 >first 2>&1 &
first=$!
for _ in $(seq 100); do
    grep -q 'step=' first && break
    sleep 0.1
done
expect 73 "locked.*$first|$first" "$rankine" train run.yaml run.dir=locked run.epochs=100000
kill -0 $first || fail "the first job died"
kill -TERM $first
status=0
wait $first || status=$?
[ $status -eq 75 ] || fail "TERM gives $status"

# Looking at it.
expect 0 'snapshot' "$rankine" inspect runs/run
grep -q 'param' out || fail "inspect lists no weights"
expect 0 '' "$rankine" verify runs/run
expect 66 'nowhere' "$rankine" inspect nowhere
expect 66 'nowhere' "$rankine" verify nowhere
expect 66 'nowhere' "$rankine" eval nowhere
expect 0 '' "$rankine" export safetensors runs/run w.safetensors
expect 0 '' "$rankine" export h5 runs/run w.h5
[ -s w.safetensors ] && [ -s w.h5 ] || fail "nothing exported"

# A file holds the weights of the run, under the same hash whoever wrote it.
"$rankine" inspect runs/run | awk '$1 == "param" { print $NF }' >weights.run
"$rankine" inspect w.safetensors | awk '$1 == "param" { print $NF }' >weights.file
cmp -s weights.run weights.file || fail "the file holds other weights than the run"
"$rankine" export safetensors straight other.safetensors
expect 0 '^sha256 [0-9a-f]{64}$' "$rankine" inspect w.safetensors --hash
[ "$(hash_of w.safetensors)" != "$(hash_of other.safetensors)" ] || fail "two runs, one hash"
expect 0 '' "$rankine" export safetensors runs/run again.safetensors
[ "$(hash_of w.safetensors)" = "$(hash_of again.safetensors)" ] || fail "one run, two hashes"
head -c 100 w.safetensors >cut.safetensors
expect 65 'cut.safetensors' "$rankine" inspect cut.safetensors
expect 65 'w.h5.*h5dump' "$rankine" inspect w.h5
