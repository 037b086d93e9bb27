#!/bin/sh
# Data that is missing or broken ends a run before it starts, with 66 or 65 and the place.
. "$(dirname "$0")/lib.sh"

make_config run.yaml
expect 66 'points.csv' "$rankine" train run.yaml

make_csv points.csv 100
sed '50s/,[^,]*$//' points.csv >ragged.csv
expect 65 'ragged.csv:50' "$rankine" train run.yaml data.path=ragged.csv
sed '60s/^[^,]*/nan/' points.csv >nan.csv
expect 65 'nan.csv:60' "$rankine" train run.yaml data.path=nan.csv
sed '1s/.*/a,b,b,class/' points.csv >twice.csv
expect 65 'twice.csv.*b' "$rankine" train run.yaml data.path=twice.csv
: >empty.csv
expect 65 'empty.csv' "$rankine" train run.yaml data.path=empty.csv
head -c 300 /dev/urandom >noise.csv
status=0
"$rankine" train run.yaml data.path=noise.csv >out 2>err || status=$?
[ $status -eq 65 ] || fail "random bytes give $status"

# An IDX pair whose header claims more than there is: refused, whatever the claim.
mkdir idx
printf '\000\000\010\003\000\000\377\377\000\000\000\034\000\000\000\034' >idx/train-images-idx3-ubyte
printf '\000\000\010\001\000\000\377\377' >idx/train-labels-idx1-ubyte
expect 65 'train-images-idx3-ubyte' "$rankine" train run.yaml data.path=idx/train
printf '\177\377\377\377\177\377\377\377\177\377\377\377\177\377\377\377' >idx/train-images-idx3-ubyte
expect 65 'train-images-idx3-ubyte' "$rankine" train run.yaml data.path=idx/train
[ ! -e runs/run/DONE ] || fail "DONE without a run"
