"""Locks and ranges of files on two mounts, through the kernel's own calls."""

# ruff: noqa: PTH123 -- system calls are what is tested

import ctypes
import errno
import fcntl
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time

import pytest

from tests.system.cluster import cfs, full, run, until

ADDS = full(100, 15)
PUNCH_KEEP, ZERO_KEEP, ZERO = 3, 0x11, 0x10
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def pair(cluster, tmp_path_factory):
    """Two mounts through the kernel's protocol, with identities of their own."""
    points = []
    for name in ("locks1", "locks2"):
        point = tmp_path_factory.mktemp(name) / "mnt"
        point.mkdir()
        directory = cluster.state / f"client-{name}"
        token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
        cfs("node", "join", "--token", token.stdout.strip(), "--dir", directory, "--name", name)
        cfs("mount", "--dir", directory, "--binding", "kernel", point)
        points.append(point)
    yield points
    for point in points:
        cfs("umount", point, check=False)
        run("umount", "-l", point, check=False)


@pytest.fixture
def files(pair, request):
    """One file, by its path on each mount."""
    name = request.node.name
    (pair[0] / name).write_bytes(b"")
    return [point / name for point in pair]


def script(*words):
    """Run Python that prints a line for every step."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def fallocate(fd, mode, offset, length):
    done = _LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    if done:
        raise OSError(ctypes.get_errno(), "fallocate")


def ofd(file, kind, *, start=0, length=0):
    packed = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, packed)


def test_byte_ranges_exclude_each_other_across_mounts(files):
    with open(files[0], "r+b") as one, open(files[1], "r+b") as other:
        fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 10)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 15)
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, start, length, _ = struct.unpack(
            "hhqqi4x", fcntl.fcntl(other, fcntl.F_GETLK, asked)
        )
        assert (kind, start, length) == (fcntl.F_WRLCK, 10, 10)
        fcntl.lockf(one, fcntl.LOCK_UN, 5, 12)
        fcntl.lockf(other, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 15)
        fcntl.lockf(other, fcntl.LOCK_UN)
        fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(files[0], "rb"):
            pass  # POSIX: closing any descriptor of the file gives its locks up
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_flocks_and_ofd_locks_go_with_the_last_close(files):
    take = (
        lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda file: ofd(file, fcntl.F_WRLCK),
    )
    for lock in take:
        with open(files[1], "r+b") as other:
            with open(files[0], "r+b") as one:
                lock(one)
                again = os.dup(one.fileno())
                with pytest.raises(BlockingIOError):
                    lock(other)
            with pytest.raises(BlockingIOError):
                lock(other)
            os.close(again)

            def taken(lock=lock, other=other):
                try:
                    lock(other)
                except BlockingIOError:
                    return False
                return True

            until(taken, seconds=5, what="the lock is kept after the last close")


def test_a_blocked_lock_comes_when_the_holder_is_killed_and_goes_on_a_signal(files):
    hold = "import fcntl,sys,time;f=open(sys.argv[1],'r+b');fcntl.{};print('held');time.sleep(60)"
    for lock in ("flock(f,2)", "lockf(f,2)"):
        holder = script(hold.format(lock), files[0])
        assert holder.stdout.readline() == "held\n"
        waiter = script(hold.format(lock), files[1])
        interrupted = script(
            "import fcntl,signal,sys\n"
            "def stop(*_): raise TimeoutError\n"
            "signal.signal(signal.SIGALRM, stop); signal.alarm(1)\n"
            f"f=open(sys.argv[1],'r+b')\ntry: fcntl.{lock}\n"
            "except TimeoutError: print('interrupted')",
            files[0],
        )
        start = time.monotonic()
        assert interrupted.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 10
        interrupted.wait(timeout=10)
        start = time.monotonic()
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
        assert waiter.stdout.readline() == "held\n"
        assert time.monotonic() - start < 10
        waiter.kill()
        waiter.wait(timeout=10)


def test_a_circle_of_two_mounts_is_refused(files):
    want = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+b')\nm,n=map(int,sys.argv[2:])\n"
        "fcntl.lockf(f,2,1,m)\nprint('held')\nsys.stdin.readline()\n"
        "try: fcntl.lockf(f,2,1,n); print('got')\nexcept OSError as e: print(e.errno)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-u", "-c", want, path, str(mine), str(other)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for path, mine, other in ((files[0], 0, 1), (files[1], 1, 0))
    ]  # fmt: skip
    assert [p.stdout.readline() for p in both] == ["held\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=20)[0].strip() for process in both]
    assert sorted(said) == sorted([str(errno.EDEADLK), "got"])


def test_sqlite_counts_right_from_two_mounts(pair):
    path = [point / "counted.db" for point in pair]
    with sqlite3.connect(path[0]) as made:
        made.execute("create table t (n integer)")
        made.execute("insert into t values (0)")
    made.close()
    errors = []

    def add(where):
        try:
            base = sqlite3.connect(where, timeout=60, isolation_level=None)
            for _ in range(ADDS):
                base.execute("begin immediate")
                base.execute("update t set n = n + 1")
                base.execute("commit")
            base.close()
        except sqlite3.Error as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(p,)) for p in path * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not errors
    with sqlite3.connect(path[1]) as seen:
        assert seen.execute("select n from t").fetchone() == (4 * ADDS,)
    seen.close()


def test_holes_are_punched_and_found(files):
    data = random.Random(2).randbytes(300_000)
    with open(files[0], "r+b", buffering=0) as file, open(files[1], "rb", buffering=0) as other:
        file.write(data)
        fallocate(file.fileno(), PUNCH_KEEP, 50_000, 100_000)
        want = bytearray(data)
        want[50_000:150_000] = bytes(100_000)
        assert other.read() == want
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert file.read() == want
        for fd in (file.fileno(), other.fileno()):
            assert os.lseek(fd, 0, os.SEEK_HOLE) == 50_000
            assert os.lseek(fd, 60_000, os.SEEK_DATA) == 150_000
            assert os.lseek(fd, 150_000, os.SEEK_HOLE) == 300_000
        fallocate(file.fileno(), ZERO_KEEP, 290_000, 50_000)
        assert os.fstat(other.fileno()).st_size == 300_000
        fallocate(file.fileno(), ZERO, 290_000, 50_000)
        assert os.fstat(other.fileno()).st_size == 340_000
        os.posix_fallocate(file.fileno(), 0, 400_000)
        assert os.fstat(file.fileno()).st_size == os.fstat(other.fileno()).st_size == 400_000
        want[290_000:] = bytes(110_000)
        os.lseek(other.fileno(), 0, os.SEEK_SET)
        assert other.read() == want
        blocks = os.fstat(other.fileno()).st_blocks
        assert blocks < 400_000 // 512


def test_ranges_are_the_same_bytes_on_both_mounts(files):
    """What one mount writes, punches, extends, cuts and copies, both read."""
    chance = random.Random(8)
    model = bytearray()
    opened = [os.open(path, os.O_RDWR) for path in files]
    for _ in range(full(2000, 250)):
        fd = chance.choice(opened)
        at, length = chance.randrange(200_000), chance.choice((10, 5000, 40_000))
        kind = chance.choice(("write", "write", "punch", "zero", "extend", "cut", "copy", "copy"))
        if kind == "write":
            data = chance.randbytes(length)
            os.pwrite(fd, data, at)
        elif kind == "cut":
            os.ftruncate(fd, at)
            model[at:] = bytes(max(0, at - len(model)))
            continue
        elif kind == "copy":
            start = chance.randrange(200_000)
            if abs(start - at) < length:
                continue
            data = model[start : start + length]
            assert os.copy_file_range(fd, fd, length, start, at) == len(data)
        elif kind == "extend":
            os.posix_fallocate(fd, at, length)
            data = model[at : at + length].ljust(length, b"\0")
        elif kind == "punch":
            fallocate(fd, PUNCH_KEEP, at, length)
            data = bytes(max(0, min(len(model), at + length) - at))
        else:
            fallocate(fd, ZERO, at, length)
            data = bytes(length)
        if data:
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
        for other in opened:
            assert os.fstat(other).st_size == len(model), kind
            assert os.pread(other, len(model) + 1, 0) == model, kind
    for fd in opened:
        os.close(fd)


def test_copies_share_and_read_back(pair, files):
    data = random.Random(3).randbytes(3_000_000)
    files[0].write_bytes(data)
    with open(files[0], "rb") as source, open(pair[0] / "copied", "w+b", buffering=0) as copy:
        copy.write(b"before")
        done = os.copy_file_range(source.fileno(), copy.fileno(), 2_000_000, 1000, 3)
        assert done == 2_000_000
        want = b"bef" + data[1000:2_001_000]
        assert (pair[1] / "copied").read_bytes() == want
        assert os.pread(copy.fileno(), 3_000_000, 0) == want
        assert os.fstat(copy.fileno()).st_size == len(want)


def test_a_file_gets_its_name_late(pair):
    fd = os.open(pair[0], os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"unnamed")
    assert os.fstat(fd).st_nlink == 0
    where = os.open(pair[0], os.O_RDONLY)
    # with a directory Python follows the link, as linkat(2) is to do here
    os.link(f"/proc/self/fd/{fd}", pair[0] / "late", src_dir_fd=where)
    os.close(where)
    assert (pair[1] / "late").read_bytes() == b"unnamed"
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
