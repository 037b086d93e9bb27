"""Reads a run's log as a collector does. check_log.py kv|json FILE METRIC...: each metric must be seen.

The expression is Katib's own; with early stopping its collector dies on the first "name=" whose value is empty.
"""
import datetime
import json
import re
import sys

KATIB = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


def kv(lines, wanted):
    seen = {}
    for number, line in enumerate(lines, 1):
        assert "\r" not in line and "\x1b" not in line, f"line {number}: a control character: {line!r}"
        time, space, rest = line.partition(" ")
        assert TIME.match(time) and space and rest, f"line {number} does not begin with a time: {line!r}"
        datetime.datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ")
        found = KATIB.findall(rest)
        assert rest.count("=") == len(found), f"line {number}: an '=' that is no metric: {line!r}"
        for name, value, _, _ in found:
            assert re.fullmatch(r"[A-Za-z0-9_-]+", name), f"line {number}: name {name!r}"
            float(value)  # an empty value is what kills the collector
            seen.setdefault(name, []).append(float(value))
        if found:
            words = rest.split(" ")
            assert all(re.fullmatch(r"[A-Za-z0-9_-]+(=[^=]+|:-?(nan|inf))", w) for w in words), f"line {number}: {line!r}"
    return seen


def jsonl(lines, wanted):
    seen = {}
    for line in lines:
        record = json.loads(line)
        assert TIME.match(record["timestamp"]), line
        for name, value in record.items():
            assert isinstance(value, str), f"{name} is not a string: {line}"
            if name not in ("timestamp", "event", "text"):
                seen.setdefault(name, []).append(float(value))
    return seen


form, path, *wanted = sys.argv[1:]
text = open(path).read()
assert text.endswith("\n"), "the last line has no end"
values = (jsonl if form == "json" else kv)(text.splitlines(), wanted)
for name in wanted:
    assert values.get(name), f"{name} was not seen; there are {sorted(values)}"
steps = values.get("step", [])
assert steps == sorted(steps), "steps go back"
