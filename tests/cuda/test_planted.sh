#!/bin/sh
# Every planted bug of planted.cu is found by the builds that should find it, by a report that names its file and line; where the
# table says "result", the build has no report, but the result gives the bug away. Without a bug all builds are silent.
set -u
build=$1
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bad=0
found=
results=
skipped=
if ! ls "$build"/tests/planted_* >/dev/null 2>&1; then
    echo "skipped: planted bugs are built in the release build, where CUDA's headers are"
    exit 77
fi

# A report names one of the lines that are marked with the bug's number.
names_line() # BUG
{
    for line in $(grep -nE "bug $1\b" "$here/planted.cu" | cut -d: -f1); do
        grep -qE "planted[.]cu:$line\b" "$out" && return 0
    done
    return 1
}

run() # BUILD BUG; false if it was not built
{
    [ -x "$build/tests/planted_$1" ] || return 1
    UBSAN_OPTIONS=print_stacktrace=0 ASAN_OPTIONS=detect_stack_use_after_return=0 \
        timeout 60 "$build/tests/planted_$1" "$2" >"$out" 2>&1
    code=$?
}

expect() # BUG BUILDS WORDS-OF-THE-REPORT [result]
{
    for b in $2; do
        if ! run "$b" "$1" || [ $code -eq 77 ]; then # not built, or without its library
            skipped="$skipped $1"
            continue
        fi
        if [ $code -eq 0 ] || [ $code -eq 124 ] || ! grep -qE "$3" "$out" || { [ -z "${4-}" ] && ! names_line "$1"; }; then
            echo "bug $1 was not found by $b as expected ($3), status $code:"
            head -5 "$out"
            bad=1
        elif [ -z "${4-}" ]; then
            found="$found $1"
        else
            results="$results $1"
        fi
    done
}

# Those of the first list that the other has not, each once.
without() # LIST LIST
{
    for bug in $(printf '%s\n' $1 | sort -nu); do
        case " $2 " in *" $bug "*) ;; *) printf '%s ' "$bug" ;; esac
    done
}

for b in fast asan check; do
    for order in fwd rev 7; do
        for streams in lazy eager 5; do
            export RK_EMU_SCHED=$order RK_EMU_STREAMS=$streams
            run $b 0 || continue
            [ $code -eq 0 ] && grep -q "sum 32896," "$out" || { echo "$b $order $streams: status $code"; cat "$out"; bad=1; }
        done
    done
done
unset RK_EMU_SCHED RK_EMU_STREAMS

expect 1 check "race: "
expect 2 asan "buffer-overflow|use-after-poison|out of bounds"
expect 2 check "memory: write out of bounds"
expect 3 fast "written 0 bytes past the end"
expect 3 asan "use-after-poison"
expect 3 check "memory: write out of bounds"
expect 4 "fast asan check" "barrier divergence"
expect 5 "fast asan check" "deadlock|divergence"
expect 6 check "race: "
expect 7 fast "nan" result
expect 7 check "memory: read of memory that nothing has written"
expect 8 check "race: "
expect 9 check "race: "
expect 10 "asan" "use-after-poison|SEGV|buffer-overflow"
expect 10 check "memory: read outside all blocks"
expect 11 asan "misaligned address"
expect 12 "fast asan check" "order: atomicAdd.. of numbers with a fraction"
expect 13 asan "buffer-overflow|out of bounds"
expect 14 asan "use-after-poison|unknown-crash"
expect 14 check "memory: read out of bounds"
expect 15 check "race: write after write"
expect 16 check "race: read after write"
expect 17 fast "nan" result
expect 17 check "memory: read of memory that nothing has written"
expect 47 fast "nan" result
expect 47 check "memory: read of memory that nothing has written"
expect 18 "fast asan check" "not in its own mask"
expect 19 check "stream race"
expect 20 check "host race: host write"
expect 21 check "host race: host read"
expect 22 asan "use-after-poison"
expect 22 check "memory: read outside all blocks"
expect 23 "fast asan check" "leak: "
expect 24 "fast asan check" "was freed"
expect 25 "fast asan check" "past the end"
expect 26 "fast asan check" "copy: "
expect 27 "fast asan check" "stream: the default stream"
expect 49 "fast asan check" "stream: .*a stream of GPU 0 by a thread whose GPU.* is 1"
expect 28 "fast check" "host: host code reads device memory"
expect 29 check "host race: host write"
expect 30 asan "use-after-poison"
expect 30 check "memory: read outside all blocks"
expect 31 "fast asan check" "capture: cudaStreamEndCapture .*unjoined work"
expect 32 check "stream race: write after write"
expect 33 "fast asan check" "capture: cudaStreamSynchronize .*not permitted when stream is capturing"
expect 34 "fast asan check" "capture: cudaMemcpyAsync of pageable memory .*not permitted"
# What ranks exchange as part of a graph: found in whatever order the branches run.
expect 35 check "stream race: (read after write|write after read)|memory: read of memory that nothing has written"
expect 36 check "memory: read of memory that nothing has written"
expect 36 "fast asan" "nan" result
for b in fast check; do
    run $b 37 || continue
    [ $code -eq 0 ] && grep -q "sum 32896," "$out" || { echo "$b: an exchange in a graph: status $code"; cat "$out"; bad=1; }
done
expect 39 "fast asan check" "launch: .*wants 102400 bytes of dynamic shared memory"
expect 40 "fast asan check" "blas: A reaches .* past the end"
expect 41 "fast asan check" "blas: A lies at a multiple of 4 bytes; the algorithm was chosen for 256"
expect 42 "fast asan check" "blas: a workspace of .* the algorithm needs"
expect 43 "fast asan check" "blas: cublasLtMatmul of .* destroyed"
expect 44 "fast asan check" "blas: leak: 1 objects"
expect 45 "fast asan check" "blas: bits at .* which no product has written there"
expect 46 "fast asan check" "blas: an epilogue with ReLU's bits: .* leading dimension of 64"

# A signal that was sent is no access to device memory: it ends the program, the first time.
for b in fast asan check; do
    run $b 48 || continue
    [ $code -ne 0 ] && [ $code -ne 124 ] && ! grep -q 'rk_emu' "$out" || { echo "$b: a signal that was sent: status $code"; cat "$out"; bad=1; }
done

# What is no mistake to any checker is shown by another order of the threads.
RK_EMU_SCHED=fwd run fast 38 && one=$(cat "$out") && RK_EMU_SCHED=rev run fast 38
[ "$one" != "$(cat "$out")" ] || { echo "bug 38: two orders give the same bits: $one"; bad=1; }

for bug in $(grep -oE 'bug [0-9]+' "$here/planted.cu" | cut -d' ' -f2 | sort -nu); do
    case " $found $results $skipped " in
    *" $bug "*) ;;
    *)
        echo "bug $bug of planted.cu is looked for by nobody"
        bad=1
        ;;
    esac
done
[ $bad -eq 0 ] || exit 1
rest=$(without "$results" "$found")
[ -z "$rest" ] || echo "found by wrong results alone: $rest"
rest=$(without "$skipped" "$found $results")
[ -z "$rest" ] || echo "looked for by none of the builds that are here, so not found: $rest"
echo "$(printf '%s\n' $found | sort -u | wc -l) bugs found with file and line, $(printf '%s\n' $found | wc -l) times by what was built"
