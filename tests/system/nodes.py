"""What tests do to single nodes of a cluster: settings, restarts, what lies on their disks."""

import os
import random
import re
import signal
from pathlib import Path

from tests.system.cluster import LENIENT, cfs, full, until


def configure(cluster, name, section, **values):
    """Set keys of a section in a node's cfs.toml; a restart makes them count."""
    path = cluster.state / name / "cfs.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in values.items())
    text = path.read_text()
    head = f"[{section}]\n"
    path.write_text(text.replace(head, head + lines) if head in text else f"{text}\n{head}{lines}")


def pack_soon(cluster):
    """Have small files packed after a second instead of twenty; restarts the metadata nodes."""
    metas = cluster.nodes("meta")
    for name in metas:
        configure(cluster, name, "meta", pack_after_s=1)
    stop(cluster, *metas)
    cluster.up()


def stop(cluster, *names):
    """End nodes politely, and see them gone."""
    for name in names:
        cluster.kill(name, signal.SIGTERM)
    for name in names:
        until(lambda name=name: not runs(cluster, name), seconds=60, what=f"{name} ends")


def runs(cluster, name):
    """Tell whether a node's process runs."""
    pid = cluster.pid(name)
    try:
        return bool(pid) and b"cfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def remount(cluster):
    """Unmount and mount again: no cache of client or kernel outlives that."""
    cfs("umount", cluster.mount)
    cluster.up()


def volumes(cluster, name):
    """Paths of a storage node's volume logs."""
    return sorted((cluster.state / name / "disk").glob("*.volume"))


def allocated(cluster):
    """Bytes of blocks that all volume logs occupy."""
    paths = [p for name in cluster.nodes("storage") for p in volumes(cluster, name)]
    return sum(path.stat().st_blocks * 512 for path in paths)


def flip(path, *, every, seed):
    """Change about one byte in `every` of the data of a file; give how many."""
    chance = random.Random(seed)
    count = 0
    with path.open("r+b", buffering=0) as file:
        for start, end in _data_ranges(file.fileno()):
            at = start + chance.randrange(every)
            while at < end:
                old = os.pread(file.fileno(), 1, at)
                os.pwrite(file.fileno(), bytes([old[0] ^ chance.randrange(1, 256)]), at)
                count += 1
                at += chance.randrange(1, 2 * every)
    return count


def _data_ranges(descriptor):
    size = os.fstat(descriptor).st_size
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, at


def find_bytes(directory, needles):
    """Give which of the needles occur in which file below a directory, names included."""
    pattern = re.compile(b"|".join(re.escape(n) for n in needles))
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    matches = ((p, pattern.search(os.fsencode(p.name) + b"\n" + p.read_bytes())) for p in files)
    return [(path, match[0]) for path, match in matches if match]


def storage_status(status, name):
    """The store part of a storage node's last heartbeat."""
    node = next(n for n in status["nodes"] if n["name"] == name)
    return node["heartbeat"]["store"]


def settle(cluster, logical=0):
    """Wait until `logical` bytes are known and no small file is left in the metadata store.

    What this mount wrote is brought to the servers first. Gives the status' bytes.
    """
    cfs("sync", cluster.mount)

    def settled():
        found = cluster.status()["bytes"]
        return found if not found["inline"] and found["logical"] >= logical else None

    return until(settled, seconds=full(120, 30) * LENIENT, what="small files get into segments")


def write_tree(root, *, seed, small, medium, large_bytes):
    """Make a tree of small, medium and one large file; give what is in it, by relative path."""
    chance = random.Random(seed)
    tree = {}
    for number in range(small):
        size = chance.randrange(1, 12_000)
        word = chance.randbytes(8).hex().encode()
        plain = number % 2 and b" ".join([word] * (size // 17 + 1))[:size]
        tree[f"d{number % 10}/small-{number}"] = plain or chance.randbytes(size)
    for number in range(medium):
        tree[f"medium-{number}"] = chance.randbytes(chance.randrange(50_000, 400_000))
    pieces = [chance.randbytes(1 << 20) for _ in range(large_bytes >> 20)]  # not 256 MiB at once
    tree["large"] = b"".join(pieces)
    copy_tree(tree, root)
    return tree


def copy_tree(tree, root):
    """Write a tree's content below a directory."""
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def assert_same(tree, root):
    """Every file below `root` has exactly its content."""
    wrong = [name for name, content in tree.items() if (root / name).read_bytes() != content]
    assert not wrong
