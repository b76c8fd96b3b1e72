"""Who may do what on real mounts, by real users: bits, groups, access lists, narrowed mounts."""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH116, PTH123, PTH208, PTH211
# system calls are what is tested

import contextlib
import ctypes
import errno
import os
import stat
import sys

import pytest

from tests.system.cluster import cfs, run

ALICE, BOB, CAROL = 20_001, 20_002, 20_003
TEAM = 20_100
_libc = ctypes.CDLL(None, use_errno=True)
_MS_REMOUNT = 32


def refuses(number, call, *arguments, **options):
    with pytest.raises(OSError) as raised:
        call(*arguments, **options)
    assert raised.value.errno == number, errno.errorcode.get(raised.value.errno)


def by(uid, place, code, *, gid=None, groups=()):
    """Run a line of Python as a user in a directory; give the errno it ended with, 0 for none."""
    # the interpreter is started as root, in the directory: neither need be open to everybody
    script = (
        f"import os,sys\nos.umask(0o022);os.setgroups({list(groups)});os.setgid({gid or uid});"
        f"os.setuid({uid})\n"
        f"try:\n    {code}\nexcept OSError as e:\n    sys.exit(e.errno)\n"
    )
    done = run(sys.executable, "-I", "-c", script, cwd=place, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def more(cluster, tmp_path_factory):
    """Give a function that mounts once more, with options."""
    made = []

    def mount(name, *options, role="client"):
        point = tmp_path_factory.mktemp(name) / "mnt"
        point.mkdir()
        directory = cluster.state / f"client-{name}"
        if not directory.exists():
            token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", role)
            words = ("--token", token.stdout.strip(), "--dir", directory, "--name", name)
            cfs("node", "join", *words)
        cfs("mount", "--dir", directory, *options, point)
        made.append(point)
        return point

    yield mount
    for point in made:
        cfs("umount", point, check=False)
        run("umount", "-l", point, check=False)


@pytest.fixture(scope="module")
def other(more):
    return more("other")


@pytest.fixture
def place(cluster, request):
    made = cluster.mount / request.node.name.replace("[", "-").rstrip("]")
    made.mkdir()
    return made


def elsewhere(place, other):
    """The same directory on the other mount."""
    return other / place.name


def test_classes_of_users(place):
    (place / "f").write_bytes(b"x")
    os.chown(place / "f", ALICE, TEAM)
    os.chmod(place / "f", 0o640)
    assert by(ALICE, place, "open('f','r+')") == 0
    assert by(BOB, place, "open('f')", gid=TEAM) == 0
    assert by(BOB, place, "open('f')", groups=[TEAM]) == 0
    assert by(BOB, place, "open('f','r+')", groups=[TEAM]) == errno.EACCES
    assert by(CAROL, place, "open('f')") == errno.EACCES
    assert by(BOB, place, "os.chmod('f',0o777)", groups=[TEAM]) == errno.EPERM
    assert by(BOB, place, "os.utime('f',(1,1))", groups=[TEAM]) == errno.EPERM
    assert by(ALICE, place, f"os.chown('f',{BOB},-1)") == errno.EPERM
    assert by(ALICE, place, f"os.chown('f',-1,{TEAM})", groups=[TEAM]) == 0
    os.chmod(place / "f", 0o666)
    assert by(CAROL, place, "os.utime('f')") == 0
    assert by(CAROL, place, "os.utime('f',(1,1))") == errno.EPERM
    assert by(CAROL, place, "os.truncate('f',0)") == 0


def test_directories_between_two_users_on_two_mounts(place, other):
    there = elsewhere(place, other)
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, ALICE, TEAM)
    os.chmod(shared, 0o2770)
    for number, where in enumerate((place, there)):
        name = f"'shared/a{number}'"
        assert by(ALICE, where, f"os.close(os.open({name},os.O_CREAT))") == 0
        assert by(BOB, where, f"os.rename({name},{name}+'b')", groups=[TEAM]) == 0
        assert by(CAROL, where, "os.listdir('shared')") == errno.EACCES
        assert by(CAROL, where, "os.stat('shared/a0b')") == errno.EACCES
        assert os.stat(shared / f"a{number}b").st_gid == TEAM
    os.chmod(shared, 0o3770)  # seen by the other mount at once
    assert by(BOB, there, "os.unlink('shared/a0b')", groups=[TEAM]) == errno.EPERM
    assert by(ALICE, there, "os.unlink('shared/a0b')", groups=[TEAM]) == 0
    os.chmod(shared, 0o3700)
    assert by(BOB, there, "os.listdir('shared')", groups=[TEAM]) == errno.EACCES


def acl(path):
    return run("getfacl", "-ncp", path).stdout.split()


def test_access_lists(place, other):
    there = elsewhere(place, other)
    (place / "f").write_bytes(b"secret")
    os.chmod(place / "f", 0o600)
    assert by(BOB, there, "open('f')") == errno.EACCES
    run("setfacl", "-m", f"u:{BOB}:rw,g:{TEAM}:r", place / "f")
    assert stat.S_IMODE(os.stat(there / "f").st_mode) == 0o660
    assert by(BOB, there, "open('f','r+')") == 0
    assert by(BOB, place, "open('f','r+')") == 0
    assert by(CAROL, there, "open('f')", groups=[TEAM]) == 0
    assert by(CAROL, there, "open('f','r+')", groups=[TEAM]) == errno.EACCES
    assert by(CAROL, there, "open('f')") == errno.EACCES
    os.chmod(place / "f", 0o640)  # the mask
    assert by(BOB, there, "open('f','r+')") == errno.EACCES
    assert by(BOB, there, "open('f')") == 0
    assert f"user:{BOB}:rw-" in acl(there / "f")
    assert "mask::r--" in acl(there / "f")
    assert by(BOB, place, "os.setxattr('f','system.posix_acl_access',b'')") == errno.EPERM
    run("setfacl", "-b", there / "f")
    assert by(BOB, place, "open('f')") == errno.EACCES
    assert acl(place / "f") == ["user::rw-", "group::---", "other::---"]
    assert not os.listxattr(place / "f")
    refuses(
        errno.EACCES,
        os.setxattr,
        place / "f",
        "system.posix_acl_default",
        bytes.fromhex("02000000 0100 0700 ffffffff 0400 0500 ffffffff 2000 0500 ffffffff"),
    )


def test_default_access_lists_are_inherited(place, other):
    there = elsewhere(place, other)
    run("setfacl", "-d", "-m", f"u::rwx,g::rwx,o::r,u:{BOB}:rwx,m::rwx", there)
    for where, name in ((place, "a"), (there, "b")):
        code = f"os.umask(0o077);os.close(os.open('{name}',os.O_CREAT|os.O_WRONLY,0o666))"
        assert by(0, where, code) == 0
        assert by(0, where, f"os.umask(0o077);os.mkdir('{name}.d')") == 0
        assert stat.S_IMODE(os.stat(place / name).st_mode) == 0o664
        assert f"user:{BOB}:rwx" in acl(there / name)
        assert "mask::rw-" in acl(place / name)
        assert acl(place / f"{name}.d") == acl(place / "a.d")
    assert by(BOB, there, "os.close(os.open('a.d/deep',os.O_CREAT))") == 0
    assert f"user:{BOB}:rwx" in acl(place / "a.d" / "deep")
    os.symlink("a", place / "l")
    assert stat.S_IMODE(os.lstat(place / "l").st_mode) == 0o777
    run("setfacl", "-k", place)
    (place / "plain").write_bytes(b"")
    assert acl(place / "plain") == ["user::rw-", "group::r--", "other::r--"]


def test_directories_of_other_shards_inherit_too(cluster):
    run("setfacl", "-d", "-m", f"u:{BOB}:rx", cluster.mount)
    os.chmod(cluster.mount, 0o2755)
    os.chown(cluster.mount, 0, TEAM)
    try:
        for number in range(16):  # spread over all shards
            made = cluster.mount / f"inherits{number}"
            made.mkdir()
            assert f"default:user:{BOB}:r-x" in acl(made)
            assert os.stat(made).st_gid == TEAM
            assert os.stat(made).st_mode & stat.S_ISGID
            assert by(CAROL, cluster.mount, f"os.rmdir('inherits{number}')") == errno.EACCES
            made.rmdir()
        assert by(CAROL, cluster.mount, "os.mkdir('not')") == errno.EACCES
    finally:
        run("setfacl", "-bk", cluster.mount)
        os.chown(cluster.mount, 0, 0)
        os.chmod(cluster.mount, 0o755)


def test_copies_keep_access_lists(place, tmp_path):
    source = place / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_bytes(b"x")
    run("setfacl", "-R", "-m", f"u:{BOB}:rwX,g:{TEAM}:r", source)
    run("setfacl", "-d", "-m", f"u:{BOB}:rx", source)
    run("cp", "-a", source, place / "cp")
    run("rsync", "-aA", f"{source}/", f"{place}/rsync/")
    run("tar", "--acls", "-C", place, "-cf", tmp_path / "t.tar", "source")
    (place / "tar").mkdir()
    run("tar", "--acls", "-C", place / "tar", "-xf", tmp_path / "t.tar")
    for copy in (place / "cp", place / "rsync", place / "tar" / "source"):
        for name in (".", "sub", "sub/f"):
            assert acl(copy / name) == acl(source / name), (copy, name)
    assert f"user:{BOB}:rw-" in acl(source / "sub" / "f")


def test_namespaces_of_extended_attributes(place):
    (place / "f").write_bytes(b"")
    os.chmod(place / "f", 0o604)
    os.symlink("f", place / "l")
    os.setxattr(place / "f", "user.a", b"1")
    os.setxattr(place / "f", "trusted.a", b"1")
    assert sorted(os.listxattr(place / "f")) == ["trusted.a", "user.a"]
    assert by(BOB, place, "os.getxattr('f','user.a')") == 0
    assert by(BOB, place, "os.setxattr('f','user.a',b'')") == errno.EACCES
    assert by(BOB, place, "os.getxattr('f','trusted.a')") == errno.ENODATA
    assert by(BOB, place, "sys.exit(os.listxattr('f')!=['user.a'])") == 0
    refuses(errno.EOPNOTSUPP, os.setxattr, place / "f", "nonsense", b"")
    refuses(errno.EPERM, os.setxattr, place / "l", "user.a", b"", follow_symlinks=False)
    os.chmod(place / "f", 0o600)
    assert by(BOB, place, "os.getxattr('f','user.a')") == errno.EACCES


def test_a_squashed_root_is_nobody(place, more):
    squashed = more("squashed", "--root-squash") / place.name
    (place / "secret").write_bytes(b"x")
    os.chmod(place / "secret", 0o600)
    (place / "closed").mkdir(mode=0o700)
    (place / "closed" / "in").write_bytes(b"x")
    (place / "open").mkdir()
    os.chmod(place / "open", 0o777)
    refuses(errno.EACCES, open, squashed / "secret")
    refuses(errno.EACCES, os.truncate, squashed / "secret", 0)
    refuses(errno.EPERM, os.chmod, squashed / "secret", 0o666)
    refuses(errno.EPERM, os.chown, squashed / "secret", 0, 0)
    refuses(errno.EACCES, os.unlink, squashed / "secret")
    refuses(errno.EACCES, os.rename, squashed / "secret", squashed / "open" / "s")
    refuses(errno.EACCES, os.listdir, squashed / "closed")
    refuses(errno.EACCES, os.stat, squashed / "closed" / "in")
    refuses(errno.EPERM, os.mknod, squashed / "open" / "dev", stat.S_IFCHR | 0o666, 259)
    refuses(errno.EPERM, os.setxattr, squashed / "open", "trusted.a", b"")
    (squashed / "open" / "mine").write_bytes(b"mine")
    made = os.stat(place / "open" / "mine")
    assert (made.st_uid, made.st_gid) == (65534, 65534)
    refuses(errno.EPERM, os.chown, squashed / "open" / "mine", 0, 0)
    os.chmod(place / "open" / "mine", 0o4755)
    (squashed / "open" / "mine").write_bytes(b"written")
    assert stat.S_IMODE(os.stat(place / "open" / "mine").st_mode) == 0o755
    assert (place / "secret").read_bytes() == b"x"
    assert by(ALICE, squashed, "os.mkdir('open/d')") == 0  # others are who they are


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("handle", ctypes.c_ubyte * 64))


def open_by_number(mount, path):
    """open_by_handle_at(2) on a mount, by the handle that another mount gave; its errno."""
    handle, number = _Handle(bytes=64), ctypes.c_int()
    done = _libc.name_to_handle_at(
        -100, os.fsencode(path), ctypes.byref(handle), ctypes.byref(number), 0
    )
    assert done == 0, os.strerror(ctypes.get_errno())
    root = os.open(mount, os.O_RDONLY)
    try:
        fd = _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
        if fd >= 0:
            os.close(fd)
        return ctypes.get_errno() if fd < 0 else 0
    finally:
        os.close(root)


def test_a_mount_of_a_sub_directory(place, more):
    root = place / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "f").write_bytes(b"in")
    (place / "outside").write_bytes(b"out")
    os.symlink("../outside", root / "way-out")
    mount = more("sub", "--subdir", f"/{place.name}/root")
    assert os.stat(mount).st_ino == os.stat(root).st_ino
    assert sorted(os.listdir(mount)) == ["f", "sub", "way-out"]
    assert (mount / "f").read_bytes() == b"in"
    assert "outside" not in os.listdir(mount / "sub" / "..")
    refuses(errno.ENOENT, os.stat, mount / "way-out")
    (mount / "new").write_bytes(b"new")
    assert (root / "new").read_bytes() == b"new"
    (root / "back").write_bytes(b"back")
    assert (mount / "back").read_bytes() == b"back"
    os.rename(mount / "sub" / "deep", mount / "deep")
    os.rename(mount / "deep", mount / "sub" / "deep")
    os.link(mount / "f", mount / "g")
    assert os.stat(root / "f").st_nlink == 2
    os.chmod(root, 0o700)
    assert stat.S_IMODE(os.stat(mount).st_mode) == 0o700
    os.chmod(mount, 0o755)
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o755
    for outside in (place / "outside", place):
        assert open_by_number(place, outside) == 0
        assert open_by_number(mount, outside) == errno.ESTALE


def test_a_narrowed_mount_stays_so_under_a_new_daemon(place, more):
    (place / "root").mkdir()
    (place / "root" / "f").write_bytes(b"in")
    os.chmod(place / "root" / "f", 0o600)
    (place / "outside").write_bytes(b"out")
    mount = more("handed", "--subdir", f"/{place.name}/root", "--root-squash")
    os.rename(place / "root", place / "moved")
    cfs("remount", mount)
    assert os.listdir(mount) == ["f"]
    refuses(errno.EACCES, open, mount / "f")
    assert open_by_number(mount, place / "outside") == errno.ESTALE
    (place / "moved" / "g").write_bytes(b"")
    assert sorted(os.listdir(mount)) == ["f", "g"]


def test_a_sub_directory_that_is_not_there_is_said(cluster, more, tmp_path):
    del more
    directory = cluster.state / "client-absent"
    token = cfs("node", "token", "--dir", cluster.state / "admin", "--role", "client")
    words = ("--token", token.stdout.strip(), "--dir", directory, "--name", "absent")
    cfs("node", "join", *words)
    done = cfs("mount", "--dir", directory, "--subdir", "/none", tmp_path, check=False)
    assert done.returncode
    assert "--subdir /none: No such file or directory" in done.stderr + done.stdout


@pytest.mark.parametrize("binding", ["kernel", "pyfuse3"])
def test_a_read_only_mount_refuses_every_change(place, more, binding):
    (place / "f").write_bytes(b"x")
    (place / "d").mkdir()
    point = more(f"ro-{binding}", "--binding", binding, "--read-only")
    mount = point / place.name
    for lifted in (False, True):
        if lifted:
            done = _libc.mount(b"cfs", os.fsencode(point), b"", ctypes.c_ulong(_MS_REMOUNT), None)
            if done:
                break  # this kernel keeps it read-only
        for change in (
            lambda: os.mkdir(mount / "n"),
            lambda: os.mknod(mount / "n"),
            lambda: os.symlink("t", mount / "n"),
            lambda: os.link(mount / "f", mount / "n"),
            lambda: os.rename(mount / "f", mount / "n"),
            lambda: os.unlink(mount / "f"),
            lambda: os.rmdir(mount / "d"),
            lambda: os.chmod(mount / "f", 0o600),
            lambda: os.chown(mount / "f", 1, 1),
            lambda: os.utime(mount / "f"),
            lambda: os.truncate(mount / "f", 0),
            lambda: os.setxattr(mount / "f", "user.a", b""),
            lambda: open(mount / "f", "r+").close(),
            lambda: open(mount / "n", "w").close(),
        ):
            refuses(errno.EROFS, change)
    assert (mount / "f").read_bytes() == b"x"
    assert os.listdir(mount / "d") == []
    with contextlib.suppress(FileNotFoundError):
        assert os.listxattr(mount / "f") == []


WRITE_AROUND = """
import os, sys, trio
from pathlib import Path
from cfs.cli.client_node import open_files
from cfs.core.errors import FsError
async def main():
    async with open_files(Path(sys.argv[1])) as files:
        print(await files.read_file(sys.argv[2]))
        try:
            await files.write_file(sys.argv[2], b"changed")
        except FsError as error:
            print(error, flush=True)
        os._exit(0)  # whoever goes around the mount need not take its leave either
trio.run(main)
"""


def test_a_reader_changes_nothing_whatever_it_is_told(place, cluster, more):
    """Not its mount refuses it only, but the shards."""
    (place / "f").write_bytes(b"first")
    point = more("reader", role="reader")
    mount = point / place.name
    with open(mount / "f") as held:
        refuses(errno.EROFS, os.unlink, mount / "f")
        refuses(errno.EROFS, open, mount / "f", "r+")
        (place / "f").write_bytes(b"second")
        assert (mount / "f").read_bytes() == b"second"
        os.unlink(place / "f")
        assert os.listdir(mount) == []
        assert held.read() == "second"
    (place / "f").write_bytes(b"third")
    cfs("umount", point)
    directory = cluster.state / "client-reader"
    done = run(sys.executable, "-c", WRITE_AROUND, directory, f"/{place.name}/f")
    assert "b'third'" in done.stdout
    assert "lets it only read" in done.stdout
    assert (place / "f").read_bytes() == b"third"
    done = cfs("mount", "--dir", directory, "--exclusive", point, check=False)
    assert done.returncode
    assert "may only read" in done.stderr + done.stdout
