#!/bin/bash
# A dozen kills; the long tier has more.
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/faults/kill_resume.sh"
kill_resume 12
