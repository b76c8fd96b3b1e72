"""The trash on a mount: what was removed comes back where it was, or goes for good."""

import json
import os
import shutil

import pytest

from tests.system.cluster import LENIENT, cfs, until
from tests.system.test_snapshots import admin, picture


@pytest.fixture
def trash(cluster):
    cfs("trash", "keep", "1h", *admin(cluster))
    yield cluster.mount / ".snapshots" / ".trash"
    cfs("trash", "keep", "none", *admin(cluster))


def lying(top):
    return [e["path"] for e in json.loads(cfs("trash", "list", "--json", top).stdout)]


def test_a_removed_tree_comes_back_as_it_was(cluster, trash):
    top = cluster.mount / "work"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "file").write_bytes(os.urandom(100_000))
    (top / "deep" / "er" / "small").write_text("small")
    os.link(top / "file", top / "deep" / "twin")
    (top / "deep" / "link").symlink_to("er/small")
    (top / "deep").chmod(0o750)
    for path in (top / "file", top / "deep" / "er" / "small"):
        with path.open("rb") as file:  # what no client has committed yet is not in the trash
            os.fsync(file.fileno())
    before = picture(top)
    shutil.rmtree(top)
    assert {"/work", "/work/deep", "/work/deep/er/small"} <= set(lying(cluster.mount))
    cfs("undelete", top)
    after = picture(top)
    missing = before.keys() - after.keys()
    assert missing in ({"file"}, {"deep/twin"}), "a name that was not the last is not kept"
    for name in after:
        if name not in {"file", "deep/twin"}:
            assert after[name][:2] == before[name][:2]
            assert after[name][7] == before[name][7]
    assert lying(top) == []


def test_what_is_thrown_away_is_gone_and_its_space_too(cluster, trash):
    top = cluster.mount / "gone"
    top.mkdir()
    for number in range(5):
        (top / f"f{number}").write_text("x")
        (top / f"f{number}").unlink()
    assert len(lying(top)) == 5
    assert trash not in list(trash.parent.iterdir())
    next(p for p in trash.iterdir() if p.name.endswith(".f0")).unlink()
    assert len(lying(top)) == 4
    cfs("trash", "empty", top)
    assert lying(top) == []
    (top / "late").write_text("x")
    (top / "late").unlink()
    cfs("trash", "keep", "1s", *admin(cluster))
    until(lambda: not lying(top), seconds=20 * LENIENT, what="age empties the trash")
    done = cfs("undelete", top / "late", check=False)
    assert done.returncode
    assert "not in the trash" in done.stderr
