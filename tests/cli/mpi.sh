# For the scripts that start several ranks: `. mpi.sh` after lib.sh. On machines with fewer cores than ranks, as root too.
if ! command -v mpirun >/dev/null; then
    echo "skipped: mpirun is not installed (Debian package openmpi-bin)"
    exit 77
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# What an MPI library keeps to its end is not our leak.
export ASAN_OPTIONS="${ASAN_OPTIONS-}:detect_leaks=0"
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none

# ranks N COMMAND...: on N ranks; one rank needs no launcher. A job that hangs is ended.
ranks()
{
    n=$1
    shift
    if [ "$n" -eq 1 ]; then
        "$@" </dev/null
    else
        timeout "${limit:-120}" mpirun -n "$n" "$@" </dev/null
    fi
}

# expect_ranks N CODE PATTERN COMMAND...: as expect, and the program speaks once: one line "rankine: ..." whatever mpirun adds.
expect_ranks()
{
    n=$1
    code=$2
    pattern=$3
    shift 3
    status=0
    ranks "$n" "$@" >out 2>err || status=$?
    [ $status -eq "$code" ] || fail "exit $status instead of $code: $n ranks of $*"
    cat out err >both
    [ -z "$pattern" ] || grep -Eq -- "$pattern" both || fail "no \"$pattern\" in the output of $n ranks of $*"
    [ "$code" -eq 0 ] || [ "$(grep -c '^rankine: ' err)" -eq 1 ] ||
        fail "$(grep -c '^rankine: ' err) lines from rankine instead of one: $n ranks of $*"
}

# What a run says of its training, to the digit: every loss, norm and metric, without times and speeds.
digits_of() # RUN
{
    grep -oE '"(step|epoch|loss|lr|grad_norm|val_[a-z0-9]+)":[^,}]*' "$1/metrics.jsonl"
}

# same_training STRAIGHT RUN WHAT: the same weights, optimiser state and logged numbers.
same_training()
{
    [ "$(hash_of "$2")" = "$(hash_of "$1")" ] || fail "other weights: $3"
    digits_of "$1" >want
    digits_of "$2" >have
    cmp -s want have || fail "other numbers: $3: $(diff want have | head -4)"
}

# The processes of a job's ranks on this machine, in the order in which they were started.
pids_of() # PID-OF-MPIRUN
{
    for entry in /proc/[0-9]*; do
        grep -qs "^PPid:[[:space:]]*$1\$" "$entry/status" && echo "${entry#/proc/}"
    done | sort -n
}
