#!/bin/sh
# Steps as graphs: the same weights with device.graph on and off, on one rank and on two, under every order of the stand-ins' threads and
# streams; and what is held back and staged, in the build that checks every access too.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
module=${RANKINE_CUDA:-$build/librankine_cuda_host.so}
. "$root/tests/cuda/device.sh"
. "$root/tests/equivalence/networks.sh"

train() # RUN CONFIG RANKS OPTION...
(
    run=$1
    config=$2
    n=$3
    shift 3
    export RANKINE_CUDA="$module" RK_EMU_STATS="$dir/$run.stats"
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" device=cuda parallel.threads=1 run.steps=10 "$@" >out 2>err ||
        fail "$config on $n ranks, $*"
)

# With graphs there are some, without there are none, and the weights are the same.
same() # CONFIG RANKS OPTION...
{
    config=$1
    n=$2
    shift 2
    rm -rf on off on.stats off.stats
    train off "$config" "$n" device.graph=off "$@"
    train on "$config" "$n" device.graph=on "$@"
    if stand_ins; then
        [ "$(count graph_launches on.stats)" -gt 0 ] || fail "$config on $n ranks: no graph was launched"
        [ "$(count graph_launches off.stats)" -eq 0 ] || fail "$config on $n ranks: a graph was launched with device.graph off"
        [ "$(count launches on.stats)" -eq "$(count launches off.stats)" ] || fail "$config on $n ranks: graphs do other work"
    fi
    [ "$(hash_of on)" = "$(hash_of off)" ] || fail "$config on $n ranks: other weights with graphs"
}

same mlp 1
mv on usual
same mlp 2
same cnn 1
same resnet 2
same mlp 2 batch.micro=3
same mlp 1 parallel.exact=false
# The exchange is in the graphs, whatever sets out when: ranks with GPUs of their own.
devices=${RK_EMU_DEVICES-}
export RK_EMU_DEVICES="${devices:-4}"
for zero in 0 1 3; do
    same mlp 2 parallel.zero=$zero parallel.bucket=64
done
same cnn 3 batch.micro=3
if ! stand_ins; then # NCCL itself promises no order of sums, and who else but they could change that of threads
    echo "graphs on and off: the same weights"
    exit 0
fi
same mlp 3 parallel.exact=false
for streams in eager 5; do
    RK_EMU_STREAMS=$streams
    export RK_EMU_STREAMS
    same mlp 2 parallel.zero=2
    unset RK_EMU_STREAMS
done
unset RK_EMU_DEVICES
# A graph that takes no new values is made anew.
RK_EMU_GRAPH=rigid
export RK_EMU_GRAPH
same mlp 1 parallel.exact=false
unset RK_EMU_GRAPH
for order in "rev eager" "7 5"; do
    RK_EMU_SCHED=${order% *} RK_EMU_STREAMS=${order#* }
    export RK_EMU_SCHED RK_EMU_STREAMS
    rm -rf other other.stats
    train other mlp 1
    RANKINE_CUDA=$module "$build/tests/cuda_test_queue" >out 2>&1 || fail "what is held back, threads and streams $order"
    unset RK_EMU_SCHED RK_EMU_STREAMS
    [ "$(hash_of other)" = "$(hash_of usual)" ] || fail "threads and streams $order: other weights"
done
if [ -e "$build/librankine_cuda_check.so" ]; then
    RANKINE_CUDA=$build/librankine_cuda_check.so "$build/tests/cuda_test_queue" >out 2>&1 || fail "what is held back, checked"
fi
echo "graphs on and off: the same weights"
