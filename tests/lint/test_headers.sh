#!/bin/sh
# Every header compiles alone: the public ones from C11 and C++17, the private ones from C11; the device language of
# src/cuda and its emulation from C++17, where the build found CUDA's headers.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cc=${CC:-cc}
cxx=${CXX:-c++}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
hdf5=$(pkg-config --cflags hdf5 2>/dev/null || true)
failed=0
count=0

alone() # COMPILER-AND-FLAGS INCLUDE-LINE EXTENSION
{
    echo "#include $2" >"$out/alone.$3"
    count=$((count + 1))
    # shellcheck disable=SC2086
    if ! $1 -Wall -Wextra -Werror -fsyntax-only -I"$root/include" $hdf5 "$out/alone.$3" >"$out/log" 2>&1; then
        echo "not alone ($1): $2"
        head -5 "$out/log"
        failed=1
    fi
}

for header in "$root"/include/rankine/*.h; do
    name="<rankine/$(basename "$header")>"
    alone "$cc -std=c11 -pedantic" "$name" c
    alone "$cxx -std=c++17 -pedantic" "$name" cc
done
# Headers of src/cpu/isa are meant to be compiled once an instruction set, behind RK_ISA.
for header in $(cd "$root/src" && find . -name '*.h' ! -path './cpu/isa/*' ! -path './cpu/f64/*' ! -path './cuda/*' | sed 's|^\./||' | sort); do
    alone "$cc -std=gnu11 -D_GNU_SOURCE -I$root/src" "\"$header\"" c
done
cuda=$(sed -n 's/^RANKINE_CUDA_HEADERS:[A-Z]*=//p' "${1:-.}/CMakeCache.txt" 2>/dev/null || true)
for header in $(cd "$root/src" && find ./cuda -name '*.h' | sed 's|^\./||' | sort); do
    [ -n "$cuda" ] || continue
    alone "$cxx -std=gnu++17 -DRK_EMU -D_GNU_SOURCE -I$root/src -isystem $cuda -Wno-unused-variable" "\"$header\"" cc
done
[ $count -gt 15 ] || { echo "only $count headers found"; exit 1; }
[ $failed -eq 0 ] && echo "$count headers compile alone"
exit $failed
