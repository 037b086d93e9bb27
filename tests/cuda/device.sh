# For the scripts that train on the CUDA device, run on the host: `. device.sh` after lib.sh, and after mpi.sh for train(). A script may
# name another library in $module before.
module=${module-$build/librankine_cuda_host.so}
if [ ! -e "$module" ]; then
    echo "skipped: built without librankine_cuda_host.so (CUDA's headers were not found)"
    exit 77
fi

# How many GPUs the library has, as doctor tells: those of the machine, or RK_EMU_DEVICES.
gpus_there()
{
    RANKINE_CUDA="$module" "$rankine" doctor --device cpu | sed -n 's/^[a-z]* *cuda .*[ ,]\([0-9][0-9]*\) GPUs\{0,1\};.*/\1/p'
}

nccl_there()
{
    RANKINE_CUDA="$module" "$rankine" doctor --device cpu | grep -q '^[a-z]* *cuda .* GPUs\{0,1\}; NCCL [0-9]'
}

# Is there somebody who counts, and obeys RK_EMU_*? Not where tools/gpu-check.sh asks.
stand_ins()
{
    [ -z "${RK_TEST_GPU-}" ]
}

train() # DEVICE RUN CONFIG RANKS OPTION...: cpu or cuda
(
    device=$1
    run=$2
    config=$3
    n=$4
    shift 4
    export RANKINE_CUDA="$module"
    ranks "$n" "$rankine" train "$config.yaml" "run.dir=$run" "device=$device" parallel.threads=1 "$@" >out 2>err ||
        fail "$config on $n ranks, $device $*"
    if [ "$device" = cuda ]; then
        grep -q ' rankine [0-9.]*: cuda ' out || fail "$config was not trained on the CUDA device"
    fi
)

# What the stand-ins have counted under a name, in all processes that wrote the file (RK_EMU_STATS); nothing if none has the name.
count() # NAME FILE
{
    awk -v name="$1" '$1 == name { n += $2; there = 1 } END { if (there) printf("%d\n", n) }' "$2"
}
