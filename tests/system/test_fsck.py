"""fsck on a real cluster: what is wrong in the same way on every replica is found and put right."""

import json
import subprocess
import sys

import msgspec

from cfs.core.ids import Ino, group_of, shard_of
from cfs.core.meta import keys
from cfs.core.meta.records import ENTRIES, INODE, Entries
from cfs.fs.kv.lmdb_store import LmdbStore
from cfs.fs.meta.group_record import decode_group, encode_group, meta_key, pack_slot, record_hash
from tests.system.cluster import LENIENT, cfs, until
from tests.system.nodes import stop


def fsck(cluster, *options):
    """Run fsck to its end; give the result of its job and what is open after it."""
    admin = cluster.state / "admin"
    said = cfs("admin", "fsck", *options, "--json", "--dir", admin, timeout=240).stdout
    found = cfs("admin", "findings", "--json", "--dir", admin).stdout
    return json.loads(said.splitlines()[-1]), json.loads(found)["findings"]


def change(directory, group, changes):
    """Change records of a group in a stopped node's state, and the digest it keeps of them."""
    store = LmdbStore(directory)
    try:
        record = decode_group(store.get(meta_key(group)))
        prefix = pack_slot(record.slot)
        total = int.from_bytes(record.digest, "little")
        writes = []
        for key, edit in changes.items():
            old = store.get(prefix + key)
            new = edit(old)
            total -= record_hash(key, old)
            total += 0 if new is None else record_hash(key, new)
            writes.append((prefix + key, new))
        digest = (total % (1 << 128)).to_bytes(16, "little")
        kept = msgspec.structs.replace(record, digest=digest)
        store.write([*writes, (meta_key(group), encode_group(kept))], sync=True)
    finally:
        store.close()


def with_links(count):
    """An edit of an inode record."""
    return lambda old: INODE.encode(msgspec.structs.replace(INODE.decode(old), nlink=count), 0)


def without_name(name):
    """An edit of an entries record."""

    def edit(old):
        left = tuple(s for s in ENTRIES.decode(old).slots if s.name != name)
        return ENTRIES.encode(Entries(left), 0) if left else None

    return edit


def test_a_busy_and_whole_namespace_has_no_faults(cluster):
    tree = cluster.mount / "tree"
    for number in range(40):
        folder = tree / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"x" * number * 1000)
    (tree / "linked").hardlink_to(tree / "d1" / "e1" / "f1")
    (tree / "d2" / "e2" / "f2").rename(tree / "moved")
    (tree / "link").symlink_to("moved")
    churn = subprocess.Popen([sys.executable, "-c", CHURN, str(cluster.mount / "churn")])
    try:
        until((cluster.mount / "churn").exists, seconds=20, what="the churn began")
        result, found = fsck(cluster)
    finally:
        churn.terminate()
        churn.wait()
    assert result["findings"] == 0
    assert found == []


def test_faults_are_found_named_and_put_right(cluster):
    tree = cluster.mount / "tree"
    counted = tree / "linked"
    gone, unnamed = tree / "d3" / "e0" / "f3", tree / "d4" / "e1" / "f4"
    inos = {p: p.stat().st_ino for p in (counted, gone, unnamed, unnamed.parent)}
    cfs("umount", cluster.mount)
    cluster.settle(seconds=20 * LENIENT)
    stop(cluster, *cluster.nodes("meta"))
    changes = {}
    for path, key, edit in (
        (counted, keys.inode(inos[counted]), with_links(7)),
        (gone, keys.inode(inos[gone]), lambda _old: None),
        (unnamed.parent, keys.entries(inos[unnamed.parent], keys.name_hash(b"f4")),
         without_name(b"f4")),
    ):  # fmt: skip
        group = group_of(shard_of(Ino(inos[path])))
        changes.setdefault(group, {})[key] = edit
    for name in cluster.nodes("meta"):
        for group, edits in changes.items():
            change(cluster.state / name / "state", group, edits)
    cluster.up()
    cluster.settle(seconds=20 * LENIENT)
    result, found = fsck(cluster)
    said = {f["what"]: f["detail"] for f in found}
    assert result["findings"] >= 3
    assert "7 links and has 2" in said[f"namespace {inos[counted]} links"]
    assert any(w.startswith(f"namespace {inos[gone]} name") for w in said)
    assert "no name leads to it" in said[f"namespace {inos[unnamed]} lost"]
    _, left = fsck(cluster, "--repair")
    assert counted.stat().st_nlink == 2
    assert not gone.exists()
    kinds = {f["what"].split()[2] for f in left}
    assert kinds <= {"lost", "totals", "allocated"}


CHURN = """
import os, sys
root = sys.argv[1]
os.makedirs(root, exist_ok=True)
for number in range(100000):
    path = f"{root}/{number % 50}"
    with open(path, "wb") as file:
        file.write(b"churn" * number)
    os.rename(path, f"{root}/r{number % 20}")
    if number % 3 == 0:
        os.makedirs(f"{root}/d{number % 11}", exist_ok=True)
    if number % 5 == 0:
        os.unlink(f"{root}/r{number % 20}")
"""
