#!/bin/sh
# eval and predict: numbers that agree with each other, CSV and JSONL that others read, data with and without labels.
. "$(dirname "$0")/lib.sh"

make_csv points.csv 400
make_config run.yaml
"$rankine" train run.yaml >log || fail "train: $(tail -1 log)"

expect 0 '^step=40 samples=80 loss=[0-9.]+ accuracy=0\.[0-9]+' "$rankine" eval runs/run
accuracy=$(sed 's/.*accuracy=\([0-9.]*\).*/\1/' out)
expect 0 'confused most with' "$rankine" eval runs/run --confusion
"$rankine" eval runs/run --json >eval.json

# On the same rows, predictions and evaluation agree; columns may stand in another order, and the label may be missing.
"$rankine" eval runs/run --data points.csv --json >all.json
"$rankine" predict runs/run --data points.csv --out all.csv
"$rankine" predict runs/run --data points.csv --out all.jsonl
"$rankine" predict runs/run --data points.csv --batch 7 --threads 2 >other.csv
cmp -s all.csv other.csv || fail "predictions depend on the batch or the threads"
awk -F, '{ print $2 "," $3 "," $1 }' points.csv >turned.csv
"$rankine" predict runs/run --data turned.csv >turned.out
cmp -s all.csv turned.out || fail "predictions depend on the order of the columns or need the label"
[ "$("$rankine" predict runs/run --data points.csv --limit 5 | wc -l)" -eq 6 ] || fail "--limit 5 prints another number"
python3 - "$accuracy" <<'END' || fail "eval and predict disagree"
import csv, json, sys
held_out, everything = json.load(open("eval.json")), json.load(open("all.json"))
assert abs(held_out["accuracy"] - float(sys.argv[1])) < 1e-5, held_out
assert held_out["samples"] == 80 and everything["samples"] == 400
assert sum(map(sum, held_out["confusion"])) == 80
truth = [r["class"] for r in csv.DictReader(open("points.csv"))]
rows = list(csv.DictReader(open("all.csv")))
lines = [json.loads(line) for line in open("all.jsonl")]
assert len(rows) == len(lines) == len(truth) == 400
for i, (row, line) in enumerate(zip(rows, lines)):
    assert int(row["sample"]) == line["sample"] == i and row["name"] == line["name"]
    p = [float(row["p0"]), float(row["p1"])]
    assert abs(sum(p) - 1) < 1e-5 and p.index(max(p)) == int(row["class"]) == line["class"], row
right = sum(row["name"] == t for row, t in zip(rows, truth))
assert abs(right / 400 - everything["accuracy"]) < 1e-6, (right / 400, everything)
assert everything["accuracy"] > 0.75, everything
END

expect 66 'gone.csv' "$rankine" predict runs/run --data gone.csv
expect 65 'narrow.csv' sh -c "cut -d, -f1,2 points.csv >narrow.csv; exec '$rankine' predict runs/run --data narrow.csv"
expect 74 '/nowhere/x.csv' "$rankine" predict runs/run --out /nowhere/x.csv
if [ -w /dev/full ]; then
    expect 74 '' "$rankine" predict runs/run --data points.csv --out /dev/full
fi
