"""The same work on CFS, on the disk below it, on a bare pass-through and on its peers.

    python -m bench.run --state STATE --mount MOUNT [--scale 1] [--rounds 3] [--only ROW,ROW]
                        [--peers gluster,gluster-replica,moosefs]

Systems run one at a time, each started for its run and stopped after it, in an order that turns
with every round; a probe of the machine stands before and after each. Figures are medians. The
raw runs go to STATE/bench/runs.json after every run, the tables into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench import figures, gluster, moosefs
from bench.mounts import Cfs, Local, PassthroughMount, SystemFailedError
from bench.probe import probe
from bench.profile import FSBENCH, profile

TREE = Path(__file__).parents[1]
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
RUN_S_MAX = 3600
PEERS = ("gluster", "gluster-replica", "moosefs")


def systems_of(options):
    """Make the systems to compare; peers that are not installed are refused by name."""
    own = options.state.absolute() / "bench"
    found = [
        Cfs(options.state, options.mount),
        Local(own / "local"),
        PassthroughMount(own / "pass"),
    ]
    for peer in options.peers:
        if peer == "moosefs":
            found.append(moosefs.MooseFs(own / "moosefs"))
        else:
            kind = "replica" if peer == "gluster-replica" else "disperse"
            found.append(gluster.Gluster(own / "gluster", kind))
    return found


def run_once(system, options):
    """Run fsbench on one system, with probes around; the record of it."""
    own = options.state / "bench"
    try:
        directory = system.start()
        os.sync()
        before = probe(own)
        words = [sys.executable, str(FSBENCH), str(directory), "--scale", str(options.scale)]
        if options.only:
            words += ["--only", ",".join(options.only)]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, text=True, timeout=RUN_S_MAX, check=True
        )
        after = probe(own)
    finally:
        system.stop()
    rates = json.loads(done.stdout.strip().splitlines()[-1])
    rates.pop("label", None)
    return {
        "key": system.key,
        "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "scale": options.scale,
        "rates": rates,
        "before": before,
        "after": after,
    }


def run_rounds(systems, options):
    """Run all rounds, interleaved; a system that fails is left out from then on, loudly."""
    records, failed = [], {}
    for index in range(options.rounds):
        turn = index % len(systems)
        for system in systems[turn:] + systems[:turn]:
            if system.key in failed:
                continue
            print(f"round {index + 1}: {system.label}", file=sys.stderr, flush=True)
            try:
                record = run_once(system, options)
            except (SystemFailedError, subprocess.SubprocessError, OSError) as error:
                failed[system.key] = str(error)
                print(f"{system.label} failed: {error}", file=sys.stderr)
                continue
            records.append({**record, "round": index + 1})
            (options.state / "bench" / "runs.json").write_text(json.dumps(records, indent=1))
    return records, failed


def report(systems, records, failed, profiles):
    """Write the section of figures."""
    labels = {s.key: s.label for s in systems}
    runs = {}
    for system in systems:
        mine = [r["rates"] for r in records if r["key"] == system.key]
        if mine:
            runs[system.key] = mine
    taken = sorted({records[0]["taken"], records[-1]["taken"]}) if records else ["never"]
    scales = ", ".join(sorted({str(r["scale"]) for r in records}))
    rounds = ", ".join(f"{labels[k]} {len(v)}" for k, v in runs.items())
    parts = [
        (
            f"Taken {' to '.join(taken)} by `python -m bench.run`: scale {scales}, medians of "
            f"interleaved rounds ({rounds}). {machine()} All systems lie on one disk.\n"
        ),
        *(f"{labels[k]} failed: {why}\n" for k, why in failed.items()),
        "## Figures\n",
        figures.figures_table(runs, labels),
        (
            "The floors: sequential write and read reach gluster disperse; no other row is "
            "below a third of it; rows of metadata reach 0.9 of the better of gluster replica 3 "
            "and MooseFS goal 2. Where the bare pass-through is below the same floor in the "
            "same rounds, the row is reported and not chased.\n"
        ),
        "## Lowest and highest\n",
        figures.spread_table(runs, labels),
        "## What fsync means\n",
        figures.markdown(
            ["system", "version", "when fsync returns"],
            [[s.label, s.version(), s.fsync] for s in systems],
            left=3,
        ),
        "## The machine, before → after each run\n",
        figures.probe_table(records, labels),
    ]
    if profiles:
        parts += ["## What bounds the worst rows\n", *profiles]
    return "\n".join(parts)


def machine():
    """Describe the machine in one sentence."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, kernel {os.uname().release}, "
        f"Python {platform.python_version()}."
    )


def profiles_of(systems, records, options):
    """Profile the rows farthest below their floors; one that cannot be watched says why."""
    found = {
        system.key: figures.medians([r["rates"] for r in records if r["key"] == system.key])
        for system in systems
    }
    rows = figures.worst(found, options.profiles)
    sections = []
    cluster = systems[0]
    try:
        mount = cluster.start() if rows else None
        for row in rows:
            print(f"watching {row}", file=sys.stderr, flush=True)
            try:
                sections.append(profile(row, cluster, mount, options.profile_scale))
            except (RuntimeError, subprocess.SubprocessError) as error:
                sections.append(f"### {row}\n\nNot watched: {error}\n")
    finally:
        cluster.stop()
    return sections


def write(text, options):
    """Put the section of figures into the page."""
    old = options.output.read_text() if options.output.exists() else "# Benchmarks\n"
    options.output.write_text(figures.between(old, BEGIN, END, text))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, default=Path(".state"))
    parser.add_argument("--mount", type=Path, default=Path("mnt"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows, by commas; those they need run too")
    default = "gluster" if gluster.installed() else ""
    parser.add_argument("--peers", default=default, help=f"of {', '.join(PEERS)}")
    parser.add_argument("--profiles", type=int, default=3, help="worst rows to profile")
    parser.add_argument("--profile-scale", type=float, help="default: --scale, at most 0.5")
    parser.add_argument("--runs", type=Path, help="tables of these raw runs; nothing is run")
    parser.add_argument("--output", type=Path, default=TREE / "docs" / "benchmarks.md")
    options = parser.parse_args()
    options.peers = [p for p in options.peers.split(",") if p]
    rows = [r for r in options.only.split(",") if r]
    options.only = figures.with_needs(rows) if rows else []
    options.profile_scale = options.profile_scale or min(options.scale, 0.5)
    for name, known in ((rows, figures.ROWS), (options.peers, PEERS)):
        if unknown := set(name) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return options


def main():
    options = parse()
    own = options.state / "bench"
    own.mkdir(parents=True, exist_ok=True)
    systems = systems_of(options)
    if options.runs:
        records, failed = json.loads(options.runs.read_text()), {}
    else:
        records, failed = run_rounds(systems, options)
        for name in ("local", "pass", "gluster", "moosefs"):
            shutil.rmtree(own / name, ignore_errors=True)
    write(report(systems, records, failed, []), options)
    if options.profiles:
        profiles = profiles_of(systems, records, options)
        write(report(systems, records, failed, profiles), options)
    print(f"written: {options.output}; raw runs: {own / 'runs.json'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
