#!/bin/sh
# Mistakes in a configuration are found before anything runs, and named by file, line and column.
. "$(dirname "$0")/lib.sh"

make_config good.yaml
expect 0 'good.yaml: good; it would run in runs/good' "$rankine" config check good.yaml

sed 's/lr: 0.01/lrr: 0.01/' good.yaml >bad.yaml
expect 78 'bad.yaml:11:27: .*lrr.*lr' "$rankine" config check bad.yaml
expect 78 'bad.yaml:11:27: ' "$rankine" train bad.yaml
sed 's/lr: 0.01/lr: fast/' good.yaml >bad.yaml
expect 78 'bad.yaml:11:26: .*optim.lr' "$rankine" config check bad.yaml
sed 's/lr: 0.01/lr: -1/' good.yaml >bad.yaml
expect 78 'bad.yaml:11:26: .*optim.lr' "$rankine" config check bad.yaml
sed 's/kind: adamw/kind: adamx/' good.yaml >bad.yaml
expect 78 'bad.yaml:11:15: .*sgd' "$rankine" config check bad.yaml
printf 'run: {epochs: 4\n' >bad.yaml
expect 78 'bad.yaml:[0-9]+:[0-9]+: ' "$rankine" config check bad.yaml
printf 'optim: {lr: 0.1}\noptim: {lr: 0.2}\n' >bad.yaml
expect 78 'bad.yaml:2:1: ' "$rankine" config check bad.yaml
expect 66 'missing.yaml' "$rankine" config check missing.yaml
expect 66 'missing.yaml' "$rankine" train missing.yaml

# Overrides: every form, the last one wins, and mistakes are errors here too.
for form in optim.lr=0.5 --optim.lr=0.5 '--optim.lr 0.5' --lr=0.5 '--lr 0.5' 'optim.lr=0.1 --lr 0.5'; do
    # shellcheck disable=SC2086
    expect 0 '"lr": 0.5' "$rankine" config show good.yaml $form
done
expect 0 '"global": 256' "$rankine" config show good.yaml --batch-size 256
expect 0 '"epochs": 3' "$rankine" config show good.yaml --num-epochs=3
expect 78 'optim.lrr.*optim.lr' "$rankine" config check good.yaml optim.lrr=1
expect 78 'optim.lr' "$rankine" config check good.yaml optim.lr=fast
expect 78 'grid.data' "$rankine" config check good.yaml grid.data=3000

# What show prints is a configuration again, with the same effect; the schema is JSON that knows every option.
"$rankine" config show good.yaml >shown.json
"$rankine" config show shown.json run.dir=runs/good >again.json
"$rankine" config show good.yaml run.dir=runs/good >first.json
cmp -s first.json again.json || fail "config show does not survive config show"
"$rankine" config schema >schema.json
if command -v python3 >/dev/null 2>&1; then
    "$rankine" help options | awk '$1 ~ /\./ { print $1 }' >keys
    python3 - <<'END' || fail "the schema misses an option"
import json
schema = json.load(open("schema.json"))
for key in open("keys").read().split():
    node = schema
    for part in key.split("."):
        node = node["properties"][part]
json.load(open("shown.json"))
END
fi

# How tensor shards cut the parameters.
make_csv points.csv 100
expect 0 'linear1.weight .*whole .*grid.tensor is 1' "$rankine" config show good.yaml --layout
expect 78 'grid.tensor 64: no layer can be cut' "$rankine" config show good.yaml --layout grid.tensor=64
expect 0 'linear1.weight .*outputs in 4 of .*by name' "$rankine" config show good.yaml --layout grid.tensor=4 parallel.place.linear1=column
expect 64 'layout belongs to' "$rankine" config check good.yaml --layout
