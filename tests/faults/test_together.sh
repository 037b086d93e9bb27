#!/bin/sh
# Snapshots of several ranks: test_together.sh BUILD. The C suite on eight ranks (jobs of 1, 2, 3, 4 and 8 of them), then jobs of four
# of which one rank is killed at a call of a save, and the program itself with a full disk on one rank.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
suite=$build/tests/ckpt_test_together

limit=250 ranks 8 "$suite" >out 2>err || fail "the suite on 8 ranks"
[ "$(grep -c ' passed, 0 failed' out)" -eq 8 ] || fail "the suite on 8 ranks"

killed=0 first=0
points="0 1
1 2
2 3
3 5
0 8"
[ -z "${RK_TEST_ALL-}" ] || for call in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do
    points="$points
$((call % 4)) $((call % 6 + 1))
0 $call"
done
jobs=0
while read -r point; do
    jobs=$((jobs + 1))
    rm -rf run
    status=0
    RK_RUN=$PWD/run RK_KILL=$point ranks 4 "$suite" kill >out 2>err || status=$?
    [ $status -ne 2 ] && [ $status -ne 124 ] || fail "kill $point: exit $status"
    [ $status -eq 0 ] || killed=$((killed + 1))
    RK_RUN=$PWD/run ranks $((1 + killed % 3)) "$suite" look >out 2>err || fail "after kill $point"
    grep -q 'found step 1' out && first=$((first + 1))
done <<END
$points
END
[ $((killed * 10)) -ge $((jobs * 8)) ] || fail "only $killed of $jobs jobs were killed"
[ $((first * 10)) -ge $((jobs * 6)) ] || fail "only $first of $jobs jobs were killed before the snapshot had its name"

make_csv points.csv 400
cat >job.yaml <<END
run: {dir: run, steps: 40}
data: {path: points.csv}
model: {layers: [{linear: 160}, relu, {linear: 160}, relu, linear]}
batch: {global: 16}
ckpt: {every: 5, max_failures: 2}
log: {every: 100}
parallel: {threads: 1}
END
rm -rf run
expect_ranks 4 0 'saved: step 20' "$rankine" train job.yaml run.steps=20
want=$("$rankine" inspect run --hash --step 20)
# Rank 2 finds the disk full at every snapshot from the next one on.
full='[ "$OMPI_COMM_WORLD_RANK" != 2 ] || export LD_PRELOAD="$0" RK_FAULT_DIR="$PWD/run/snap" RK_FAULT_AT=1 RK_FAULT_KIND=8; exec "$@"'
expect_ranks 4 74 'rank 2: .*No space left on device' sh -c "$full" "$build/tests/preload_faults.so" "$rankine" train job.yaml
grep -q 'training goes on: rank 2: .*the last good one is of step 20' out || fail "no warning that names the rank"
[ "$("$rankine" inspect run --hash)" = "$want" ] || fail "the last good snapshot is another one"
expect 0 '' "$rankine" verify run
expect_ranks 3 0 'resumed from step 20' "$rankine" train job.yaml
expect 0 '' "$rankine" train job.yaml run.dir=alone
[ "$("$rankine" inspect run --hash)" = "$("$rankine" inspect alone --hash)" ] || fail "another hash than one rank's"
# Ranks share the checking, and the first one speaks.
expect_ranks 3 0 'good' "$rankine" verify run
[ "$(wc -l <out)" -eq "$(ls run/snap | wc -l)" ] || fail "not one line for each snapshot"
# Files of three ranks and of one: the mean of two equal runs is that run.
expect 0 '' "$rankine" average run alone --out mean
for x in alone mean; do
    expect 0 '' "$rankine" export safetensors $x $x.safetensors
done
cmp -s alone.safetensors mean.safetensors || fail "the mean of two equal runs is another one"
newest=$(ls -d run/snap/step-* | tail -1)
printf 'X' | dd of="$newest/r0001.h5" bs=1 seek=3000 conv=notrunc 2>/dev/null
expect_ranks 3 65 "bad   ${newest##*/}/r0001.h5: chunk 0" "$rankine" verify run

if [ -n "${RK_TEST_ALL-}" ]; then
    RK_TEST_MB=2048 TMPDIR="${TMPDIR:-/tmp}" limit=600 ranks 4 "$suite" memory_is_bounded_by_the_share >out 2>err || fail "a state of 2 GiB"
    grep MiB out
fi
echo "8 ranks, $killed kills, a full disk on one rank"
