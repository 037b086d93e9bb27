# Small networks of every kind on a small table, as configurations in the current folder: mlp, cnn, resnet, shard, frozen, values.
. "$root/tests/equivalence/table.sh"

# 264 rows to train on: eleven batches of 24 an epoch would be even, 20 leaves a last one of 4, which is less than eight shards.
cat >mlp.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: 40}, gelu, {layer_norm: {}}, {dropout: 0.1}, {linear: 120}, tanh, {linear: 24}, silu, {rms_norm: {}}, linear]}
batch: {global: 20}
loss: {label_smoothing: 0.1}
optim: {lr: 0.01, weight_decay: 0.1, schedule: cosine, warmup: 5, clip_norm: 0.5, ema: 0.9}
run: {steps: 30, seed: 5}
eval: {every: 10, batch: 37}
log: {every: 1}
END
cat >cnn.yaml <<END
data: {path: kinds.csv, split: 0.2, noise: 0.01}
model: {layers: [{linear: 72}, {reshape: [2, 6, 6]}, {conv2d: {out: 6, pad: 1}}, relu, max_pool, {conv2d: {out: 8, pad: 1}},
                 relu, flatten, {linear: 16}, relu, linear]}
batch: {global: 23}
optim: {kind: sgd, lr: 0.05, nesterov: true, schedule: wsd}
run: {steps: 24}
eval: {every: 12}
log: {every: 1}
END
cat >resnet.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: 64}, {reshape: [1, 8, 8]}, {conv2d: {out: 6, pad: 1, bias: false}}, batch_norm, relu,
                 {residual: {main: [{conv2d: {out: 6, pad: 1}}, batch_norm, relu, {conv2d: {out: 6, pad: 1}}, batch_norm]}},
                 {residual: {main: [{conv2d: {out: 8, stride: 2, pad: 1}}, {batch_norm: {scope: shard}}],
                             shortcut: [{conv2d: {out: 8, kernel: 1, stride: 2}}, batch_norm]}},
                 relu, adaptive_avg_pool, flatten, linear]}
batch: {global: 26}
optim: {kind: adam, lr: 0.01, clip_norm: 1}
run: {steps: 24}
eval: {every: 12}
log: {every: 1}
END
sed -e 's/, batch_norm,/, {batch_norm: {scope: shard}},/g; s/, batch_norm\]/, {batch_norm: {scope: shard}}]/g' resnet.yaml >shard.yaml
cat >frozen.yaml <<END
data: {path: kinds.csv, split: 0.2}
model: {layers: [{linear: {out: 40, name: a}}, gelu, {linear: {out: 60, name: b}}, tanh, {linear: {out: 24, name: c}}, linear]}
freeze: ["b.*", "c.weight"]
batch: {global: 20}
optim: {lr: 0.01, ema: 0.9}
run: {steps: 30}
eval: {every: 10}
log: {every: 1}
END
cat >values.yaml <<END
data: {path: values.csv, split: 0.25, task: regression}
model: {layers: [{linear: 24}, tanh, linear]}
batch: {global: 19}
optim: {lr: 0.02}
run: {steps: 200}
eval: {every: 7, patience: 3, batch: 21, metrics: "loss,mae,rmse"}
log: {every: 1}
END
