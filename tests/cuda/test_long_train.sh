#!/bin/sh
# test_train.sh over 60 steps.
STEPS=60 exec "$(dirname "$0")/test_train.sh" "$@"
