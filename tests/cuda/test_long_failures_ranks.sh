#!/bin/sh
# test_failures.sh for a CNN, and for two ranks of which one fails.
MORE=1 exec "$(dirname "$0")/test_failures.sh" "$@"
