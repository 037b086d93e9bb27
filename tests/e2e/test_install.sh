#!/bin/sh
# What `cmake --install` puts in place is enough: a program outside the tree builds against it with pkg-config, static and
# shared, in C and in C++, and runs; the installed program and manual page are there.
. "$(dirname "$0")/../cli/lib.sh"

cmake --install "$build" --prefix "$dir/usr" >log || fail "cmake --install: $(tail -3 log)"
PKG_CONFIG_PATH=$(dirname "$(find usr -name rankine.pc)")
PKG_CONFIG_PATH=$dir/$PKG_CONFIG_PATH
export PKG_CONFIG_PATH
lib=$(pkg-config --variable=libdir rankine)
include=$(cd "$(pkg-config --variable=includedir rankine)" && pwd)
[ "$include" = "$dir/usr/include" ] || fail "rankine.pc points to $include"
[ "$(pkg-config --modversion rankine)" = "$(usr/bin/rankine version | cut -d' ' -f2)" ] || fail "versions differ"
for file in usr/bin/rankine usr/share/man/man1/rankine.1 usr/include/rankine/rankine.h "$lib/librankine.a" "$lib/librankine.so"; do
    [ -s "$file" ] || fail "$file is not installed"
done
[ -z "$(find usr/include -name '*.def' -o -name 'ctx.h')" ] || fail "private files are installed"

mkdir outside
cp "$root/examples/first.c" outside/
cd outside
cc=${CC:-cc}
# shellcheck disable=SC2046
$cc -std=c11 -Wall -Wextra -Werror first.c -o shared $(pkg-config --cflags --libs rankine)
# -l:librankine.a picks the archive where both kinds lie side by side
# shellcheck disable=SC2046
$cc -std=c11 -Wall -Wextra -Werror first.c -o static $(pkg-config --cflags rankine) \
    $(pkg-config --static --libs rankine | sed 's/-lrankine/-l:librankine.a/')
readelf -d shared | grep -q librankine.so || fail "the shared program does not need librankine.so"
readelf -d static | grep -q librankine.so && fail "the static program needs librankine.so"
if command -v c++ >/dev/null 2>&1; then
    printf '#include <rankine/rankine.h>\nint main() { rk_ctx *c; return rk_open(nullptr, &c) || rk_close(c); }\n' >open.cc
    # shellcheck disable=SC2046
    c++ -std=c++17 -Wall -Wextra -Werror open.cc -o open $(pkg-config --cflags --libs rankine)
    LD_LIBRARY_PATH=$lib ./open || fail "the C++ program fails"
fi

# Nothing but the public names leaves the shared library.
nm -D --defined-only "$lib/librankine.so" | awk '$2 ~ /[TDBR]/ { print $3 }' | grep -v '^rk_' >foreign || true
[ ! -s foreign ] || fail "librankine.so exports $(head -3 foreign | tr '\n' ' ')"

data=/usr/share/datasets/fashion-mnist
if [ ! -r $data/train-images-idx3-ubyte.gz ]; then
    echo "skipped: the data set is missing (dataset-fashion-mnist)"
    exit 77
fi
LD_LIBRARY_PATH=$lib ./shared >shared.out || fail "the shared program fails"
./static >static.out || fail "the static program fails"
cmp -s shared.out static.out || fail "static and shared differ"
awk '/^accuracy/ { good = $NF > 0.85 } END { exit !good }' static.out || fail "too bad: $(tail -1 static.out)"

# What the program has saved, the program on the command line knows how to use.
own=$(awk '/^accuracy/ { print $NF }' static.out)
evaluated=$("$dir/usr/bin/rankine" eval runs/first --data $data/t10k) || fail "eval cannot use what rk_save() wrote"
echo "$evaluated" | awk -v own="$own" '{ sub(/.* accuracy=/, ""); exit !(sprintf("%.4f", $1) == own) }' ||
    fail "the program says accuracy $own, eval says $evaluated"
[ "$("$dir/usr/bin/rankine" predict runs/first --data $data/t10k --limit 7 | wc -l)" -eq 8 ] || fail "predict cannot use it"
"$dir/usr/bin/rankine" export safetensors runs/first first.safetensors >log || fail "export cannot use it"
