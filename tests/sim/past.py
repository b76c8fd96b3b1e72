"""What snapshots show: read at the end, and held against the moment when they were taken."""

from __future__ import annotations

from tests.sim.workload import ROOT, Worker


async def look_back(worker: Worker, snapshot: str, began: float, ended: float) -> None:
    """Read what a snapshot shows, as reads at a moment between `began` and `ended`."""
    files, world = worker.files, worker.world
    top = (await files.lookup(ROOT, b".snapshots")).ino
    top = (await files.lookup(top, snapshot.encode())).ino

    async def path(*names: bytes) -> int:
        ino = top
        for name in names:
            ino = (await files.lookup(ino, name)).ino
        return ino

    for name, base in zip(world.base_names, world.bases, strict=True):
        listed = await worker._listed(await path(name))
        worker.history.saw("tree", "list", (base,), listed, began, ended)
    for n in range(world.plan.files):
        data = await worker._read(await path(b"files", b"f%d" % n))
        worker.history.saw(f"file {n}", "read", (), data, began, ended)
    for n in range(2):
        data = await worker._read(await path(b"swap", b"s%d" % n))
        worker.history.saw(f"swap {n}", "read", (), data, began, ended)
