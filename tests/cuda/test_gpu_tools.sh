#!/bin/sh
# The commands for machines with a GPU, where there is none: they say so. The model of docs/gpu-model.md is what the program says.
. "$(dirname "$0")/../cli/lib.sh"
if [ ! -x "$build/benchmarks/bench_gpu" ]; then
    echo "skipped: built without the benchmarks"
    exit 77
fi
"$build/benchmarks/bench_gpu" model >model
sed -n '/^## Kernels$/,$p' "$root/docs/gpu-model.md" >documented
diff model documented >differs || fail "docs/gpu-model.md is not what bench_gpu model says: $(head -n 5 differs)"

# A row's first column: entries, and in brackets what is special.
grep '^| ' documented | cut -d'|' -f2 | sed 's/(.*//' | tr ',' '\n' | tr -d ' ' | sort -u >rows
sed -n 's/^ENTRY(\(.*\))$/\1/p' "$root/src/cuda/entries.def" | sort >wanted
[ "$(wc -l <wanted)" -gt 80 ] || fail "entries.def has $(wc -l <wanted) entries only"
comm -23 wanted rows >absent
[ ! -s absent ] || fail "docs/gpu-model.md has no row for $(tr '\n' ' ' <absent)"

without() # COMMAND...: ends with 69 and one sentence where no GPU is
{
    status=0
    RANKINE_CUDA=$dir/nothing.so "$@" >out 2>err || status=$?
    [ $status -eq 69 ] || fail "exit $status instead of 69 without a GPU: $*"
    grep -q 'no GPU can be used: .*nothing.so' err || fail "does not say what is missing: $*"
}
without "$root/tools/gpu-check.sh" "$build" "$dir/report"
without "$root/tools/gpu-bench.sh" "$build"
module=$build/librankine_cuda_host.so
if [ ! -e "$module" ]; then
    echo "no GPU is told in a sentence; no librankine_cuda_host.so to time"
    exit 0
fi
# On machines with GPUs gpu-check says what there is, runs NVIDIA's sanitizer over the kernels and says what it leaves out.
mkdir tools
printf '#!/bin/sh\necho "$@" >>"%s"\n' "$dir/sanitized" >tools/compute-sanitizer
chmod +x tools/compute-sanitizer
for n in 1 2; do
    RK_EMU_DEVICES=$n RANKINE_CUDA=$module PATH="$dir/tools:$PATH" ONLY=sanitizer "$root/tools/gpu-check.sh" "$build" "$dir/report" >out 2>err ||
        fail "gpu-check on $n GPUs"
    grep -Eq "^- .*, as $n GPUs?; (no )?NCCL" report || fail "the report does not tell of $n GPUs: $(cat report)"
done
for tool in memcheck racecheck synccheck initcheck; do
    grep -q "^--tool $tool .*tests/conformance_test_kernels" sanitized || fail "the kernels were not run by $tool"
done
RANKINE_CUDA=$module ONLY='left out' "$root/tools/gpu-check.sh" "$build" "$dir/report" >out 2>err || fail "gpu-check of nothing"
grep -q '^| cuda/test_launches | left out | the stand-ins count' report || fail "gpu-check does not say what it leaves out"
RANKINE_CUDA=$module "$build/benchmarks/bench_gpu" kernels max_pool2d_grad\ \(a >out 2>err || fail "bench_gpu kernels"
grep -q '^| max_pool2d_grad (adaptive) | 64 x 64 x 8 -> 3 | [0-9.]* | [0-9.]* | [0-9.]* | - | - |' out || fail "bench_gpu tells no kernel"
status=0
RANKINE_CUDA=$module "$build/benchmarks/bench_gemm_vs_cublas" >out 2>err || status=$?
[ $status -eq 69 ] || fail "bench_gemm_vs_cublas ends with $status on the host"
grep -q 'a GPU is needed: this library runs on the host' err || fail "bench_gemm_vs_cublas does not say what it needs"
echo "no GPU is told in a sentence; the model is the documented one"
