#!/bin/bash
. "$(dirname "$0")/../cli/lib.sh"
. "$root/tests/faults/kill_resume.sh"
kill_resume 80
