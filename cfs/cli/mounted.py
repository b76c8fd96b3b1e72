"""Paths on a mounted CFS: what they are inside it, and where snapshots show them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cfs.core.errors import Refused

SNAPSHOTS = ".snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A path on a mount."""

    path: Path
    """Absolute."""
    root: Path
    """The mount point."""

    @property
    def inside(self) -> str:
        """Give the path as the file system sees it, from its own root."""
        inner = self.path.relative_to(self.root)
        return f"/{inner}" if inner.parts else "/"


def place_of(path: Path) -> Place:
    """Find the mount a path is on; the path itself need not exist. Raises Refused."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - a link itself, not where it leads
    there = absolute
    while not os.path.lexists(there):
        there = there.parent
    mounts = [Path(m) for m in _mounts()]
    real = Path(os.path.realpath(there.parent if there.is_symlink() else there))
    root = next((m for m in (real, *real.parents) if m in mounts), None)
    if root is None:
        raise Refused(
            f"{path} is not on a mounted CFS; mount it with 'cfs mount' and name it there"
        )
    inside = (real / there.name if there.is_symlink() else real) / absolute.relative_to(there)
    return Place(path=inside, root=root)


def directory_of(path: Path) -> tuple[int, str]:
    """Give the inode and the inner path of a directory on a mount. Raises Refused."""
    place = place_of(path)
    if not place.path.is_dir():
        raise Refused(f"{path} is not a directory; a snapshot is of a directory and all below it")
    return place.path.stat().st_ino, place.inside


def in_snapshot(place: Place, name: str) -> Path:
    """Give where a snapshot shows a path: by the nearest directory that is still there.

    Raises Refused.
    """
    above = place.path
    while True:
        if above.is_dir() and not above.is_symlink():
            door = above / SNAPSHOTS / name
            if door.is_dir():
                found = door / place.path.relative_to(above)
                if os.path.lexists(found):
                    return found
        if above == place.root:
            raise Refused(
                f"the snapshot {name} does not show {place.inside}; see 'cfs snapshot list'"
            )
        above = above.parent


def _mounts() -> list[str]:
    found: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, more = line.partition(" - ")
        if more.split(" ", 1)[0] == "fuse.cfs":
            point = fields.split(" ")[4]
            found.append(point.encode().decode("unicode_escape"))
    return found
