#!/usr/bin/env python3
"""Unfinished words, lengths and stray bytes in the tracked sources. Long functions are listed; only monsters fail."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE_LINES = 900
FUNCTION_LINES = 120
REPORT_LINES = 60
UNFINISHED = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "(?<!X)XX" + "X(?!X)", "not imple" + "mented", "unimple" + "mented"]))
TEXT = {".c", ".h", ".cu", ".cuh", ".def", ".inc", ".sh", ".py", ".md", ".yaml", ".cmake", ".txt"}


def tracked():
    try:
        names = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], check=True,
                               capture_output=True, text=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if "build" not in p.parts[len(ROOT.parts)]]
    return [ROOT / n for n in names if n and (ROOT / n).is_file() and (ROOT / n).suffix in TEXT]


def functions(lines):
    """(name line, length) of each body that opens and closes in column 0."""
    start = None
    for i, line in enumerate(lines):
        if line.startswith("{"):
            start = i
        elif line.startswith("}") and start is not None:
            yield start, i - start + 1
            start = None


bad, report, seen = [], [], 0
for path in sorted(tracked()):
    name = path.relative_to(ROOT)
    data = path.read_bytes()
    if name.parts[0] == "tests" and "golden" in name.parts:
        continue
    seen += 1
    if b"\r" in data:
        bad.append(f"{name}: carriage returns")
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    if text and not text.endswith("\n"):
        bad.append(f"{name}: no newline at the end")
    for i, line in enumerate(lines, 1):
        if UNFINISHED.search(line):
            bad.append(f"{name}:{i}: unfinished by its own words: {line.strip()}")
    if path.suffix in (".c", ".h", ".cu", ".cuh", ".inc"):
        if len(lines) > FILE_LINES:
            bad.append(f"{name}: {len(lines)} lines; more than one idea?")
        for start, length in functions(lines):
            if length > FUNCTION_LINES:
                bad.append(f"{name}:{start}: a function of {length} lines")
            elif length > REPORT_LINES:
                report.append(f"{name}:{start}: {length} lines")
if seen < 20:
    bad.append(f"only {seen} files found under {ROOT}")
if report:
    print("functions over %d lines:" % REPORT_LINES, *report, sep="\n  ")
print("\n".join(bad) or f"{seen} files: nothing unfinished, none too long")
sys.exit(1 if bad else 0)
