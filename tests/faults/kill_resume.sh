# kill_resume KILLS: trains the same run again and again, kills it at a random moment or inside a random call of a save,
# starts it again with the same command, and compares the SHA-256 of every finished run with that of an undisturbed one.
# Needs lib.sh before it and the build folder in $build.
[ -d /dev/shm ] && TMPDIR=/dev/shm
dir2=$(mktemp -d)
trap 'rm -rf "$dir" "$dir2"' EXIT
cd "$dir2"
inject=$build/tests/preload_faults.so

make_job()
{
    make_csv points.csv 3000
    cat >job.yaml <<END
run: {steps: 500, seed: 3}
data: {path: points.csv, split: 0.1}
model:
  layers:
    - linear: {out: 160}
    - relu
    - dropout: 0.1
    - linear: {out: 160}
    - gelu
    - linear: {out: 2}
batch: {global: 48}
optim: {kind: adamw, lr: 0.003, schedule: cosine, warmup: 20, clip_norm: 1, ema: 0.99}
ckpt: {every: 9}
eval: {every: 100}
log: {every: 100, format: none}
parallel: {threads: 1}
END
}

now()
{
    date +%s.%N
}

finished() # after exit 0
{
    hash=$(hash_of run)
    [ "$hash" = "$want" ] || fail "after kill $kills: $hash instead of $want"
    "$rankine" verify run >out 2>err || fail "a snapshot of a finished run is bad"
    done_runs=$((done_runs + 1))
    rm -rf run
}

note_kill()
{
    kills=$((kills + 1))
    if ls -d run/snap/.tmp-* >left 2>/dev/null && [ -s left ]; then
        inside=$((inside + 1))
    fi
}

# At a random moment of the time that a whole run takes.
run_until_moment()
{
    delay=$(awk -v r=$RANDOM -v t="$took" 'BEGIN { printf("%.3f", 0.01 + 1.1 * t * r / 32768) }')
    status=0
    { timeout -s KILL "$delay" "$rankine" train job.yaml run.dir=run >out 2>err </dev/null || status=$?; } 2>/dev/null
}

# Before, after or in the middle of a random state-changing call under the run folder.
run_until_call()
{
    kind=$((5 + RANDOM % 3))
    status=0
    {
        RK_FAULT_DIR=$dir2/run RK_FAULT_AT=$((1 + RANDOM % 600)) RK_FAULT_KIND=$kind LD_PRELOAD=$inject \
            ASAN_OPTIONS=$ASAN_OPTIONS:verify_asan_link_order=0 \
            "$rankine" train job.yaml run.dir=run >out 2>err </dev/null || status=$?
    } 2>/dev/null # the shell's own "Killed"
}

kill_resume()
{
    RANDOM=20
    kills=0 inside=0 done_runs=0
    make_job
    start=$(now)
    expect 0 "" "$rankine" train job.yaml run.dir=straight
    took=$(awk -v a="$start" -v b="$(now)" 'BEGIN { print b - a }')
    want=$(hash_of straight)
    while [ $kills -lt "$1" ]; do
        if [ $((RANDOM % 2)) -eq 0 ]; then run_until_call; else run_until_moment; fi
        case $status in
        0) finished ;;
        137) note_kill ;;
        *) fail "exit $status after $kills kills" ;;
        esac
    done
    expect 0 "" "$rankine" train job.yaml run.dir=run
    finished
    [ $inside -gt 0 ] || fail "no kill fell into a save"
    echo "$kills kills, $inside of them with a save half written; $done_runs finished runs, each with the same SHA-256"
    echo "1 passed, 0 failed"
}
