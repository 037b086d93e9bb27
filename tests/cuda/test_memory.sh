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

# Right within 5%, alone and where ranks share; test_long_memory.sh has more.
stack stack.yaml 512 8
holds stack 1
holds stack 4 parallel.zero=3
echo "out of memory: needs told within 5% of many weights and 15% of few, and what is named fits"
