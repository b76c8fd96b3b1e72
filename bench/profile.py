"""What bounds a row: it is run again on the CFS mount while its processes are watched.

    python -m bench.profile ROW [ROW ...] --state STATE --mount MOUNT [--scale 0.1]

fsbench is held (SIGSTOP) as the row before ends, samplers are attached and CPU counters read; then
it goes on until the row's line appears. CPU seconds are the kernel's, of the whole process; busy is
CPU over wall, so 100 % is one core and what is left of it is idle: waiting for a peer, the disk or
the kernel. CPU and wall are of a run that is not sampled, the stacks of a second one that is:
sampling costs time, so both rates are printed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import stacks
from bench.figures import ROWS, markdown, number, with_needs
from bench.mounts import Cfs

FSBENCH = Path(__file__).with_name("fsbench.py")
SAMPLES_PER_S = 100
ROW_S_MAX = 900
TOP = 8
_LINE = re.compile(r"^  (\w+): (.*)$")
_TICKS = os.sysconf("SC_CLK_TCK")


def profile(row, cluster, mount, scale):
    """Run `row` watched; give the section's text."""
    pids = cluster.pids()
    plain, wall, cpu = _measure(row, mount, scale, pids, None)
    with tempfile.TemporaryDirectory() as kept:
        rate, _, _ = _measure(row, mount, scale, pids, Path(kept))
        sampled = {
            n: stacks.parse(p.read_text()) for n in pids if (p := Path(kept) / f"{n}.raw").exists()
        }
    return render(row, plain, rate, wall, cpu, sampled)


def render(row, plain, rate, wall, cpu, sampled):
    """Make the section of one row."""
    whole = sum(s for n, s in cpu.items() if n != "fsbench")
    cells = [
        [n, f"{s:.2f}", f"{100 * s / wall:.0f} %", f"{max(0.0, 100 - 100 * s / wall):.0f} %"]
        for n, s in cpu.items()
    ]
    parts = [
        f"### {row}\n",
        (
            f"{plain} unwatched, {rate} sampled; {wall:.2f} s of wall (with dropping caches), "
            f"{whole:.2f} s of CPU in CFS over {os.cpu_count()} cores.\n"
        ),
        markdown(["process", "CPU s", "busy of one core", "idle"], cells),
    ]
    for name, (total, own, inclusive) in sorted(sampled.items(), key=lambda i: -i[1][0])[:4]:
        if not total:
            continue
        parts.append(f"{name}, {total} samples:\n")
        selfs = stacks.top(own, total, TOP)
        withs = stacks.top(inclusive, total, TOP, stacks.is_ours)
        lines = [[*_cells(selfs, i), *_cells(withs, i)] for i in range(max(len(selfs), len(withs)))]
        parts.append(markdown(["self", "function", "inclusive", "function of CFS"], lines, left=4))
    return "\n".join(parts)


def _cells(pairs, index):
    if index >= len(pairs):
        return ["", ""]
    share, name = pairs[index]
    return [f"{100 * share:.0f} %", f"`{name}`"]


def _measure(row, mount, scale, pids, kept):
    rows = _with_a_row_before(row)
    words = [sys.executable, str(FSBENCH), str(mount), "--scale", str(scale)]
    bench = subprocess.Popen(
        [*words, "--only", ",".join(rows)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    watchers = []
    try:
        if row == rows[0]:
            _until_it_writes(bench)
        else:
            _read_until(bench, rows[rows.index(row) - 1])
        os.kill(bench.pid, signal.SIGSTOP)
        if kept is not None:
            watchers = _watch(pids, kept)
        watched = {**pids, "fsbench": bench.pid}
        before = {n: _cpu_s(p) for n, p in watched.items()}
        began = time.perf_counter()
        os.kill(bench.pid, signal.SIGCONT)
        text = _read_until(bench, row)
        wall = time.perf_counter() - began
        cpu = {n: _cpu_s(p) - before[n] for n, p in watched.items()}
        _end_watch(watchers)
        watchers = []
        bench.stderr.read()
        bench.wait(300)
    finally:
        _end_watch(watchers)
        if bench.poll() is None:
            os.kill(bench.pid, signal.SIGCONT)
            bench.kill()
            bench.wait()
    return number(float(text)) if re.match(r"^[\d.]+$", text) else text, wall, cpu


def _with_a_row_before(row):
    """Give the rows to run: some row must end before this one begins, so that it can be held."""
    rows = with_needs([row])
    if rows[0] != row or row == ROWS[0]:
        return rows
    first = "sync_write_4k" if ROWS.index(row) > ROWS.index("sync_write_4k") else ROWS[0]
    return [first, *rows]


def _until_it_writes(bench):
    """Return as fsbench has its big file open: its first row has begun. Raises RuntimeError."""
    deadline = time.monotonic() + ROW_S_MAX
    while time.monotonic() < deadline and bench.poll() is None:
        try:
            if any(f.readlink().name == "big" for f in Path(f"/proc/{bench.pid}/fd").iterdir()):
                return
        except OSError:
            pass  # a descriptor closed between the two calls
        time.sleep(0.001)
    raise RuntimeError("seq_write was over before it could be held: use a larger --scale")


def _read_until(bench, row):
    """Read fsbench's lines up to this row's; give what it says. Raises RuntimeError."""
    deadline = time.monotonic() + ROW_S_MAX
    for line in bench.stderr:
        match = _LINE.match(line.rstrip())
        if match and match[1] == row:
            return match[2]
        if time.monotonic() > deadline:
            break
    raise RuntimeError(f"fsbench ended before {row}")


def _watch(pids, kept):
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        print("no py-spy: CPU seconds only", file=sys.stderr)
        return []
    watchers = [
        subprocess.Popen(
            [str(py_spy), "record", "-f", "raw", "-F", "--full-filenames", "-d", str(ROW_S_MAX),
             "-r", str(SAMPLES_PER_S), "--nonblocking", "-p", str(pid),
             "-o", str(kept / f"{name}.raw")],
            stderr=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        for name, pid in pids.items()
    ]  # fmt: skip
    for watcher in watchers:
        for line in watcher.stdout:
            if "Sampling" in line:
                break
    return watchers


def _end_watch(watchers):
    for watcher in watchers:
        watcher.send_signal(signal.SIGINT)
    for watcher in watchers:
        try:
            watcher.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            watcher.kill()


def _cpu_s(pid):
    """Give user and system CPU of a process, its ended threads included. Seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", choices=ROWS, metavar="ROW")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--mount", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=0.1)
    options = parser.parse_args()
    cluster = Cfs(options.state, options.mount)
    mount = cluster.start()
    try:
        for row in options.rows:
            print(profile(row, cluster, mount, options.scale), flush=True)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
