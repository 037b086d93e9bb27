#!/bin/sh
# rankine average: what comes out is a run for every verb that reads one.
. "$(dirname "$0")/lib.sh"

make_csv points.csv 400
cat >job.yaml <<END
run: {steps: 40}
data: {path: points.csv, split: 0.25}
model: {layers: [{linear: 16}, {batch_norm: {}}, relu, linear]}
batch: {global: 20}
optim: {lr: 0.01}
ckpt: {every: 20}
log: {every: 100}
parallel: {threads: 1}
END
expect 0 '' "$rankine" train job.yaml run.dir=a run.seed=1
expect 0 '' "$rankine" train job.yaml run.dir=b run.seed=2
expect 0 'c: the mean of 2' "$rankine" average a b --out c
expect 0 'good' "$rankine" verify c
expect 0 'accuracy' "$rankine" eval c
expect 0 '' "$rankine" predict c --data points.csv
sed 's/^model:.*/model: {from: c}/' job.yaml >from.yaml
expect 0 '' "$rankine" train from.yaml run.dir=d run.steps=5
expect 0 'e: the mean of [23]' "$rankine" average a/snap/step-* --out e
for run in a b c; do
    expect 0 '' "$rankine" export safetensors $run $run.safetensors
done
# The files again, by a reader of our own: every number of c is the mean of those of a and b, to the last bit of f32.
if command -v python3 >/dev/null; then
    python3 - <<'END' || fail "c is not the mean of a and b"
import array, json, struct
def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    return {k: (v["dtype"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]]) for k, v in head.items()}
a, b, c = (read(x + ".safetensors") for x in "abc")
assert a.keys() == b.keys() == c.keys() and len(c) >= 6
differ = 0
for k in c:
    assert c[k][0] == "F32", k
    x, y, z = (array.array("f", t[k][1]) for t in (a, b, c))
    want = array.array("f", [(p + q) / 2 for p, q in zip(x, y)])
    assert want == z, k
    differ += sum(p != q for p, q in zip(x, y))
assert differ > 100
END
fi
expect 78 'a holds a run already' "$rankine" average a b --out a
expect 64 '--out' "$rankine" average a b
expect 66 'nothing' "$rankine" average a nothing --out f
expect 0 '' "$rankine" train job.yaml run.dir=g 'model.layers=[{linear: 17}, {batch_norm: {}}, relu, linear]' run.steps=2
expect 78 ' in a and .* in g: only runs of one model' "$rankine" average g a --out f
echo "1 passed, 0 failed"
