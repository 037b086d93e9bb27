#!/bin/sh
# Out of memory on a device: the message says what the run needs and what would fit, and both are true.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
. "$root/tests/cuda/device.sh"
. "$root/tests/equivalence/networks.sh"
export RANKINE_CUDA="$module" RANKINE_NCCL=0

# Many samples and few weights: a step is nearly all that there is.
cat >wide.yaml <<END
data: {path: kinds.csv}
model: {layers: [{linear: 48}, gelu, {linear: 48}, tanh, {linear: 48}, gelu, {linear: 48}, silu, {linear: 48}, gelu, linear]}
batch: {global: 320}
run: {steps: 3, seed: 5}
END
# Many weights and few samples.
cat >deep.yaml <<END
data: {path: kinds.csv}
model: {layers: [{linear: 300}, relu, {linear: 300}, relu, {linear: 300}, relu, {linear: 300}, relu, {linear: 300}, relu, linear]}
batch: {global: 8}
run: {steps: 3, seed: 5}
END

bytes() # "9.41 MiB" in bytes
{
    echo "$1" | awk '{ u["KiB"] = 1024; u["MiB"] = 1024^2; u["GiB"] = 1024^3; printf "%d", $1 * u[$2] }'
}

trained() # CONFIG RUN RANKS MEMORY OPTION...
(
    config=$1 run=$2 n=$3
    export RK_EMU_MEMORY="$4"
    shift 4
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" device=cuda parallel.threads=1 "$@" >out 2>err
)

says() # PATTERN: what stands at \1 in the message
{
    grep -h 'out of memory' err | sed -n "s/.*$1.*/\1/p" | head -n 1
}

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
# Weights are kept in 16 bits, too, and the bits of ReLU.
needs_are_told deep half parallel.exact=false compute=bf16
needs_are_told wide roomy

# With the batch.micro that it names it fits into the memory there is, and comes to the same weights.
micro=$(says 'batch.micro \([0-9]*\) would need')
[ -n "$micro" ] || fail "wide: no batch.micro is named: $(cat err)"
trained wide cut 1 $((most * 7 / 10)) "batch.micro=$micro" || fail "wide: batch.micro $micro does not fit: $(cat err)"
[ "$(hash_of cut)" = "$(hash_of roomy)" ] || fail "wide: batch.micro $micro trains other weights"

# Weights that fit nowhere whole: shared by ranks.
RK_EMU_STATS=$PWD/stats2; export RK_EMU_STATS
trained deep whole 1 1000000000 || fail "deep: does not train where memory is"
most=$(sed -n 's/^bytes_peak *\([0-9]*\) .*/\1/p' stats2)
unset RK_EMU_STATS
trained deep small 1 $((most * 6 / 10)) && fail "deep: 0.6 of $most bytes was enough"
says '\(parallel.zero 3 on [0-9]* ranks would fit\)' | grep -q . || fail "deep: ranks are not named: $(cat err)"
echo "out of memory: needs told within 15%, and what is named fits"
