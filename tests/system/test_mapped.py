"""mmap-write on the real mount: what msync or fsync answered survives, the rest in order or not."""

import mmap
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.system.cluster import cfs, until

PAGE = 4096
OLD, NEW, LATER = b"o", b"n", b"l"
WRITER = textwrap.dedent("""
    import mmap, os, signal, sys
    base, steps = sys.argv[1], sys.argv[2].split()
    fd = os.open(base + "/file", os.O_RDWR)
    map = mmap.mmap(fd, 3 * 4096)
    for step in steps:
        if step == "map": map[100:5000] = b"n" * 4900
        elif step == "later": map[200:300] = b"l" * 100
        elif step == "msync": map.flush()
        elif step == "fsync": os.fsync(fd)
        elif step == "rename": os.rename(base + "/file", base + "/new")
        elif step == "truncate": os.ftruncate(fd, 3 * 4096 + 10)
        elif step == "unlink": os.unlink(base + "/file")
        elif step == "syncdir":
            d = os.open(base, os.O_RDONLY); os.fsync(d); os.close(d)
        print(step, flush=True)
    signal.pause()
""")
CASES = (
    "map", "map msync", "map fsync", "map msync later", "map fsync rename", "map rename fsync",
    "map msync truncate", "truncate map msync", "map unlink", "map msync rename syncdir later",
)  # fmt: skip


@pytest.mark.parametrize("crash", ["client", "servers", "all"])
def test_what_was_synced_through_a_map_is_there(cluster, crash):
    top = cluster.mount / f"mapped-{crash}"
    top.mkdir()
    bases = {case: top / str(number) for number, case in enumerate(CASES)}
    for base in bases.values():
        base.mkdir()
        (base / "file").write_bytes(OLD * 3 * PAGE)
    cfs("sync", top)
    writers = []
    try:
        for case, base in bases.items():
            words = [sys.executable, "-c", WRITER, str(base), case]
            writers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        for case, writer in zip(bases, writers, strict=True):
            for step in case.split():
                assert writer.stdout.readline().strip() == step, case
        if crash == "servers":
            for name in cluster.nodes("meta") + cluster.nodes("storage"):
                cluster.kill(name, signal.SIGKILL)
        else:
            _end(cluster, everything=crash == "all")
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    cluster.up()
    if crash == "servers":
        cfs("sync", top)
    for case, base in bases.items():
        why = judge(case.split(), base, everything=crash == "servers")
        assert why is None, f"{case}, crash of {crash}: {why}"


def _end(cluster, *, everything):
    if everything:
        cluster.kill_all()
    else:
        pid = cluster.pid("client")
        cluster.kill("client", signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), seconds=30, what="the client ends")
    subprocess.run(["umount", "-l", str(cluster.mount)], check=False, capture_output=True)


def judge(steps, base, *, everything):
    """Say what is there and must not be, or is lacking; None when all is well."""
    names = {p.name for p in base.iterdir()}
    named = next((s for s in steps if s in ("rename", "unlink")), None)
    sure = everything or any(s in ("fsync", "syncdir") for s in steps[steps.index(named):]) \
        if named else False  # fmt: skip
    before, after = {"file"}, {"rename": {"new"}, "unlink": set()}.get(named, {"file"})
    if names != after and (sure or names != before):
        return f"names {names}"
    if not names:
        return None
    data = (base / names.pop()).read_bytes()
    if len(data) not in (3 * PAGE, 3 * PAGE + 10):
        return f"{len(data)} bytes"
    synced = everything
    for number, step in enumerate(steps):
        if step in ("msync", "fsync") and "map" in steps[:number]:
            synced = True
    written = set(data[100:5000])
    if synced and OLD[0] in written:
        return "what was synced through the map is lost"
    if everything and "later" in steps and set(data[200:300]) != {LATER[0]}:
        return "the last write through the map is lost"
    if not written <= {OLD[0], NEW[0], LATER[0]}:
        return f"bytes that nobody wrote: {written}"
    if set(data[5000 : 3 * PAGE]) != {OLD[0]} or set(data[:100]) != {OLD[0]}:
        return "bytes beside the write have changed"
    return None


def test_a_private_map_is_nobodys_business(cluster):
    path = cluster.mount / "private"
    path.write_bytes(OLD * PAGE)
    with path.open("r+b") as file, mmap.mmap(
        file.fileno(), PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    ) as mapped:  # fmt: skip
        mapped[:10] = NEW * 10
        mapped.flush()
    assert path.read_bytes() == OLD * PAGE
