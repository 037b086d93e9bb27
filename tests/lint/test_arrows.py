#!/usr/bin/env python3
"""The house: a room includes only what lies to its right.

    cli -> train -> nn, ckpt -> parallel -> io -> core <- cpu, cuda

Also: the public headers know nothing private, a source includes its own header first, and no file of src/ names a
header that does not exist.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
MAY_INCLUDE = {
    "core": {"core"},
    "cpu": {"cpu", "core"},
    "cuda": {"cuda", "core"},
    "io": {"io", "core"},
    "parallel": {"parallel", "io", "core"},
    "ckpt": {"ckpt", "parallel", "io", "core"},
    "nn": {"nn", "parallel", "io", "core"},
    "train": {"train", "nn", "ckpt", "parallel", "io", "core"},
    "cli": {"cli"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
bad = []


def includes(path):
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m.group().count("\n"), path.read_text(), flags=re.S)
    for m in INCLUDE.finditer(text):
        yield text.count("\n", 0, m.start(2)) + 1, m.group(1), m.group(2)


def check_room(path, room):
    for line, kind, name in includes(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        if kind == "<":
            if name.startswith("rankine/") and not (ROOT / "include" / name).is_file():
                bad.append(f"{where}: <{name}> does not exist")
            continue
        if not (ROOT / "src" / name).is_file() and not (path.parent / name).is_file():
            bad.append(f"{where}: \"{name}\" does not exist")
        to = name.split("/")[0] if "/" in name else room
        if to not in MAY_INCLUDE.get(room, set()):
            bad.append(f"{where}: {room} may not know {to}: \"{name}\"")


def check_own_header_first(path, room):
    """Before any system header and any other room, so that it is seen to compile alone."""
    own = path.with_suffix(".h")
    if not own.is_file():
        return
    for line, kind, name in includes(path):
        if name == own.name or name.endswith("/" + own.name):
            return
        if kind == "<" or not name.startswith(room + "/"):
            bad.append(f"{path.relative_to(ROOT)}:{line}: its own header {own.name} comes before {name}")
            return
    bad.append(f"{path.relative_to(ROOT)}: does not include its own header {own.name}")


def main():
    seen = 0
    for path in sorted((ROOT / "src").rglob("*.[ch]")):
        room = path.relative_to(ROOT / "src").parts[0]
        if room not in MAY_INCLUDE:
            bad.append(f"{path.relative_to(ROOT)}: unknown room {room}")
            continue
        seen += 1
        check_room(path, room)
        if path.suffix == ".c":
            check_own_header_first(path, room)
    for path in sorted((ROOT / "include/rankine").glob("*.h")):
        seen += 1
        for line, kind, name in includes(path):
            if kind == '"' and not (path.parent / name).is_file():
                bad.append(f"{path.relative_to(ROOT)}:{line}: a public header may not include \"{name}\"")
    for path in sorted((ROOT / "examples").glob("*.c")):
        for line, kind, name in includes(path):
            if kind == '"':
                bad.append(f"{path.relative_to(ROOT)}:{line}: examples use <rankine/*.h> only, not \"{name}\"")
    if seen < 10:
        bad.append(f"only {seen} files found under {ROOT}: this lint looks in the wrong place")
    print("\n".join(bad) or f"{seen} files: every include points to the right")
    return 1 if bad else 0


sys.exit(main())
