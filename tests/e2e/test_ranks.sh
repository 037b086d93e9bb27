#!/bin/sh
# The first program of the README on several ranks: its own loop, one rank's bits.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/cli/mpi.sh"
data=/usr/share/datasets/fashion-mnist
[ -f $data/train-images-idx3-ubyte.gz ] || {
    echo "skipped: $data is not there (Debian package dataset-fashion-mnist)"
    exit 77
}

sed 's/\.epochs = 2/.epochs = 1, .limit = 3000/; s/\.batch = 250/.batch = 250, .limit = 1010/' "$root/examples/first.c" >first.c
grep -q 'limit = 3000' first.c || fail "examples/first.c trains in other words than this test looks for"
cc -O1 first.c -I"$root/include" "$build/librankine.so" -Wl,-rpath,"$build" -o first || fail "examples/first.c does not compile"

for n in 1 2 3; do
    rm -rf runs
    ranks $n ./first >out 2>err || fail "examples/first.c on $n ranks"
    [ "$(grep -c accuracy out)" -eq 1 ] || fail "$n ranks told the accuracy $(grep -c accuracy out) times"
    echo "$(grep accuracy out) $("$rankine" inspect runs/first --hash)" >>all
done
[ "$(sort -u all | wc -l)" -eq 1 ] || fail "other weights or another accuracy on several ranks: $(cat all)"
cat all | head -1
