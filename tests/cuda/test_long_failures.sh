#!/bin/sh
# test_failures.sh with every call.
EVERY=1 exec "$(dirname "$0")/test_failures.sh" "$@"
