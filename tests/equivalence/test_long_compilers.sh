#!/bin/bash
# The same bits from gcc and from clang: both build the program and train the same networks for 50 steps.
# $1: the build folder. RANKINE_OTHER names a program built by the other compiler; by default it is built here.
set -euo pipefail
build=$(cd "$1" && pwd)
source_dir=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt")
mine=$build/rankine
other=${RANKINE_OTHER:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "$other" ]; then
    compiler=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
    cc=clang
    if "$compiler" --version | grep -qi clang; then cc=gcc; fi
    if ! command -v $cc > /dev/null; then
        echo "skipped: $cc is not installed (the program was built by $compiler)"
        exit 0
    fi
    cmake -S "$source_dir" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=$cc -DBUILD_TESTING=OFF \
        -DRANKINE_BENCHMARKS=OFF > "$work/cmake.log"
    cmake --build "$work/build" -j "$(nproc)" --target rankine_program > "$work/make.log"
    other=$work/build/rankine
fi

awk 'BEGIN { srand(3); print "a,b,c,d,kind"
             for (i = 0; i < 300; i++) { k = i % 3
                 print rand() + k, rand() * 2 - k, rand(), rand() + (k == 1), "k" k } }' OFS=, > "$work/data.csv"
sed -i 's/ /,/g' "$work/data.csv"
cat > "$work/mlp.yaml" << END
data: {path: $work/data.csv, label_column: kind}
model: {layers: [{linear: 48}, gelu, {layer_norm: {}}, {dropout: 0.1}, {linear: 32}, silu, {rms_norm: {}}, linear]}
optim: {lr: 0.003, weight_decay: 0.1, schedule: cosine, warmup: 5, clip_norm: 0.5, ema: 0.9}
batch: {global: 24}
run: {steps: 50}
END
cat > "$work/cnn.yaml" << END
data: {path: $work/data.csv, label_column: kind}
model: {layers: [{linear: 144}, {reshape: [1, 12, 12]}, {conv2d: {out: 8, pad: 1}}, batch_norm, relu, max_pool,
                 {residual: {main: [{conv2d: {out: 8, pad: 1}}, batch_norm]}}, {conv2d: {out: 12, stride: 2}},
                 relu, adaptive_avg_pool, flatten, linear]}
optim: {kind: sgd, lr: 0.05, nesterov: true, schedule: wsd}
batch: {global: 20}
run: {steps: 50}
END

for model in mlp cnn; do
    for who in mine other; do
        "${!who}" train "$work/$model.yaml" "run.dir=$work/$who-$model" > "$work/$who-$model.log" 2>&1 || {
            cat "$work/$who-$model.log"
            exit 1
        }
        "${!who}" inspect "$work/$who-$model" --hash | grep -o 'sha256 [0-9a-f]*' > "$work/$who-$model.sha"
    done
    [ -s "$work/mine-$model.sha" ]
    if ! cmp -s "$work/mine-$model.sha" "$work/other-$model.sha"; then
        echo "$model: $(cat "$work/mine-$model.sha") from $mine, $(cat "$work/other-$model.sha") from the other compiler"
        exit 1
    fi
    echo "$model: $(cat "$work/mine-$model.sha") from both"
done
