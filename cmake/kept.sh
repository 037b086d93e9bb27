#!/bin/sh
# kept.sh FILE COMMAND...: runs the command with what it says kept in FILE; shown only if it fails.
file=$1
shift
"$@" >"$file" 2>&1 && exit 0
cat "$file" >&2
exit 1
