"""The limits of the full system: each is reached, and what is beyond answers its errno."""

import concurrent.futures
import errno
import fcntl
import itertools
import os
import resource
import time

import pytest

from tests.system.cluster import FULL, LENIENT, full, until

TIB = 1 << 40
SIZE_MAX = 16 * TIB
LINKS = 65_000
ENTRIES = full(1_000_000, 3_000)
OPEN_FILES = full(100_000, 3_000)
CONCURRENT = full(1_000, 100)
DENSE_BYTES = full(64 << 30, 640 << 20)
META_GROWTH = full(160 << 20, 64 << 20)
CLIENT_GROWTH = full(96 << 20, 64 << 20)
OPEN_FILE_BYTES = 5 << 10
"""What an open file may cost the client's process, its inode included."""


def refuses(number, call, *arguments, **options):
    with pytest.raises(OSError) as raised:
        call(*arguments, **options)
    assert raised.value.errno == number, errno.errorcode.get(raised.value.errno)


def memory(cluster, prefix):
    return max(cluster.rss_anon(name) for name in cluster.nodes(prefix))


def test_a_file_of_sixteen_tebibytes(cluster):
    path = cluster.mount / "largest"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        assert os.pwrite(fd, b"end", SIZE_MAX - 3) == 3
        assert os.pwrite(fd, b"middle", 5 * TIB + 1) == 6
        os.fsync(fd)
        assert os.fstat(fd).st_size == SIZE_MAX
        assert os.fstat(fd).st_blocks < 100
        assert os.pwrite(fd, b"over the end", SIZE_MAX - 4) == 4, "as much as there is room for"
        refuses(errno.EFBIG, os.pwrite, fd, b"x", SIZE_MAX)
        refuses(errno.EFBIG, os.ftruncate, fd, SIZE_MAX + 1)
        refuses(errno.EFBIG, os.posix_fallocate, fd, SIZE_MAX - 1, 2)
        assert os.pread(fd, 100, SIZE_MAX - 5) == b"\0over"
        assert os.lseek(fd, 0, os.SEEK_DATA) == 5 * TIB + 1
        assert os.lseek(fd, 6 * TIB, os.SEEK_DATA) == SIZE_MAX - 4
        assert os.lseek(fd, 5 * TIB + 1, os.SEEK_HOLE) == 5 * TIB + 7
        os.ftruncate(fd, 5 * TIB + 3)
        assert os.pread(fd, 100, 5 * TIB) == b"\0mi"
        os.ftruncate(fd, SIZE_MAX)
        assert os.pread(fd, 100, 5 * TIB) == b"\0mi" + bytes(97)
    finally:
        os.close(fd)
    appended = os.open(path, os.O_WRONLY | os.O_APPEND)
    refuses(errno.EFBIG, os.write, appended, b"x")
    os.close(appended)
    path.unlink()


def test_extended_attributes_as_large_as_linux_takes_them(cluster):
    path = cluster.mount / "attributed"
    path.touch()
    value = os.urandom(64 << 10)
    os.setxattr(path, "user.large", value)
    assert os.getxattr(path, "user.large") == value
    refuses(errno.E2BIG, os.setxattr, path, "user.larger", value + b"x")
    os.setxattr(path, "user." + "n" * 250, b"v")
    refuses(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"v")
    names = (f"user.{number:03}{'n' * 240}" for number in itertools.count())
    listed = list(itertools.islice(names, 260))
    for name in listed:
        os.setxattr(path, name, b"v")
    with pytest.raises(OSError, match="No space"):
        any(os.setxattr(path, name, b"v") for name in itertools.islice(names, 20))
    assert set(listed) < set(os.listxattr(path)), "what there is can still be listed"
    os.setxattr(path, listed[0], b"another")
    os.removexattr(path, listed[1])
    os.setxattr(path, listed[1], b"again")


def test_as_many_links_as_there_may_be(cluster):
    base = cluster.mount / "linked"
    base.mkdir()
    (base / "0").touch()
    count = full(LINKS, 300)
    for number in range(1, count):
        os.link(base / "0", base / str(number))
    assert (base / "0").stat().st_nlink == count
    if FULL:
        refuses(errno.EMLINK, os.link, base / "0", base / "more")
        (base / "1").unlink()
        os.link(base / "0", base / "1")
    for number in range(count):
        (base / str(number)).unlink()
    base.rmdir()


def test_a_directory_of_very_many_entries(cluster):
    """Made, listed in bounded memory of client and metadata nodes, removed."""
    base = cluster.mount / "many"
    base.mkdir()
    start = time.monotonic()
    for number in range(ENTRIES):
        os.close(os.open(base / f"entry-{number:07}", os.O_CREAT | os.O_WRONLY))
    made_s = time.monotonic() - start
    before = memory(cluster, "meta"), memory(cluster, "client")
    start = time.monotonic()
    with os.scandir(base) as entries:
        count = sum(1 for _ in entries)
    listed_s = time.monotonic() - start
    assert count == ENTRIES
    assert memory(cluster, "meta") - before[0] < META_GROWTH
    assert memory(cluster, "client") - before[1] < CLIENT_GROWTH
    assert listed_s < LENIENT * max(1, ENTRIES / 20_000)
    start = time.monotonic()
    with os.scandir(base) as entries:
        for entry in entries:
            os.unlink(entry.path)  # noqa: PTH108
    base.rmdir()
    removed_s = time.monotonic() - start
    print(f"{ENTRIES} entries: made {made_s:.1f} s, listed {listed_s:.1f}, removed {removed_s:.1f}")


def test_very_many_open_files(cluster):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < OPEN_FILES + 1000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES + 1000, OPEN_FILES + 1000))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES + 1000, hard))
    before = memory(cluster, "client")
    files = []
    try:
        for folder in range(-(-OPEN_FILES // 1000)):
            base = cluster.mount / "open" / str(folder)
            base.mkdir(parents=True)
            for number in range(min(1000, OPEN_FILES - folder * 1000)):
                fd = os.open(base / str(number), os.O_CREAT | os.O_RDWR)
                files.append(fd)
                os.write(fd, b"%d" % len(files))
        grown = memory(cluster, "client") - before
        for index, fd in enumerate(files):
            assert os.pread(fd, 100, 0) == b"%d" % (index + 1)
        print(f"{OPEN_FILES} open files: {grown / OPEN_FILES:.0f} bytes of the client each")
        assert grown < OPEN_FILES * OPEN_FILE_BYTES + (48 << 20)
    finally:
        for fd in files:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def one_worker(base, number):
    """Do one of everything."""
    mine = base / f"w{number}"
    mine.mkdir()
    path = mine / "file"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b"%d" % number * 1000)
        file.flush()
        os.fsync(file.fileno())
    with (base / "log").open("ab", buffering=0) as file:
        file.write(b"%06d\n" % number)
    path.rename(mine / "renamed")
    os.link(mine / "renamed", base / f"linked{number}")
    assert (mine / "renamed").read_bytes() == b"%d" % number * 1000
    os.setxattr(mine / "renamed", "user.number", b"%d" % number)
    (mine / "renamed").unlink()
    mine.rmdir()
    return number


def test_very_many_operations_at_once(cluster):
    base = cluster.mount / "crowd"
    base.mkdir()
    with concurrent.futures.ThreadPoolExecutor(CONCURRENT) as pool:
        futures = [pool.submit(one_worker, base, number) for number in range(CONCURRENT)]
        assert sorted(f.result(timeout=300) for f in futures) == list(range(CONCURRENT))
    lines = (base / "log").read_text().split()
    assert sorted(map(int, lines)) == list(range(CONCURRENT))
    assert len(os.listdir(base)) == CONCURRENT + 1  # noqa: PTH208


def test_a_long_dense_file_is_cut_at_once(cluster):
    """Its pages go in steps; what was cut off never comes back, and room is given back."""
    path = cluster.mount / "dense"
    piece = os.urandom(64 << 20)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, piece, 0)
        os.fsync(fd)
        reached = len(piece)
        while reached < DENSE_BYTES:
            reached += os.copy_file_range(
                fd, fd, min(reached, DENSE_BYTES - reached, 256 << 20), 0, reached
            )
        assert os.fstat(fd).st_size == DENSE_BYTES
        kept = len(piece) - 12_345
        start = time.monotonic()
        os.ftruncate(fd, kept)
        assert time.monotonic() - start < LENIENT
        assert os.fstat(fd).st_blocks * 512 < len(piece) + (1 << 20)
        assert os.pread(fd, 1 << 20, kept - (1 << 20)) == piece[kept - (1 << 20) : kept]
        os.ftruncate(fd, len(piece))
        assert os.pread(fd, 20_000, kept - 1) == piece[kept - 1 : kept] + bytes(12_345)
        os.pwrite(fd, b"new", len(piece) + 5)
        assert os.pread(fd, 100, len(piece)) == bytes(5) + b"new"
        os.fsync(fd)
    finally:
        os.close(fd)
    room = 2 * len(piece)
    until(
        lambda: cluster.status()["bytes"]["logical"] < room,
        seconds=full(300, 60),
        what="what was cut off is trimmed",
    )
    path.unlink()
