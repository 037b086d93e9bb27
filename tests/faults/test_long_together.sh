#!/bin/sh
# The same with every layout, every rank and a state of 2 GiB.
RK_TEST_ALL=1 exec "$(dirname "$0")/test_together.sh" "$@"
