"""What a file knows of its layout after its own commits: never more than is true."""

import itertools

import pytest

from cfs.core.api.meta import Attr, Extent, ExtentKind, Lease
from cfs.core.meta import extents
from cfs.fs.client.file import File
from cfs.fs.client.nodes import Node


def chunk(offset, length):
    return Extent(offset=offset, length=length, kind=ExtentKind.CHUNK, raw=length)


def attributes(size, version):
    return Attr(
        ino=5, mode=0o100644, nlink=1, uid=0, gid=0, size=size, allocated=size, rdev=0, atime_ns=0,
        mtime_ns=0, ctime_ns=0, btime_ns=0, generation=0, version=version, data_version=version,
        parent=1, target=b"",
    )  # fmt: skip


def written(size, known, tiles):
    """A file of `size` committed bytes whose layout is known up to `known`."""
    file = File(Node(5))
    file.node.modes = Lease.READ | Lease.WRITE
    file.take_write(attributes(size, 1))
    file.learn_tiles(tiles, 0, known)
    return file


@pytest.mark.parametrize(
    ("known", "new"),
    [
        (100, [chunk(100, 10), chunk(200, 10)]),  # an append of two runs with a gap between
        (100, [chunk(100, 10), chunk(110, 10)]),
        (100, [chunk(150, 10)]),
        (100, [chunk(20, 10)]),
        (100, [chunk(20, 10), chunk(95, 50), chunk(300, 1)]),
    ],
)
def test_tiles_after_a_commit_are_without_gaps(known, new):
    file = written(known, known, [chunk(0, 60), chunk(60, known - 60)])
    size = max(known, extents.end_of(new))
    file.committed(new, attributes(size, 2))
    expected = extents.overlay([chunk(0, 60), chunk(60, known - 60)], new)
    assert file.known_tiles(0, size) in (None, expected)
    file.committed([chunk(0, 1)], attributes(size, 3))
    tiles = file.known_tiles(0, size)
    if tiles is not None:
        assert all(b.offset == a.offset + a.length for a, b in itertools.pairwise(tiles))


@pytest.mark.parametrize("new", [[chunk(0, 10)], [chunk(64, 10)], [chunk(100, 10)], []])
def test_what_was_never_asked_for_is_not_taken_for_a_hole(new):
    file = written(1000, 64, [chunk(0, 64)])
    file.committed(new, attributes(1000, 2))
    assert file.known_tiles(500, 600) is None


def test_truth_grows_with_appends():
    file = written(0, 0, [])
    for index in range(5):
        file.committed([chunk(index * 10, 10)], attributes(index * 10 + 10, index + 2))
    assert file.known_tiles(0, 50) == [chunk(i * 10, 10) for i in range(5)]
