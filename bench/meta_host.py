"""Propose latency and throughput of three hosts in one process, on a real disk.

    python -m bench.meta_host [directory]

Prints, beside the figures, what one append and sync of the same size costs here, as a yardstick.
All three nodes share one event loop, so a proposal pays the processor work of three replicas.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import trio

from cfs.core.raft.settings import Settings
from cfs.fs.disk.real import RealDirectory
from tests.unit.fs.meta.host_cluster import running

COMMAND = b"key%d=" + b"v" * 300


def report(name: str, times: list[float], elapsed: float) -> None:
    ranked = sorted(times)
    print(
        f"{name:32} {len(times) / elapsed:8.0f}/s  p50 {statistics.median(ranked) * 1e3:7.3f} ms"
        f"  p99 {ranked[int(len(ranked) * 0.99)] * 1e3:7.3f} ms"
    )


def measure_disk(path: Path) -> None:
    file = RealDirectory(path).open("probe", create=True)
    times = []
    started = time.perf_counter()
    for _ in range(200):
        before = time.perf_counter()
        file.append([bytes(400)])
        file.sync()
        times.append(time.perf_counter() - before)
    report("append+fdatasync, 400 bytes", times, time.perf_counter() - started)


async def measure(path: Path) -> None:
    async with running(path, disk=RealDirectory, settings=Settings()) as (cluster, _):
        leader = await cluster.leader()
        for parallel, count in ((1, 300), (64, 6000), (256, 12000)):
            times: list[float] = []

            async def client(number: int, rounds: int, times: list[float] = times) -> None:
                for step in range(rounds):
                    before = time.perf_counter()
                    await leader.propose(COMMAND % (number * 100000 + step))
                    times.append(time.perf_counter() - before)

            started = time.perf_counter()
            busy = time.process_time()
            async with trio.open_nursery() as nursery:
                for number in range(parallel):
                    nursery.start_soon(client, number, count // parallel)
            elapsed = time.perf_counter() - started
            report(f"propose, {parallel} clients", times, elapsed)
            busy = time.process_time() - busy
            print(f"{'':32} {busy / len(times) * 1e6:8.0f} us of processor a proposal, 3 replicas")
        reads = 20000
        before = time.perf_counter()
        for _ in range(reads):
            await leader.read_barrier()
        each_us = (time.perf_counter() - before) / reads * 1e6
        print(f"{'read_barrier under the lease':32} {each_us:8.2f} us")


def main() -> None:
    path = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else "."))
    try:
        measure_disk(path / "probe")
        trio.run(measure, path)
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
