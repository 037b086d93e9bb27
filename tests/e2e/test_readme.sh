#!/bin/sh
# The README's first data set, word for word: its configuration and its commands, on a CSV file of the form it shows.
. "$(dirname "$0")/../cli/lib.sh"

sed -n '/^```yaml$/,/^```$/p' "$root/README.md" | sed '/^```/d' >flowers.yaml
grep -q 'flowers.csv' flowers.yaml || fail "the README has no configuration for flowers.csv"
awk 'BEGIN {
    s = 99
    print "length,width,colour,kind"
    for (i = 0; i < 240; i++) {
        for (j = 0; j < 3; j++) {
            s = (s * 1103515245 + 12345) % 2147483648
            x[j] = s / 2147483648
        }
        rose = i % 2
        colour = x[2] < 0.8 == rose ? "red" : "white"
        printf("%.1f,%.1f,%s,%s\n", 4 + x[0] + rose, 2 + 2 * x[1], colour, rose ? "rose" : "lily")
    }
}' >flowers.csv
head -20 flowers.csv | cut -d, -f1-3 >new.csv

# The command block that begins with "rankine train flowers.yaml", without its comments.
sed -n '/^rankine train flowers.yaml/,/^```$/p' "$root/README.md" | sed '/^```/d; s/  *#.*//' >commands
[ "$(wc -l <commands)" -ge 5 ] || fail "the README has no commands for flowers.yaml"
mkdir bin
ln -s "$rankine" bin/rankine
while read -r command; do
    status=0
    PATH=$dir/bin:$PATH sh -c "$command" >out 2>err </dev/null || status=$?
    [ $status -eq 0 ] || fail "exit $status: $command"
done <commands
# The commands of several ranks: the same weights as one process.
sed -n '/^mpirun -n 4 rankine train flowers.yaml/,/^```$/p' "$root/README.md" | sed '/^```/d; s/  *#.*//' >commands
[ "$(wc -l <commands)" -eq 2 ] || fail "the README has no commands for several ranks"
if command -v mpirun >/dev/null; then
    . "$root/tests/cli/mpi.sh"
    while read -r command; do
        PATH=$dir/bin:$PATH sh -c "$command" >out 2>err </dev/null || fail "$command"
    done <commands
    "$rankine" train flowers.yaml run.dir=runs/alone --num-epochs 60 >out 2>err || fail "60 epochs on one rank"
    [ "$(hash_of runs/four)" = "$(hash_of runs/alone)" ] || fail "several ranks have other weights"
fi
[ -e runs/flowers/DONE ] && [ -e runs/faster/DONE ] || fail "the runs are not where the README says"
accuracy=$("$rankine" eval runs/flowers | sed 's/.*accuracy=\([0-9.]*\).*/\1/')
awk -v a="$accuracy" 'BEGIN { exit !(a > 0.8) }' || fail "accuracy $accuracy on easy data"
[ "$("$rankine" predict runs/flowers --data new.csv | wc -l)" -eq 20 ] || fail "not a prediction a row"
expect 0 'good; it would run in runs/flowers' "$rankine" config check flowers.yaml

# The program of the README stands in the example, line for line.
sed -n '/^rk_ctx \*ctx;$/,/^```$/p' "$root/README.md" | grep -o 'rk_[a-z_]*(' | sort -u | while read -r name; do
    grep -q -F "$name" "$root/examples/first.c" || fail "$name of the README is not in examples/first.c"
done

# Every target that README and CONTRIBUTING name exists, and so does every file they link.
for target in $(grep -ohE '^make [a-z-]+' "$root/README.md" "$root/CONTRIBUTING.md" | cut -d' ' -f2 | sort -u); do
    grep -q "^$target:" "$root/Makefile" || fail "there is no make $target"
done
for file in $(grep -oE '\]\([A-Za-z0-9_./-]+\)' "$root/README.md" | tr -d '](' | tr -d ')'); do
    [ -e "$root/$file" ] || fail "README links $file, which is not there"
done
