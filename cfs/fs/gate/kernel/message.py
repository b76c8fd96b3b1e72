"""Requests from bytes, answers to bytes. The layouts of requests are in `opcodes`.

    request  u32 length, u32 opcode, u64 unique, u64 node, u32 uid, u32 gid, u32 pid,
             u16 extensions (in units of eight bytes, at the end), u16 -; then as its row says
    answer   u32 length, i32 error (0 or a negative errno), u64 unique; then, without error, as
             below; `unique` 0 and a positive code instead of the error: a notification

    attr     u64 ino, size, blocks, i64 atime, mtime, ctime (s), u32 atime, mtime, ctime (ns),
             mode, nlink, uid, gid, rdev, block size, flags
    entry    u64 node, generation, entry lifetime, attr lifetime (s), u32 both (ns), attr
    attrs    u64 attr lifetime (s), u32 (ns), u32 -, attr
    dirent   u64 ino, offset, u32 name length, type; name, padded to eight bytes
    direntplus  entry, dirent

Whatever arrives, `decode` gives a request or raises Malformed.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from cfs.core.api.meta import Attr
from cfs.core.errors import Malformed
from cfs.fs.gate.kernel.opcodes import LAYOUTS, SPAN, Opcode

HEADER = Struct("=IIQQIIIHH")
OUT = Struct("=IiQ")
_ATTR = "QQQqqqIIIIIIIIII"
_ENTRY = Struct("=QQQQII" + _ATTR)
_ATTRS = Struct("=QII" + _ATTR)
_DIRENT = Struct("=QQII")
OPEN_OUT = Struct("=QII")
WRITE_OUT = Struct("=II")
STATFS_OUT = Struct("=QQQQQIIII24x")
GETXATTR_OUT = Struct("=II")
LOCK_OUT = Struct("=QQII")
WORD_OUT = Struct("=Q")
FORGET_ONE = Struct("=QQ")
STATX_OUT = Struct("=QII16x IIQIIIHHQQQQ qIi qIi qIi qIi IIII112x")

ENTRY_SIZE = _ENTRY.size
DIRENT_SIZE = _DIRENT.size
BLOCK_SIZE = 1 << 20
"""What `st_blksize` says: the best size of a read or write."""
_NS = 1_000_000_000
_SYMLINK = 0o120000
_TYPE = 0o170000
_HEADER_SIZE = HEADER.size
_WRITE = int(Opcode.WRITE)
_NOTHING: tuple[Any, ...] = ()
_NO_ATTR = (0,) * 16


WRITE_BYTES_MAX = 1 << 20
HEAD_BYTES = HEADER.size + SPAN.size
"""What comes before the bytes of a WRITE."""


class Request:
    """A request; `data` is a view of the buffer it was read into: gone with the next one."""

    __slots__ = ("data", "fields", "gid", "names", "node", "opcode", "pid", "uid", "unique")

    def __init__(self, opcode: int, unique: int, node: int, uid: int, gid: int, pid: int) -> None:
        self.opcode = opcode
        self.unique = unique
        self.node = node
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.fields: tuple[Any, ...] = _NOTHING
        self.names: list[bytes] | tuple[bytes, ...] = _NOTHING
        self.data: memoryview


def decode(buffer: memoryview, count: int, landed: memoryview | None = None) -> Request:
    """Give the request in the first `count` bytes. Raises Malformed.

    `landed`: what of it was read elsewhere, behind the `HEAD_BYTES` in `buffer`. The data of a
    WRITE stay there.
    """
    if count < _HEADER_SIZE:
        raise Malformed(f"a request of {count} bytes")
    length, opcode, unique, node, uid, gid, pid, extensions, _ = HEADER.unpack_from(buffer)
    end = length - 8 * extensions
    if length != count or end < _HEADER_SIZE:
        raise Malformed(f"a request of {count} bytes says {length}", unique=unique)
    request = Request(opcode, unique, node, uid, gid, pid)
    if landed is not None and opcode != _WRITE:
        buffer = memoryview(b"".join((buffer, landed)))
    layout = LAYOUTS.get(opcode)
    at = _HEADER_SIZE
    if layout is not None:
        body, names = layout
        if body is not None:
            if at + body.size > end:
                raise Malformed(f"request {opcode} of {count} bytes", unique=unique)
            request.fields = body.unpack_from(buffer, at)
            at += body.size
        if names:
            parts = bytes(buffer[at:end]).split(b"\0", names)
            if len(parts) <= names:
                raise Malformed(f"request {opcode}: a name does not end", unique=unique)
            request.names = parts
            at = end - len(parts[names])
    if landed is not None and opcode == _WRITE:
        request.data = landed[: end - at]
    else:
        request.data = buffer[at:end]
    return request


def answer(unique: int, body: bytes) -> bytes:
    """Give a whole answer."""
    return OUT.pack(16 + len(body), 0, unique) + body


def head(unique: int, size: int) -> bytes:
    """Give the header of an answer whose body of `size` bytes is written beside it."""
    return OUT.pack(16 + size, 0, unique)


def refusal(unique: int, errno: int) -> bytes:
    """Give an answer that is an error."""
    return OUT.pack(16, -errno, unique)


def _attr(attr: Attr) -> tuple[int, ...]:
    atime, atime_ns = divmod(attr.atime_ns, _NS)
    mtime, mtime_ns = divmod(attr.mtime_ns, _NS)
    ctime, ctime_ns = divmod(attr.ctime_ns, _NS)
    mode = attr.mode
    size = len(attr.target) if mode & _TYPE == _SYMLINK else attr.size
    return (
        attr.ino, size, (attr.allocated + 511) >> 9, atime, mtime, ctime, atime_ns, mtime_ns,
        ctime_ns, mode, attr.nlink, attr.uid, attr.gid, attr.rdev & 0xFFFFFFFF, BLOCK_SIZE, 0,
    )  # fmt: skip


def entry(attr: Attr, entry_s: float, attr_s: float) -> bytes:
    """Encode an entry; lifetimes in seconds."""
    name_whole, attr_whole = int(entry_s), int(attr_s)
    return _ENTRY.pack(
        attr.ino, attr.generation, name_whole, attr_whole, int((entry_s - name_whole) * _NS),
        int((attr_s - attr_whole) * _NS), *_attr(attr),
    )  # fmt: skip


def absence(entry_s: float) -> bytes:
    """Encode that there is no such name; lifetime in seconds."""
    whole = int(entry_s)
    return _ENTRY.pack(0, 0, whole, 0, int((entry_s - whole) * _NS), 0, *_NO_ATTR)


def attributes(attr: Attr, attr_s: float) -> bytes:
    """Encode attributes; lifetime in seconds."""
    whole = int(attr_s)
    return _ATTRS.pack(whole, int((attr_s - whole) * _NS), 0, *_attr(attr))


def dirent(ino: int, cookie: int, kind: int, name: bytes) -> bytes:
    """Encode an entry of READDIR; `kind`: file type bits of a mode."""
    size = len(name)
    return _DIRENT.pack(ino, cookie, size, kind >> 12) + name + bytes(-size & 7)


NO_ENTRY = bytes(ENTRY_SIZE)
"""Before a dirent of READDIRPLUS: the kernel learns no inode from it."""


def statx(attr: Attr, attr_s: float) -> bytes:
    """Encode an answer to STATX: every basic field, and the time of birth."""
    whole = int(attr_s)
    mode, rdev = attr.mode, attr.rdev
    major, minor = (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)
    times = []
    for stamp in (attr.atime_ns, attr.btime_ns, attr.ctime_ns, attr.mtime_ns):
        times += [*divmod(stamp, _NS), 0]
    size = len(attr.target) if mode & _TYPE == _SYMLINK else attr.size
    return STATX_OUT.pack(
        whole, int((attr_s - whole) * _NS), 0, 0xFFF, BLOCK_SIZE, 0, attr.nlink, attr.uid,
        attr.gid, mode, 0, attr.ino, size, (attr.allocated + 511) >> 9, 0, *times, major, minor,
        0, 0,
    )  # fmt: skip
