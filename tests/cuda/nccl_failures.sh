# What a failure of NCCL on one rank of a short training does, for test_nccl_failures.sh (some) and test_long_nccl_failures.sh (all):
# `. nccl_failures.sh` after lib.sh and mpi.sh. The stand-in for NCCL makes it fail, and counts device memory.
module=$build/librankine_cuda_host.so
if [ ! -e "$module" ] || ! grep -q ncclCommInitRankConfig "$module"; then
    echo "skipped: the CUDA device for the host, or nccl.h, was not there"
    exit 77
fi
export RANKINE_CUDA="$module" RK_EMU_DEVICES=2 TMPDIR="$dir"
limit=60
make_csv points.csv 100
make_config mlp.yaml

# fails_at SETTING: rank 1 of 2 has the setting. 0: all went as it should; 1: nothing was made to fail, for there are not so many calls.
fails_at()
{
    rm -rf run
    status=0
    begun=$(date +%s)
    SETTING=$1 ranks 2 sh -c '[ $OMPI_COMM_WORLD_RANK -ne 1 ] || export "$SETTING"; exec "$@"' sh \
        "$rankine" train mlp.yaml run.dir=run run.steps="${steps-2}" device=cuda parallel.zero="${zero-1}" >out 2>err || status=$?
    took=$(($(date +%s) - begun))
    [ $status -ne 124 ] || fail "$1: a hang"
    [ $took -le 30 ] || fail "$1: $took s"
    ! grep -q 'rk_emu: [a-z]*: ' err || fail "$1: a report of the stand-ins"
    made=$(grep -oE 'rk_emu: (call|operation) .*' err | head -1)
    if [ -z "$made" ]; then
        [ $status -eq 0 ] || fail "$1: exit $status, and nothing was made to fail"
        return 1
    fi
    case $made in
    *ncclCommFinalize* | *ncclCommDestroy* | *ncclCommAbort*) # the training is over
        [ $status -eq 0 ] || fail "$1: exit $status: $made" ;;
    *)
        [ $status -eq 70 ] || fail "$1: exit $status instead of 70: $made"
        grep -Eq '^rankine: .*NCCL (gives up on|cannot start on) rank [01].*(internal error|remote process|NCCL_DEBUG)' err ||
            fail "$1: not in NCCL's words: $made"
        [ "$(grep -c '^rankine: ' err)" -eq 1 ] || fail "$1: more than one line of rankine's" ;;
    esac
}
