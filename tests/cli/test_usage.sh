#!/bin/sh
# The command line itself: verbs, flags, help, the manual page; everything that ends with 64.
. "$(dirname "$0")/lib.sh"

expect 64 'rankine help' "$rankine"
expect 64 'no verb "trian"; did you mean "train"' "$rankine" trian
expect 64 'no verb "qqqqqqqq"; rankine help lists' "$rankine" qqqqqqqq
expect 64 'no flag --hashh; did you mean --hash' "$rankine" inspect run --hashh
expect 64 'no flag --freshh; did you mean --fresh' "$rankine" train x.yaml --freshh
expect 64 'no flag --bacth-size; did you mean --batch-size' "$rankine" train x.yaml --bacth-size 3
expect 64 'no flag -x; flags have two dashes' "$rankine" train -x
expect 64 '--hash takes no value' "$rankine" inspect run --hash=1
expect 64 '--step needs a value' "$rankine" inspect run --step
expect 64 '--step is "two", it should be a whole number from 0' "$rankine" inspect run --step two
expect 64 'something is missing: rankine verify RUN' "$rankine" verify
expect 64 'what is "b"' "$rankine" verify a b
expect 64 'give one configuration' "$rankine" train
expect 64 'give one configuration' "$rankine" train a.yaml --config b.yaml
expect 64 'there are h5 and safetensors' "$rankine" export onnx run out
expect 64 'none of check, show, schema; did you mean show' "$rankine" config shw x
expect 64 '--as is "xml"; there are csv and jsonl' "$rankine" predict run --as xml

expect 0 '^rankine [0-9]+\.[0-9]+\.[0-9]+$' "$rankine" version
expect 0 '^rankine [0-9]' "$rankine" --version
verbs='train eval predict inspect verify export config bench doctor version help'
for verb in $verbs; do
    expect 0 "^rankine $verb" "$rankine" "$verb" --help
    cp out a
    expect 0 "^rankine $verb" "$rankine" help "$verb"
    cmp -s a out || fail "help $verb and $verb --help differ"
    "$rankine" help | grep -q "^  $verb " || fail "rankine help does not list $verb"
done
expect 0 'optim\.lr' "$rankine" help options
expect 64 'did you mean "eval"' "$rankine" help evall

# Every verb, flag, option and exit code is in the manual page, and the page is sound.
"$rankine" help --man >page.1
"$rankine" help | awk '/^Exit codes/ { on = 1; next } on { print $1 }' >codes
[ "$(wc -l <codes)" -gt 10 ] || fail "rankine help lists no exit codes"
while read -r code; do
    grep -q "^\.B $code\$" page.1 || fail "no exit code $code in the manual page"
    [ "$code" -eq 0 ] || tr '\n' ' ' <"$root/README.md" | grep -q "[ (]$code [a-z]" || fail "no exit code $code in README.md"
done <codes
sed -n 's|^ *RK_E[A-Z]*,* */[*] \([0-9]*\):.*|\1|p' "$root/include/rankine/base.h" | grep -v '^80$' | while read -r code; do
    grep -qx "$code" codes || fail "rankine help does not tell of exit code $code"
done
for word in $verbs 75 79 RANKINE_ISA; do
    grep -q "$word" page.1 || fail "no $word in the manual page"
done
"$rankine" help options | awk '$1 ~ /\./ { print $1 }' | while read -r key; do
    grep -q "^\.B $key " page.1 || fail "no $key in the manual page"
done
if command -v man >/dev/null 2>&1; then
    LC_ALL=C MANWIDTH=100 man --warnings -l page.1 >text 2>warnings || fail "man does not take the page"
    [ ! -s warnings ] || fail "man warns: $(head -3 warnings)"
    grep -q 'EXIT STATUS' text || fail "the page has no text"
fi

# Output that cannot be written is a failure.
if [ -w /dev/full ]; then
    status=0
    "$rankine" help >/dev/full 2>err || status=$?
    [ $status -eq 74 ] || fail "help to a full disk exits $status"
fi
expect 0 'device +cpu' "$rankine" doctor --threads 1 --device cpu
status=0
"$rankine" doctor --threads 1 /nowhere >out 2>err || status=$?
[ $status -eq 74 ] && grep -q '^BAD' out || fail "doctor finds no fault with a missing folder"
