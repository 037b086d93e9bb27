#!/bin/sh
# A loss that is not finite ends the run with 79, says where, and never prints "loss=nan".
. "$(dirname "$0")/lib.sh"

make_csv points.csv 400
make_config run.yaml
expect 79 'step [0-9]+' "$rankine" train run.yaml optim.kind=sgd optim.lr=1000 optim.momentum=0 loss.kind=mse log.every=1 \
    data.task=regression data.label_column=c model.layers='[{linear: {out: 32}}, {linear: {out: 1}}]'
python3 "$root/tests/cli/check_log.py" kv out step
grep -Eq '=(nan|-?inf)' out && fail "a value that is not finite was printed as a number"
grep -Eq 'sample' err || fail "the message does not name the samples: $(cat err)"
[ ! -e runs/run/DONE ] || fail "a run that diverged says DONE"
