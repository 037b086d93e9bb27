# For the scripts here and in tests/e2e: `. lib.sh` with the build folder in $1. Works in a folder of its own.
set -eu
build=$(cd "$1" && pwd)
rankine=$build/rankine
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
cd "$dir"
unset RANKINE_ISA
# Leaks are looked for in programs that end by themselves; the shell's own children are none of them.
export ASAN_OPTIONS="${ASAN_OPTIONS-}:abort_on_error=0"

fail()
{
    echo "FAILED: $*" >&2
    for log in out err; do
        [ -s $log ] && sed "s/^/  $log: /" $log >&2
    done
    exit 1
}

# expect CODE PATTERN COMMAND...: the exit code, and (a failure) one line on stderr, "rankine: ...", that fits the pattern.
expect()
{
    code=$1
    pattern=$2
    shift 2
    status=0
    "$@" >out 2>err </dev/null || status=$?
    [ $status -eq "$code" ] || fail "exit $status instead of $code: $*"
    if [ "$code" -ne 0 ]; then
        [ "$(wc -l <err)" -eq 1 ] || fail "not one line on stderr: $*"
        grep -q '^rankine: ' err || fail "stderr does not begin with rankine: $*"
    fi
    cat out err >both
    [ -z "$pattern" ] || grep -Eq -- "$pattern" both || fail "no \"$pattern\" in the output of: $*"
}

# Two noisy classes that a small network tells apart; the same rows always.
make_csv() # FILE ROWS
{
    awk -v rows="$2" 'BEGIN {
        s = 12345
        print "a,b,c,class"
        for (i = 0; i < rows; i++) {
            for (j = 0; j < 3; j++) {
                s = (s * 1103515245 + 12345) % 2147483648
                x[j] = s / 1073741824 - 1
            }
            up = x[0] * x[1] + 0.3 * x[2] > 0
            printf("%.6f,%.6f,%.6f,%s\n", x[0], x[1], x[2], up ? "up" : "down")
        }
    }' >"$1"
}

make_config() # FILE: trains on points.csv
{
    cat >"$1" <<END
run: {epochs: 4, seed: 7}
data:
  path: points.csv
  split: 0.2
model:
  layers:
    - linear: {out: 32}
    - relu
    - linear: {out: 2}
batch: {global: 32}
optim: {kind: adamw, lr: 0.01}
log: {every: 10}
parallel: {threads: 1}
END
}

hash_of() # RUN
{
    "$rankine" inspect "$1" --hash
}
