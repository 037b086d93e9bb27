#!/bin/sh
# What nvcc makes of the f32 kernels are operations that round as IEEE says and keep subnormal numbers: nothing
# approximate, nothing flushed to zero. Kernels in double are close, not equal, and may use the C library's shortcuts.
set -eu
build=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
nvcc=$(sed -n 's/^CUDAToolkit_NVCC_EXECUTABLE:[A-Z]*=//p' "$build/CMakeCache.txt")
[ -x "$nvcc" ] || nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
[ -x "$nvcc" ] || { echo "skipped: no nvcc"; exit 77; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
entries=0
failed=0
for source in "$root"/src/cuda/*.cu; do
    name=$(basename "$source" .cu)
    "$nvcc" -std=c++17 -O3 -fmad=false -arch=sm_80 -ptx -D_GNU_SOURCE -I"$root/include" -I"$root/src" \
        -o "$out/$name.ptx" "$source" 2>"$out/log" || { cat "$out/log"; exit 1; }
    # A kernel over double has `d` among its template's types (Id..) or f64 in its name.
    awk -v name="$name" '
        /\.entry/ { split($0, part, ".entry "); kernel = part[2]; sub(/\(.*/, "", kernel); n++
                    double = kernel ~ /Id|f64/ }
        !double && /(approx|\.full|\.ftz)[.a-z0-9]*\.f32/ { print name ": " kernel ": " $0; bad = 1 }
        END { print n > "/dev/stderr"; exit bad }' "$out/$name.ptx" 2>"$out/n" || failed=1
    entries=$((entries + $(cat "$out/n")))
done
[ "$entries" -gt 100 ] || { echo "only $entries kernels found"; exit 1; }
[ $failed -eq 0 ] && echo "$entries kernels: IEEE operations alone in f32"
exit $failed
