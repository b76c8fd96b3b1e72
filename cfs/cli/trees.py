"""Two directory trees side by side: what differs, and making one like the other.

Both are on one mounted CFS, so contents are taken over by reference (copy_file_range), not copied.
A file is taken over under another name and then put in its place, so that nobody sees half of one;
one with several names is changed where it is. Doing it again goes on where it was interrupted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cfs.cli.mounted import SNAPSHOTS
from cfs.core.ids import Ino, serial_of, shard_of
from cfs.fs.client.numbers import PAST, of_present

PIECE = 1 << 30
COMPARED = 1 << 20
PARTIAL = ".cfs-taking-over-"
"""Begins the name of a file that is not whole yet."""
_GIVEN_UP = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EACCES})

Same = Callable[[os.stat_result, os.stat_result], bool]


@dataclass(frozen=True, slots=True)
class Change:
    """A difference: `+` only new, `-` only old, `M` other contents, `m` other attributes."""

    kind: str
    path: str


@dataclass(slots=True)
class Done:
    """What was taken over so far."""

    files: int = 0
    directories: int = 0
    removed: int = 0
    unchanged: int = 0
    size: int = 0
    """Bytes of the files."""
    links: dict[int, str] = field(default_factory=dict)
    """Of files with several names: the inode in the source, and one name in the target."""


def identity(number: int) -> tuple[int, int]:
    """Name an inode, of whatever snapshot or none."""
    ino = of_present(number, 0) if number >= PAST else number
    return shard_of(Ino(ino)), serial_of(Ino(ino))


def untouched(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two looks at a file saw the same inode, never changed in between."""
    return (
        identity(one.st_ino) == identity(other.st_ino)
        and (one.st_ctime_ns, one.st_mtime_ns, one.st_size, one.st_nlink)
        == (other.st_ctime_ns, other.st_mtime_ns, other.st_size, other.st_nlink)
    )  # fmt: skip


def alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Tell whether two files agree in size, time and attributes: one was made of the other."""
    return (one.st_mode, one.st_size, one.st_mtime_ns, one.st_uid, one.st_gid) == (
        other.st_mode, other.st_size, other.st_mtime_ns, other.st_uid, other.st_gid,
    )  # fmt: skip


def differences(old: Path, new: Path, inside: str = "") -> Iterator[Change]:
    """Yield what differs between two trees, directory by directory."""
    before, after = _entries(old), _entries(new)
    for name in sorted(before.keys() | after.keys()):
        path = f"{inside}/{name}"
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None and _kind(one) != _kind(other):
            yield from _all(old / name, one, "-", path)
            yield from _all(new / name, other, "+", path)
        elif one is None:
            assert other is not None
            yield from _all(new / name, other, "+", path)
        elif other is None:
            yield from _all(old / name, one, "-", path)
        elif stat.S_ISDIR(one.st_mode):
            if _attributes(one) != _attributes(other):
                yield Change("m", path + "/")
            yield from differences(old / name, new / name, path)
        elif not untouched(one, other):
            attributes_only = (
                identity(one.st_ino) == identity(other.st_ino)
                and (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
            )  # fmt: skip
            if attributes_only or not _equal(old / name, new / name, one, other):
                yield Change("m" if attributes_only else "M", path)


def _equal(old: Path, new: Path, one: os.stat_result, other: os.stat_result) -> bool:
    """Compare what looks alike but is not the same inode untouched: restored, or written anew."""
    if not alike(one, other) or _xattrs(old) != _xattrs(new):
        return False
    if stat.S_ISLNK(one.st_mode):
        return old.readlink() == new.readlink()
    if not stat.S_ISREG(one.st_mode):
        return one.st_rdev == other.st_rdev
    with old.open("rb") as before, new.open("rb") as after:
        while piece := before.read(COMPARED):
            if piece != after.read(COMPARED):
                return False
    return True


def take_over(
    source: Path, target: Path, *, same: Same, remove: bool, done: Done, tell: Callable[[], None]
) -> None:
    """Make `target` what `source` is. With `remove` what is only in the target goes.

    `same` tells what is as it should be and left alone; `tell` is called now and then.
    """
    there = _look(target)
    wanted = source.lstat()
    if there is not None and _kind(there) != _kind(wanted):
        _remove(target, done)
        there = None
    if not stat.S_ISDIR(wanted.st_mode):
        if there is not None and same(wanted, there):
            done.unchanged += 1
            _note(wanted, target, done)
        else:
            _file(source, wanted, target, there, done)
        tell()
        return
    if there is None:
        target.mkdir(0o700)
        done.directories += 1
    before, after = _entries(source), _entries(target)
    for name in sorted(after.keys() - before.keys()):
        if remove or name.startswith(PARTIAL):
            _remove(target / name, done)
            tell()
    for name in sorted(before):
        take_over(source / name, target / name, same=same, remove=remove, done=done, tell=tell)
    _attributes_over(source, wanted, target)


def _file(
    source: Path, wanted: os.stat_result, target: Path, there: os.stat_result | None, done: Done
) -> None:
    done.files += 1
    known = done.links.get(wanted.st_ino)
    if known is not None:
        if there is None or not os.path.samestat(there, os.lstat(known)):
            if there is not None:
                target.unlink()
            os.link(known, target, follow_symlinks=False)
        return
    in_place = (
        there is not None
        and there.st_nlink > 1
        and stat.S_ISREG(wanted.st_mode)
        and identity(there.st_ino) == identity(wanted.st_ino)
    )
    made = target if in_place else target.with_name(PARTIAL + str(os.getpid()))
    if not in_place and os.path.lexists(made):
        made.unlink()
    if stat.S_ISREG(wanted.st_mode):
        _contents(source, made)
        done.size += wanted.st_size
    elif stat.S_ISLNK(wanted.st_mode):
        made.symlink_to(source.readlink())
    else:
        os.mknod(made, wanted.st_mode, wanted.st_rdev)
    _attributes_over(source, wanted, made)
    if not in_place:
        made.replace(target)
    _note(wanted, target, done)


def _contents(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as from_, target.open("wb", buffering=0) as to:
        offset, size = 0, os.fstat(from_.fileno()).st_size
        while offset < size:
            count = os.copy_file_range(
                from_.fileno(), to.fileno(), min(PIECE, size - offset), offset, offset
            )
            if not count:
                break
            offset += count
        os.ftruncate(to.fileno(), size)


def _attributes_over(source: Path, wanted: os.stat_result, target: Path) -> None:
    link = stat.S_ISLNK(wanted.st_mode)
    _try(lambda: os.chown(target, wanted.st_uid, wanted.st_gid, follow_symlinks=False))
    if not link:
        target.chmod(stat.S_IMODE(wanted.st_mode))
    _xattrs_over(source, target)
    times = (wanted.st_atime_ns, wanted.st_mtime_ns)
    os.utime(target, ns=times, follow_symlinks=False)


def _xattrs_over(source: Path, target: Path) -> None:
    before, after = _xattrs(source), _xattrs(target)
    for name in after.keys() - before.keys():
        _try(lambda name=name: os.removexattr(target, name, follow_symlinks=False))  # type: ignore[misc]
    for name, value in before.items():
        if after.get(name) != value:
            _try(lambda n=name, v=value: os.setxattr(target, n, v, follow_symlinks=False))  # type: ignore[misc]


def _xattrs(path: Path) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return {}
        raise
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in names}


def _try(change: Callable[[], None]) -> None:
    """Change what only root may; for others it stays as it came."""
    try:
        change()
    except OSError as error:
        if error.errno not in _GIVEN_UP or os.geteuid() == 0:
            raise


def _note(wanted: os.stat_result, target: Path, done: Done) -> None:
    if wanted.st_nlink > 1:
        done.links[wanted.st_ino] = str(target)


def _remove(path: Path, done: Done) -> None:
    """Remove whatever is there, from below."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
    else:
        for name in _entries(path):
            _remove(path / name, done)
        path.rmdir()
    done.removed += 1


def _all(path: Path, found: os.stat_result, kind: str, inside: str) -> Iterator[Change]:
    if not stat.S_ISDIR(found.st_mode):
        yield Change(kind, inside)
        return
    yield Change(kind, inside + "/")
    for name, below in sorted(_entries(path).items()):
        yield from _all(path / name, below, kind, f"{inside}/{name}")


def _entries(path: Path) -> dict[str, os.stat_result]:
    found: dict[str, os.stat_result] = {}
    with os.scandir(path) as listed:
        for entry in listed:
            if entry.name != SNAPSHOTS:
                try:
                    found[entry.name] = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it went between the two
    return found


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _kind(found: os.stat_result) -> int:
    return stat.S_IFMT(found.st_mode)


def _attributes(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid
