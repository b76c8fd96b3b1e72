"""One suite against both FUSE bindings: what a mount does must not depend on which serves it."""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH115, PTH116, PTH208, PTH211, ISC004
# system calls are what is tested

import contextlib
import errno
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.cluster import cfs, full, run, until

BINDINGS = ("kernel", "pyfuse3")
ENTRIES = full(3000, 1500)


@pytest.fixture(scope="module", params=BINDINGS)
def mount(request, cluster, tmp_path_factory):
    """A mount of its own through one binding."""
    point = tmp_path_factory.mktemp(request.param) / "mnt"
    point.mkdir()
    directory = cluster.state / f"client-{request.param}"
    token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
    cfs(
        "node", "join", "--token", token.stdout.strip(), "--dir", directory, "--name", request.param
    )
    cfs("mount", "--dir", directory, "--binding", request.param, point)
    yield point
    cfs("umount", point, check=False)
    run("umount", "-l", point, check=False)


@pytest.fixture
def place(mount, request):
    """A directory of its own for each test."""
    made = mount / f"{mount.parent.name}-{request.node.name.split('[')[0]}"
    made.mkdir()
    return made


def refuses(number, call, *arguments, **options):
    with pytest.raises(OSError) as raised:
        call(*arguments, **options)
    assert raised.value.errno == number, errno.errorcode.get(raised.value.errno)


def mounts():
    """Mount points; unlike `os.path.ismount` dead ones too."""
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}


def renameat2(old, new, flags):
    """renameat2(2), which Python does not offer."""
    script = (
        "import ctypes,os,sys;l=ctypes.CDLL(None,use_errno=True);"
        "r=l.renameat2(-100,os.fsencode(sys.argv[1]),-100,os.fsencode(sys.argv[2]),int(sys.argv[3]));"
        "sys.exit(ctypes.get_errno() if r else 0)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, old, new, str(flags)], check=False, timeout=30
    ).returncode


def test_names(place):
    refuses(errno.ENOENT, os.stat, place / "a")
    (place / "a").write_bytes(b"one")
    refuses(errno.EEXIST, os.mkdir, place / "a")
    refuses(errno.ENOTDIR, os.stat, place / "a" / "b")
    refuses(errno.ENAMETOOLONG, os.stat, place / ("n" * 256))
    (place / ("n" * 255)).write_bytes(b"")
    (place / "d").mkdir()
    os.rename(place / "a", place / "d" / "b")
    refuses(errno.ENOENT, os.stat, place / "a")
    refuses(errno.ENOTEMPTY, os.rmdir, place / "d")
    os.link(place / "d" / "b", place / "c")
    assert os.stat(place / "c").st_nlink == 2
    os.unlink(place / "d" / "b")
    assert os.stat(place / "c").st_nlink == 1
    os.rmdir(place / "d")
    assert sorted(os.listdir(place)) == ["c", "n" * 255]
    name = os.fsencode(place) + b"/\xff\xfe bytes"
    Path(os.fsdecode(name)).write_bytes(b"x")
    assert b"\xff\xfe bytes" in os.listdir(os.fsencode(place))


def test_rename2(place):
    for name in ("a", "b"):
        (place / name).write_text(name)
    assert renameat2(place / "a", place / "b", 1) == errno.EEXIST
    assert renameat2(place / "a", place / "b", 2) == 0
    assert ((place / "a").read_text(), (place / "b").read_text()) == ("b", "a")
    assert renameat2(place / "a", place / "new", 1) == 0
    assert renameat2(place / "new", place / "b", 4) == errno.EINVAL


def test_attributes(place):
    path = place / "f"
    path.write_bytes(bytes(5000))
    found = os.stat(path)
    assert (found.st_size, found.st_mode, found.st_nlink) == (5000, stat.S_IFREG | 0o644, 1)
    assert found.st_blocks == 10
    os.chmod(path, 0o4751)
    os.chown(path, 1000, 1001)
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o751)
    os.utime(path, ns=(1_234_567_890_123_456_789, -1_000_000_001))
    found = os.stat(path)
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_234_567_890_123_456_789, -1_000_000_001)
    os.truncate(path, 7_000)
    assert os.stat(path).st_size == 7_000
    assert os.stat(path).st_mtime_ns > 0
    refuses(errno.EISDIR, os.truncate, place, 0)
    assert os.statvfs(place).f_namemax == 255
    assert os.stat(place.parent).st_ino == 1


def test_privileges_end_with_a_change_by_others(place):
    path = place / "f"
    path.write_bytes(b"x")
    os.chmod(place, 0o777)

    def by_nobody(call):
        os.chmod(path, 0o6777)
        # from inside: the directories above are not for everybody
        script = f"import os;os.setgid(65534);os.setuid(65534);p='f';{call}"
        run(sys.executable, "-c", script, cwd=place)
        return stat.S_IMODE(os.stat(path).st_mode)

    assert by_nobody("os.write(os.open(p,os.O_WRONLY),b'y')") == 0o777
    assert by_nobody("os.truncate(p,0)") == 0o777
    assert by_nobody("os.close(os.open(p,os.O_WRONLY|os.O_TRUNC))") == 0o777
    os.chmod(path, 0o6777)
    path.write_bytes(b"root may")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o6777
    capability = bytes.fromhex("0100000200040000 0000000000000000 00000000")
    os.setxattr(path, "security.capability", capability)
    path.write_bytes(b"but not keep capabilities")
    refuses(errno.ENODATA, os.getxattr, path, "security.capability")


def test_extended_attributes(place):
    path = place / "f"
    path.write_bytes(b"")
    refuses(errno.ENODATA, os.getxattr, path, "user.none")
    os.setxattr(path, "user.a", b"one", os.XATTR_CREATE)
    refuses(errno.EEXIST, os.setxattr, path, "user.a", b"", os.XATTR_CREATE)
    refuses(errno.ENODATA, os.setxattr, path, "user.b", b"", os.XATTR_REPLACE)
    os.setxattr(path, "user.b", b"x" * 5000)
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    assert os.getxattr(path, "user.b") == b"x" * 5000
    os.removexattr(path, "user.a")
    assert os.listxattr(path) == ["user.b"]
    refuses(errno.EOPNOTSUPP, os.setxattr, path, "nonsense", b"")
    os.utime(path, (1 << 40, 1 << 40))  # the last moment that is stored is nearer
    assert os.stat(path).st_mtime_ns // 10**9 == ((1 << 63) - 1) // 10**9


def test_data(place):
    path = place / "f"
    big = os.urandom(3 << 20)
    with path.open("wb") as file:
        file.write(big)
        file.seek(5 << 20)
        file.write(b"end")
        file.flush()
        os.fsync(file.fileno())
    expected = big + bytes((5 << 20) - len(big)) + b"end"
    assert path.read_bytes() == expected
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"patched")
    expected = expected[:1000] + b"patched" + expected[1007:]
    assert path.read_bytes() == expected
    path.write_bytes(b"short")  # O_TRUNC
    assert path.read_bytes() == b"short"
    fd = os.open(path, os.O_RDWR | os.O_SYNC)
    os.pwrite(fd, b"S", 0)
    assert os.pread(fd, 10, 0) == b"Short"
    os.close(fd)


def test_append(place):
    path = place / "f"
    fds = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(3)]
    for number in range(60):
        os.write(fds[number % 3], b"%04d\n" % number)
    for fd in fds:
        os.close(fd)
    assert path.read_bytes() == b"".join(b"%04d\n" % n for n in range(60))


def test_open_file_outlives_its_name(place):
    path = place / "f"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before")
    os.unlink(path)
    os.write(fd, b" and after")
    assert os.pread(fd, 100, 0) == b"before and after"
    assert os.fstat(fd).st_nlink == 0
    assert not os.listdir(place)
    os.close(fd)


def test_memory_mapping(place):
    path = place / "f"
    path.write_bytes(bytes(20_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 20_000) as mapped:
        mapped[9_998:10_003] = b"mmap!"
        mapped.flush()
    assert path.read_bytes()[9_998:10_003] == b"mmap!"
    os.truncate(path, 4_096)
    with path.open("rb") as file:
        assert mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[:] == bytes(4_096)


def test_symbolic_links_and_special_files(place):
    os.symlink("there", place / "l")
    assert os.readlink(place / "l") == "there"
    assert os.lstat(place / "l").st_size == 5
    os.symlink("x" * 4095, place / "long")
    assert len(os.readlink(place / "long")) == 4095
    os.mkfifo(place / "fifo")
    assert stat.S_ISFIFO(os.stat(place / "fifo").st_mode)
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.stat(place / "null").st_rdev == os.makedev(1, 3)
    with (place / "null").open("wb") as file:
        file.write(b"gone")
    listening = socket.socket(socket.AF_UNIX)
    old = Path.cwd()
    os.chdir(place)  # a path of a socket is short
    try:
        listening.bind("socket")
    finally:
        os.chdir(old)
        listening.close()
    assert stat.S_ISSOCK(os.stat(place / "socket").st_mode)


def test_listing_while_it_changes(place):
    for number in range(ENTRIES):
        os.close(os.open(place / f"keep{number:05d}", os.O_CREAT | os.O_WRONLY))
    changer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os,sys\n"
            "for i in range(100000):\n"
            "  p=sys.argv[1]+'/new%d'%(i%50)\n"
            "  os.close(os.open(p,os.O_CREAT|os.O_WRONLY)); os.unlink(p)\n",
            place,
        ]
    )
    try:
        for _ in range(4):
            names = [name for name in os.listdir(place) if name.startswith("keep")]
            assert len(names) == len(set(names)) == ENTRIES
            with os.scandir(place) as entries:
                sizes = [e.stat().st_size for e in entries if e.name.startswith("keep")]
            assert sizes == [0] * ENTRIES
    finally:
        changer.kill()
        changer.wait()
    for name in os.listdir(place):
        os.unlink(place / name)
    assert not os.listdir(place)


def test_two_mounts_see_each_other(place, cluster):
    """The other mount is the cluster's own, whatever binding that has."""
    other = cluster.mount / place.relative_to(place.parent)
    for number in range(30):
        (place / "f").write_bytes(b"%d" % number)
        assert (other / "f").read_bytes() == b"%d" % number
        (other / "f").write_bytes(b"back %d" % number)
        assert (place / "f").read_bytes() == b"back %d" % number
        (other / f"n{number}").mkdir()
        assert f"n{number}" in os.listdir(place)
        os.rename(place / f"n{number}", place / f"m{number}")
        assert f"m{number}" in os.listdir(other)
        refuses(errno.ENOENT, os.stat, other / f"n{number}")
        (other / "f").chmod(0o600 + number % 8)
        assert stat.S_IMODE((place / "f").stat().st_mode) == 0o600 + number % 8


def test_names_the_kernel_keeps_end_when_others_change_them(place, cluster):
    other = cluster.mount / place.relative_to(place.parent)
    (place / "here").mkdir()
    old = Path.cwd()
    os.chdir(place / "here")
    try:
        for number in range(full(20, 6)):
            (place / f"a{number}").mkdir()
            (place / f"a{number}" / "f").write_bytes(b"%d" % number)
            for _ in range(3):
                os.stat(place / f"a{number}" / "f")
                refuses(errno.ENOENT, os.stat, place / f"x{number}")
            os.rename(other / f"a{number}", other / f"b{number}")
            refuses(errno.ENOENT, os.stat, place / f"a{number}" / "f")
            assert (place / f"b{number}" / "f").read_bytes() == b"%d" % number
            (other / f"x{number}").write_bytes(b"")
            assert not os.stat(place / f"x{number}").st_size
            os.unlink(other / f"x{number}")
            refuses(errno.ENOENT, os.stat, place / f"x{number}")
        assert Path.cwd() == place / "here"  # what is expired is not thrown away
    finally:
        os.chdir(old)


def test_two_mounts_at_work_in_one_directory_do_not_wait_for_each_other(place, cluster):
    script = (
        "import os,sys\n"
        "for i in range(int(sys.argv[3])):\n"
        "  p=f'{sys.argv[1]}/{sys.argv[2]}{i}'\n"
        "  os.close(os.open(p,os.O_CREAT|os.O_EXCL|os.O_WRONLY)); os.stat(p); os.rename(p,p+'r')\n"
    )
    other = cluster.mount / place.relative_to(place.parent)
    count = full(300, 60)
    working = [
        subprocess.Popen([sys.executable, "-c", script, where, name, str(count)])
        for where, name in ((place, "a"), (other, "b"), (place, "c"), (other, "d"))
    ]
    for process in working:
        assert process.wait(timeout=120) == 0
    expected = sorted(f"{name}{n}r" for name in "abcd" for n in range(count))
    assert sorted(os.listdir(place)) == sorted(os.listdir(other)) == expected


def test_read_only(cluster, tmp_path):
    for binding in BINDINGS:
        point = tmp_path / binding
        point.mkdir()
        directory = cluster.state / f"client-ro-{binding}"
        token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
        cfs(
            "node", "join", "--token", token.stdout.strip(), "--dir", directory,
            "--name", f"ro-{binding}",
        )  # fmt: skip
        cfs("mount", "--dir", directory, "--binding", binding, "--read-only", point)
        try:
            refuses(errno.EROFS, os.mkdir, point / "d")
        finally:
            cfs("umount", point)


def test_a_killed_daemon_leaves_no_dead_mount(cluster, tmp_path):
    point = tmp_path / "mnt"
    point.mkdir()
    directory = cluster.state / "client-killed"
    token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
    cfs("node", "join", "--token", token.stdout.strip(), "--dir", directory, "--name", "killed")
    cfs("mount", "--dir", directory, "--binding", "kernel", point)
    pid = int((directory / "run.pid").read_text().split()[0])
    (point / "synced").write_bytes(b"kept")
    os.kill(pid, signal.SIGKILL)
    until(lambda: str(point) not in mounts(), seconds=10, what="the mount stays")
    assert not os.listdir(point)
    cfs("mount", "--dir", directory, "--binding", "kernel", point)
    (point / "last").write_bytes(b"committed at the end")
    pid = int((directory / "run.pid").read_text().split()[0])
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists(), seconds=30, what="the daemon stays")
    assert str(point) not in mounts()
    assert (cluster.mount / "last").read_bytes() == b"committed at the end"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(cluster.mount / "synced")
