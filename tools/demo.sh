#!/bin/sh
# make demo: trains a small network on real pictures, tests it, says what to try next. demo.sh BUILD
set -eu
cd "$(dirname "$0")/.."
rankine=$1/rankine
run=runs/fashion_cnn

echo "Fashion-MNIST: 60,000 pictures of clothes in 10 classes; a network of two convolutions, examples/fashion_cnn.yaml"
"$rankine" train examples/fashion_cnn.yaml
echo
echo "On the 10,000 test pictures, which it has not seen:"
"$rankine" eval $run --confusion
cat <<END

The run lies in $run: snapshots, metrics.jsonl, the configuration. What to try next:

  $rankine inspect $run
      what it holds
  $rankine predict $run --out predictions.csv
      what it says about each test picture
  $rankine export safetensors $run cnn.safetensors
      its weights for other programs
  $rankine train examples/fashion_finetune.yaml
      a new last layer on this network, the rest frozen
  $rankine train examples/table.yaml
      a CSV file; then one of yours (README.md)
  $rankine help options
      everything that a configuration can say
END
