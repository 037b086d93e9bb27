#!/bin/bash
# Every fuzz target for RK_FUZZ_SECONDS (60) with libFuzzer, ASan and UBSan, from its committed seeds.
# usage: test_long_fuzz.sh BUILD_FOLDER [TARGET..]
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$1/fuzz
shift
seconds=${RK_FUZZ_SECONDS:-60}
skip() { echo "skipped: $1"; exit 77; }

command -v clang > /dev/null || skip "clang is not installed"
probe=$(mktemp -d) || exit 1
trap 'rm -rf "$probe"' EXIT
echo 'int LLVMFuzzerTestOneInput(const unsigned char *p, unsigned long n) { (void)p; return n > 99; }' > "$probe/p.c"
clang -fsanitize=fuzzer,address "$probe/p.c" -o "$probe/p" 2> /dev/null || skip "clang has no libFuzzer runtime (libclang-rt-dev)"

CC=clang cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRANKINE_FUZZ=ON \
    -DRANKINE_BENCHMARKS=OFF > "$probe/log" 2>&1 || { cat "$probe/log"; exit 1; }
cmake --build "$build" --target fuzz_targets > "$probe/log" 2>&1 || { tail -50 "$probe/log"; exit 1; }

failed=0
for source in "$root"/tests/fuzz/fuzz_*.c; do
    name=$(basename "$source" .c)
    [ "$name" = fuzz_driver ] && continue
    [ $# -gt 0 ] && [[ " $* " != *" ${name#fuzz_} "* ]] && continue
    mkdir -p "$build/corpus/$name" "$build/found"
    "$build/tests/fuzz/$name" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$build/found/$name-" "$build/corpus/$name" "$root/tests/fuzz/seeds/${name#fuzz_}" \
        > "$probe/out" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$probe/out")
    if [ $status -ne 0 ] || [ "${runs:-0}" -lt 1000 ]; then
        tail -40 "$probe/out"
        echo "$name: FAILED (status $status, ${runs:-0} runs); the input is in $build/found"
        failed=1
    else
        echo "$name: $runs runs, nothing found"
    fi
done
exit $failed
