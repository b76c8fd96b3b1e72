"""What people run on a mount: copy, tar, rsync, git, make, SQLite, and every kind of file."""

import contextlib
import mmap
import os
import shutil
import sqlite3
import stat
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.system.cluster import FULL, full, run

STDLIB = Path(sysconfig.get_paths()["stdlib"])
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0")
SOURCE_MAX_S = 1200


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A real tree on the local disk: the standard library and the C headers, or a few packages."""
    base = tmp_path_factory.mktemp("tree") / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages")
    if FULL:
        for number, source in enumerate((STDLIB, "/usr/include", "/usr/lib/python3")):
            shutil.copytree(
                source, base / str(number), symlinks=True,
                ignore=shutil.ignore_patterns("site-packages", "dist-packages"),
            )  # fmt: skip
        assert sum(len(names) for _, _, names in os.walk(base)) >= 8000
    else:
        for name in ("asyncio", "email", "encodings", "json", "unittest", "xml"):
            shutil.copytree(STDLIB / name, base / name, symlinks=True, ignore=ignore)
        (base / "link").symlink_to("json/decoder.py")
        (base / "dangling").symlink_to("nothing/there")
        (base / "empty").mkdir()
        (base / "big").write_bytes(os.urandom(5 << 20))
        os.utime(base / "big", ns=(1, 1_234_567_890_123_456_789))
    yield base
    shutil.rmtree(base, ignore_errors=True)


def same_trees(one, other):
    diff = ("diff", "-r", "--no-dereference", one, other)
    assert run(*diff, timeout=SOURCE_MAX_S).stdout == ""


def test_a_copied_tree_is_the_same_to_diff_and_rsync(cluster, tree):
    copy = cluster.mount / "copy"
    run("cp", "-a", tree, copy, timeout=SOURCE_MAX_S)
    same_trees(tree, copy)
    listing = "find . -printf '%P %y %m %n %U %G %s %T@ %l\\n' | grep -v ' d ' | sort"
    lists = [run("sh", "-c", listing, cwd=c, timeout=SOURCE_MAX_S).stdout for c in (tree, copy)]
    assert lists[0] == lists[1]
    if shutil.which("rsync"):
        compare = ("rsync", "-aHn", "--checksum", "-i", "--delete", f"{tree}/", f"{copy}/")
        assert run(*compare, timeout=SOURCE_MAX_S).stdout == ""


def test_rsync_copies_and_finds_no_difference_afterwards(cluster, tree):
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed")
    source = tree / ("0" if FULL else "email")
    words = ("rsync", "-a", "--checksum", "-i", f"{source}/", f"{cluster.mount}/rsynced/")
    assert run(*words, timeout=SOURCE_MAX_S).stdout
    assert run(*words, timeout=SOURCE_MAX_S).stdout == ""
    same_trees(source, cluster.mount / "rsynced")


def test_tar_out_and_in(cluster, tree):
    source = tree / ("1" if FULL else "json")
    out, archive = cluster.mount / "untarred", cluster.mount / "archive.tar"
    out.mkdir()
    run("tar", "-C", source, "-cf", archive, ".", timeout=SOURCE_MAX_S)
    run("tar", "-C", out, "-xf", archive, timeout=SOURCE_MAX_S)
    same_trees(source, out)
    run("tar", "-C", out, "--compare", "-f", archive, timeout=SOURCE_MAX_S)
    shutil.rmtree(out)
    assert not out.exists()


def test_git(cluster, tree):
    work = cluster.mount / "work"
    shutil.copytree(tree / ("0" if FULL else "email"), work, symlinks=True)

    def git(*words):
        return run(*GIT, *words, cwd=work, timeout=SOURCE_MAX_S).stdout

    git("init", "-q")
    git("add", "--all", "--force")
    git("commit", "-qm", "one")
    changed = sorted(work.rglob("*.py"))[:20]
    for path in changed:
        with path.open("a") as file:
            file.write("\n# changed\n")
    changed[0].rename(changed[0].with_name("renamed.py"))
    git("add", "--all", "--force")
    git("commit", "-qm", "two")
    git("fsck", "--full", "--strict")
    git("gc", "--quiet")
    git("fsck", "--full", "--strict")
    assert git("status", "--porcelain") == ""
    git("checkout", "-q", "HEAD~1")
    assert git("status", "--porcelain") == ""
    clone = cluster.mount / "clone"
    run(*GIT, "clone", "-q", "--no-hardlinks", work, clone, timeout=SOURCE_MAX_S)
    assert run(*GIT, "log", "--oneline", cwd=clone).stdout.count("\n") == 1


def test_make_builds_a_c_program(cluster, tmp_path):
    if not (shutil.which("make") and shutil.which("cc")):
        pytest.skip("make or cc is not installed")
    project = cluster.mount / "project"
    if FULL:
        _fetch_zopfli(project, tmp_path)
    else:
        _write_project(project, modules=6)
    text = run("make", "-j2", cwd=project, timeout=SOURCE_MAX_S).stdout
    assert "cc" in text
    if FULL:
        plain = project / "plain"
        plain.write_bytes(b"compress me " * 1000)
        run("./zopfli", "plain", cwd=project)
        assert run("gzip", "-cd", "plain.gz", cwd=project).stdout.encode() == plain.read_bytes()
    else:
        assert run("./program", cwd=project).stdout == "15\n"
    again = run("make", cwd=project).stdout
    assert " -c" not in again, f"times on the mount make everything look old: {again}"


def _fetch_zopfli(project, tmp_path):
    """Google's zopfli, in C with a Makefile, as its Python binding carries it."""
    pip = (sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps")
    run(*pip, "zopfli==0.4.3", "-d", tmp_path, timeout=300)
    shutil.copytree(_unpacked(tmp_path) / "zopfli", project)


def _unpacked(directory):
    run("tar", "-xf", next(directory.glob("*.tar.gz")), cwd=directory)
    return next(p for p in directory.iterdir() if p.is_dir())


def _write_project(project, modules):
    project.mkdir()
    names = [f"part{i}" for i in range(modules)]
    for number, name in enumerate(names):
        (project / f"{name}.h").write_text(f"int {name}(void);\n")
        body = f'#include <stdio.h>\n#include "{name}.h"\nint {name}(void) {{ return {number}; }}\n'
        (project / f"{name}.c").write_text(body)
    includes = "".join(f'#include "{name}.h"\n' for name in names)
    total = " + ".join(f"{name}()" for name in names)
    main = f'#include <stdio.h>\n{includes}int main(void) {{ printf("%d\\n", {total}); }}\n'
    (project / "main.c").write_text(main)
    objects = " ".join(f"{name}.o" for name in names)
    (project / "Makefile").write_text(
        f"program: main.o libparts.a\n\tcc -o $@ $^\n"
        f"libparts.a: {objects}\n\tar rcs $@ $^\n"
        f"%.o: %.c $(wildcard *.h)\n\tcc -O1 -c -o $@ $<\n"
    )


@pytest.mark.parametrize(("mode", "times"), [("delete", full(10_000, 300)), ("wal", 300)])
def test_sqlite(cluster, mode, times):
    path = cluster.mount / f"{mode}.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=full")
        database.execute("create table t(a integer primary key, b text)")
        for number in range(times):
            database.execute("insert into t values(?, ?)", (number, str(number) * 20))
            if number % 7 == 0:
                database.execute("delete from t where a=?", (number // 2,))
            database.commit()
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        before = database.execute("select * from t").fetchall()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select * from t").fetchall() == before


@pytest.mark.parametrize("seed", range(full(20, 3)))
def test_random_operations_equal_those_on_a_local_file(cluster, tmp_path, seed):
    words = (sys.executable, "-m", "tests.system.fsx", cluster.mount / f"fsx{seed}")
    done = run(
        *words, tmp_path / "local", seed, full(5000, 400), check=False, timeout=full(600, 90)
    )
    assert done.stdout == "equal\n", done.stdout + done.stderr


def test_an_unlinked_file_lives_while_it_is_open(cluster):
    path = cluster.mount / "unlinked"
    with path.open("w+b") as file:
        file.write(b"a" * 300_000)
        file.flush()
        path.unlink()
        assert not path.exists()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"b" * 10)
        os.fsync(file.fileno())
        file.seek(0)
        assert file.read() == b"a" * 300_000 + b"b" * 10
        path.write_bytes(b"another")
        assert os.fstat(file.fileno()).st_size == 300_010
    assert path.read_bytes() == b"another"


def test_a_file_renamed_over_lives_while_it_is_open(cluster):
    old, new = cluster.mount / "over", cluster.mount / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with old.open("rb") as file:
        new.rename(old)
        assert file.read() == b"old"
    assert old.read_bytes() == b"new"


def test_sparse_files(cluster):
    path = cluster.mount / "sparse"
    with path.open("w+b") as file:
        file.seek(5 << 30)
        file.write(b"end")
        file.seek(1 << 20)
        file.write(b"middle")
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
        assert found.st_size == (5 << 30) + 3
        assert found.st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        assert file.read(4096) == bytes(4096)
        file.seek((1 << 20) - 3)
        assert file.read(12) == b"\0\0\0middle\0\0\0"
        file.seek((5 << 30) - 2)
        assert file.read() == b"\0\0end"
    os.truncate(path, 1 << 40)
    assert path.stat().st_size == 1 << 40
    os.truncate(path, 3)
    assert path.read_bytes() == bytes(3)


def test_hard_links(cluster):
    base = cluster.mount / "links"
    (base / "sub").mkdir(parents=True)
    one = base / "one"
    one.write_bytes(b"shared")
    os.link(one, base / "two")
    os.link(one, base / "sub" / "three")
    assert {p.stat().st_ino for p in base.rglob("*") if p.is_file()} == {one.stat().st_ino}
    assert one.stat().st_nlink == 3
    (base / "two").write_bytes(b"changed")
    one.unlink()
    assert (base / "sub" / "three").read_bytes() == b"changed"
    assert (base / "two").stat().st_nlink == 2
    with pytest.raises(FileExistsError):
        os.link(base / "two", base / "sub" / "three")
    with pytest.raises(PermissionError):
        os.link(base / "sub", base / "linked")


def test_symbolic_links_and_special_files(cluster):
    base = cluster.mount / "special"
    base.mkdir()
    (base / "link").symlink_to("a" * 200)
    assert (base / "link").readlink() == Path("a" * 200)
    assert os.lstat(base / "link").st_size == 200
    (base / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        (base / "loop").read_bytes()
    os.mkfifo(base / "fifo", 0o640)
    assert stat.S_ISFIFO((base / "fifo").stat().st_mode)
    ends = [os.open(base / "fifo", os.O_RDWR | os.O_NONBLOCK) for _ in range(2)]
    os.write(ends[0], b"through")
    assert os.read(ends[1], 100) == b"through"
    for end in ends:
        os.close(end)
    os.mknod(base / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    found = (base / "null").stat()
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == os.makedev(1, 3)
    links = {e.name: e.is_symlink() for e in os.scandir(base)}
    assert links == {"link": True, "loop": True, "fifo": False, "null": False}


def test_extended_attributes(cluster):
    path = cluster.mount / "attributed"
    path.touch()
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.big", bytes(range(256)) * 8)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.two", b"2", os.XATTR_REPLACE)
    assert set(os.listxattr(path)) == {"user.one", "user.big"}
    assert os.getxattr(path, "user.big") == bytes(range(256)) * 8
    os.removexattr(path, "user.big")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.big")
    assert os.listxattr(path) == ["user.one"]


def test_times_are_exact_to_the_nanosecond(cluster):
    path = cluster.mount / "timed"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_111_111_111_111_111_111, 999_999_999))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (1_111_111_111_111_111_111, 999_999_999)
    path.chmod(0o600)
    after = path.stat()
    assert after.st_mtime_ns == 999_999_999
    assert after.st_ctime_ns > found.st_ctime_ns
    with path.open("ab") as file:
        file.write(b"y")
    assert path.stat().st_mtime_ns > after.st_ctime_ns


def test_times_of_a_write_stay_when_it_is_stored(cluster):
    """`tar` and `git` take a time that moves later for a change."""
    path = cluster.mount / "stored"
    with path.open("wb") as file:
        file.write(b"x" * 50_000)
        file.flush()
        before = os.fstat(file.fileno())
        os.fsync(file.fileno())
        after = path.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def test_a_written_map_reaches_the_file(cluster):
    path = cluster.mount / "mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[50_000:50_005] = b"hello"
        view.flush()
    assert path.read_bytes()[49_999:50_006] == b"\0hello\0"


def test_a_directory_with_entries_is_not_removed(cluster):
    base = cluster.mount / "full"
    (base / "sub").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        base.rmdir()
    other = cluster.mount / "other"
    other.mkdir()
    with pytest.raises(OSError, match="not empty"):
        other.rename(base)
    with pytest.raises(OSError, match="Invalid"):
        base.rename(base / "sub" / "inside")
    (base / "sub").rmdir()
    base.rmdir()
    assert not base.exists()
