#!/usr/bin/env python3
"""Registers, shared memory and spills of every kernel on sm_80, sm_90 and sm_100, as ptxas told the build, against
kernels.table: no spill and no stack beyond the table's, registers within 25 % (and 8) of it, the same shared memory. With another CUDA than the table's: no spill.

test_registers.py BUILD --write makes the table anew.
"""
import pathlib
import re
import subprocess
import sys

TABLE = pathlib.Path(__file__).with_name("kernels.table")
HEAD = """# Registers, static shared memory (bytes), stack (bytes) and spilled bytes of each kernel by architecture.
# Written by tests/cuda/test_registers.py BUILD --write from what ptxas of CUDA {version} said.
"""


def demangle(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, (n.replace("(anonymous namespace)::", "") for n in out.splitlines())))


def read_build(folder):
    """{(kernel, arch): (registers, shared, stack, spilled)}"""
    found = {}
    for path in sorted(folder.glob("*.ptxas")):
        key = stack = spilled = None
        for line in path.read_text().splitlines():
            if m := re.search(r"Compiling entry function '(\S+)' for '(sm_\d+)'", line):
                key, stack, spilled = (m[1], m[2], path.stem), 0, 0
            elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
                stack, spilled = int(m[1]), int(m[2]) + int(m[3])
            elif (m := re.search(r"Used (\d+) registers", line)) and key:
                shared = re.search(r"(\d+) bytes smem", line)
                found[key] = (int(m[1]), int(shared[1]) if shared else 0, stack, spilled)
    names = demangle(sorted({k[0] for k in found}))
    short = {n: re.sub(r"\([^()]*\)$", "", full).removeprefix("void ") for n, full in names.items()}
    return {(f"{stem}.cu {short[k]}", a): v for (k, a, stem), v in found.items()}


def read_table():
    rows = {}
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            arch, registers, shared, stack, spilled, name = line.split(maxsplit=5)
            rows[name, arch] = (int(registers), int(shared), int(stack), int(spilled))
    return rows


def compare(now, table):
    bad = [f"{name} on {arch} is not in the table" for name, arch in sorted(now.keys() - table.keys())]
    bad += [f"{name} on {arch} is in the table alone" for name, arch in sorted(table.keys() - now.keys())]
    for key in sorted(now.keys() & table.keys()):
        (registers, shared, stack, spilled), (r, s, k, _) = now[key], table[key]
        if spilled:
            bad.append(f"{key[0]} on {key[1]} spills {spilled} bytes")
        if registers > max(1.25 * r, r + 8):
            bad.append(f"{key[0]} on {key[1]}: {registers} registers, the table says {r}")
        if shared != s or stack > k:
            bad.append(f"{key[0]} on {key[1]}: {shared} bytes shared, {stack} stack; the table says {s} and {k}")
    return bad


def main():
    build = pathlib.Path(sys.argv[1])
    if not list((build / "nvcc").glob("*.ptxas")):
        print("skipped: no kernel was built for a GPU (no nvcc)")
        return 77
    now = read_build(build / "nvcc")
    version = re.search(r"^RANKINE_CUDA_VERSION:\w+=(.*)$", (build / "CMakeCache.txt").read_text(), re.M)
    version = version[1] if version else "?"
    if "--write" in sys.argv:
        rows = (f"{arch} {r:4} {s:6} {k:5} {p:5}  {name}" for (name, arch), (r, s, k, p) in sorted(now.items()))
        TABLE.write_text(HEAD.format(version=version) + "\n".join(rows) + "\n")
    if f"CUDA {version} said" in TABLE.read_text():
        bad = compare(now, read_table())
        if bad:
            bad.append("where this is meant: tests/cuda/test_registers.py BUILD --write makes the table anew")
    else: # another ptxas allocates otherwise
        bad = [f"{name} on {arch} spills {v[3]} bytes" for (name, arch), v in sorted(now.items()) if v[3]]
    print("\n".join(bad) or f"{len(now)} kernels by architecture: no spill, registers as in the table")
    return 1 if bad or not now else 0


sys.exit(main())
