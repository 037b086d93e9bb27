#!/usr/bin/env python3
"""The rewritten line: only on a terminal, at most four times a second, never wider than the terminal."""
import fcntl
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time

RANKINE = str(pathlib.Path(sys.argv[1]).resolve() / "rankine")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(columns, stdout_is_file=False, **environment):
    """(what the terminal got, what stdout got if it is a file, exit code, seconds)"""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    env.update({"TERM": "xterm"} | environment)
    out = open("out", "w+b") if stdout_is_file else slave
    start = time.monotonic()
    child = subprocess.Popen([RANKINE, "train", "run.yaml", "--fresh", "--yes", "run.steps=1500",
                              "ckpt.every=500", "eval.every=500"], stdin=subprocess.DEVNULL,
                             stdout=out, stderr=slave, env=env)
    os.close(slave)
    seen = b""
    while True:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                got = os.read(master, 65536)
            except OSError:
                break
            if not got:
                break
            seen += got
        elif child.poll() is not None:
            break
    code = child.wait()
    text = ""
    if stdout_is_file:
        out.seek(0)
        text = out.read().decode()
    os.close(master)
    return seen.decode(), text, code, time.monotonic() - start


def main():
    for columns in (200, 80, 45):
        seen, _, code, seconds = run(columns)
        assert code == 0, seen
        drawn = [d for d in re.findall(r"\r([^\r\n]*)\x1b\[K", seen) if d]
        assert drawn, f"no progress line at {columns} columns: {seen!r}"
        assert len(drawn) <= 4 * seconds + 3, f"{len(drawn)} lines in {seconds:.1f} s"
        for line in drawn:
            assert len(line) < columns, f"{len(line)} characters on {columns} columns: {line}"
            assert re.match(r"step \d+/1500 \d+%", line), line
        assert re.match(r"step 1500/1500 100% ", drawn[-1]), drawn[-1]
        for part in ("loss", "eta") if columns < 80 else ("loss", "eta", "samples/s"):
            assert part in drawn[-1], f"no {part} on {columns} columns: {drawn[-1]}"
        if columns == 200:
            for part in ("lr ", "GFLOP/s", "%", "iB"):
                assert part in drawn[-1], f"no {part}: {drawn[-1]}"
        assert "step=" not in seen, "log lines and the progress line on one terminal"

    for environment in ({"CI": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        seen, _, code, _ = run(80, **environment)
        assert code == 0 and "\x1b" not in seen and "step=" in seen, (environment, seen[:500])

    seen, text, code, _ = run(80, stdout_is_file=True)
    assert code == 0 and "\r" not in text and "\x1b" not in text and "step=" in text, text[:500]
    assert "step=" not in seen and "step 1500/1500" in seen, "stdout in a file, the line still on the terminal"


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    helper = f". {ROOT}/tests/cli/lib.sh; cd {folder}; make_csv points.csv 400; make_config run.yaml"
    subprocess.run(["sh", "-c", helper, str(ROOT / "tests/cli/x"), str(pathlib.Path(RANKINE).parent)], check=True)
    main()
