#!/bin/sh
# Out of memory on a device: the message says what the run needs and what would fit, and both are true.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
. "$root/tests/equivalence/networks.sh"
. "$root/tests/cuda/memory.sh"

# Many samples and few weights: a step is nearly all that there is.
cat >wide.yaml <<END
data: {path: kinds.csv}
model: {layers: [{linear: 48}, gelu, {linear: 48}, tanh, {linear: 48}, gelu, {linear: 48}, silu, {linear: 48}, gelu, linear]}
batch: {global: 320}
run: {steps: 3, seed: 5}
END
# What it says that the run needs is what it takes where there is enough: $most.
needs_are_told() # CONFIG RUN OPTION...
{
    config=$1 run=$2
    shift 2
    rm -f stats
    RK_EMU_STATS=$PWD/stats; export RK_EMU_STATS
    trained "$config" "$run" 1 1000000000 "$@" || fail "$config $*: does not train where memory is"
    most=$(sed -n 's/^bytes_peak *\([0-9]*\) .*/\1/p' stats)
    unset RK_EMU_STATS
    trained "$config" tight-$run 1 $((most * 7 / 10)) "$@" && fail "$config $*: 0.7 of $most bytes was enough"
    need=$(bytes "$(says 'needs about \([0-9.]* [KMG]iB\) a rank')")
    [ "$need" -gt $((most * 85 / 100)) ] && [ "$need" -lt $((most * 115 / 100)) ] ||
        fail "$config $*: it took $most bytes, and the message says $need: $(cat err)"
}
stack deep.yaml 256 16
# Weights are kept in 16 bits, too, and the bits of ReLU.
needs_are_told deep half parallel.exact=false compute=bf16
needs_are_told wide roomy

# With the batch.micro that it names it fits into the memory there is, and comes to the same weights.
micro=$(says 'batch.micro \([0-9]*\) would need')
[ -n "$micro" ] || fail "wide: no batch.micro is named: $(cat err)"
trained wide cut 1 $((most * 7 / 10)) "batch.micro=$micro" || fail "wide: batch.micro $micro does not fit: $(cat err)"
[ "$(hash_of cut)" = "$(hash_of roomy)" ] || fail "wide: batch.micro $micro trains other weights"

# Weights that fit nowhere whole: shared by as many ranks as are named.
trained deep small 1 10000000 && fail "deep: 10 MB was enough"
n=$(says 'parallel.zero 3 on \([0-9]*\) ranks would fit')
[ -n "$n" ] || fail "deep: ranks are not named: $(cat err)"
trained deep shared "$n" 10000000 parallel.zero=3 || fail "deep: $n ranks do not fit: $(cat err)"

# Where evaluation is what does not fit, or the batch of a step with statistics of data shards is, what is named is that, and it does.
cat >passes.yaml <<END
data: {path: kinds.csv, split: 0.5}
model: {layers: [{linear: 8}, {linear: 512}, gelu, {linear: 8}, linear]}
batch: {global: 8}
eval: {batch: 160}
run: {steps: 2, seed: 5}
END
cat >shards.yaml <<END
data: {path: kinds.csv}
model: {layers: [{linear: 512}, {batch_norm: {scope: shard}}, relu, {linear: 8}, linear]}
batch: {global: 160}
run: {steps: 2, seed: 5}
END
helps() # CONFIG OPTION OTHER: in 0.7 of what it takes
{
    rm -f stats
    RK_EMU_STATS=$PWD/stats; export RK_EMU_STATS
    trained "$1" whole 1 1000000000 || fail "$1: does not train where memory is"
    unset RK_EMU_STATS
    room=$(($(sed -n 's/^bytes_peak *\([0-9]*\) .*/\1/p' stats) * 7 / 10))
    trained "$1" part 1 "$room" && fail "$1: $room bytes were enough"
    n=$(says "; $2 \\([0-9]*\\) would need")
    [ -n "$n" ] || fail "$1: $2 is not named: $(cat err)"
    [ -z "$(says "\\($3\\)")" ] || fail "$1: $3 is named, too: $(cat err)"
    trained "$1" part 1 "$room" "$2=$n" || fail "$1: $2 $n does not fit: $(cat err)"
    [ "$(hash_of part)" = "$(hash_of whole)" ] || fail "$1: $2 $n trains other weights"
}
helps shards batch.micro 'eval.batch\|would fit'
helps passes eval.batch 'batch.micro\|would fit'
# A pass over a trained network has its own option.
room=$((room / 2))
for verb in eval predict; do
    data=; [ "$verb" = eval ] || data=--data\ kinds.csv
    # shellcheck disable=SC2086
    RK_EMU_MEMORY=$room "$rankine" $verb whole $data --device cuda --batch 160 >out 2>err && fail "$verb: $room bytes were enough"
    n=$(says '; --batch \([0-9]*\) would need')
    [ -n "$n" ] || fail "$verb: --batch is not named: $(cat err)"
    # shellcheck disable=SC2086
    RK_EMU_MEMORY=$room "$rankine" $verb whole $data --device cuda --batch "$n" >out 2>err || fail "$verb: --batch $n does not fit: $(cat err)"
done

# Right within 5%, alone and where ranks share; test_long_memory.sh has more.
stack stack.yaml 512 8
holds stack 1
holds stack 4 parallel.zero=3
# Ranks that hold cut parameters side by side, and workers, each with a network of its own.
stack smaller.yaml 384 6
holds smaller 2 grid.tensor=2 parallel.tensor=2
holds smaller 1 parallel.strategy=average average.workers=2
echo "out of memory: needs told within 5% of many weights and 15% of few, and what is named fits"
