#!/bin/sh
# make demo: trains a small network on real pictures on as many ranks as there are cores (at most 4), tests it, shows that one
# rank trains the same bits, says what to try next. demo.sh BUILD
set -eu
cd "$(dirname "$0")/.."
rankine=$1/rankine
run=runs/fashion_cnn

ranks=$(nproc)
[ "$ranks" -le 4 ] || ranks=4
command -v mpirun >/dev/null || ranks=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # in a container there is nobody else
launch=
[ "$ranks" -eq 1 ] || launch="mpirun -n $ranks --oversubscribe" # where hardware threads are no slots

# 20 steps on N ranks: the SHA-256 of weights and optimiser state.
first_steps() # DIR COMMAND...
{
    out=$1
    shift
    "$@" train examples/fashion_cnn.yaml run.dir="$out" run.steps=20 data.eval_limit=256 log.format=none >"$out.log" 2>&1 || {
        cat "$out.log" >&2
        exit 1
    }
    "$rankine" inspect "$out" --hash
}

echo "Fashion-MNIST: 60,000 pictures of clothes in 10 classes; a network of two convolutions, examples/fashion_cnn.yaml"
$launch "$rankine" train examples/fashion_cnn.yaml
echo
echo "On the 10,000 test pictures, which it has not seen:"
"$rankine" eval $run --confusion

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo
echo "The first 20 steps once more, on one rank and on $ranks: weights and optimiser state are the same bits."
one=$(first_steps "$work/one" "$rankine")
many=$(first_steps "$work/many" $launch "$rankine")
echo "   1 rank    $one"
echo "   $ranks ranks   $many"
[ "$one" = "$many" ] || {
    echo "They differ: that is a mistake in Rankine. Please report it." >&2
    exit 1
}
cat <<END

The run lies in $run: snapshots, metrics.jsonl, the configuration. What to try next:

  $rankine inspect $run
      what it holds
  $rankine predict $run --out predictions.csv
      what it says about each test picture
  $rankine export safetensors $run cnn.safetensors
      its weights for other programs
  mpirun -n 2 $rankine train examples/fashion_cnn.yaml --num-epochs 4
      one more epoch, on another number of ranks if you like
  $rankine train examples/fashion_finetune.yaml
      a new last layer on this network, the rest frozen
  $rankine train examples/table.yaml
      a CSV file; then one of yours (README.md)
  $rankine help options
      everything that a configuration can say
END
