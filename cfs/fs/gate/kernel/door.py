"""The way by which a daemon gives its live mount to another process: a socket in its directory.

The taker connects and says what it understands. The daemon stops reading requests, settles those
under way, and sends the state (`State`), with the descriptors of /dev/fuse and of the guard's pipe.
The taker confirms; the daemon closes the socket, which is the taker's sign to begin, and ends.
Up to the confirmation either may fail, and the daemon goes on.

    message   u32 length, then msgpack; descriptors come with the length
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any, TypeVar

import msgspec
import structlog
import trio

from cfs.core.errors import CfsError, Refused
from cfs.fs.client.handover import Handed

_LOG = structlog.get_logger()

SOCKET = "mount.sock"
FORMAT = 1
"""Of `State`; a taker of another format is refused, the mount goes on."""
STATE_BYTES_MAX = 1 << 30
ANSWER_S = 30.0
"""What the taker may take to confirm."""
PATIENCE_S = 90.0
"""What the daemon may take to settle and commit."""
_LENGTH = Struct("=I")
_T = TypeVar("_T")


class State(msgspec.Struct, frozen=True, array_like=True):
    """A mount between two daemons."""

    files: Handed
    agreed: int
    """Flags of INIT."""
    counts: dict[int, int]
    """How often the kernel was given an inode and has not forgotten it."""
    tainted: tuple[int, ...]
    """Inodes whose pages must go before the kernel is given attributes."""
    root: int = 1
    """Inode of the mount's root, whatever its path is by now."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """What the taker says first."""

    format: int


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the daemon says: a state, or why there is none."""

    state: State | None = None
    refused: str = ""


class Taken(msgspec.Struct, frozen=True):
    """What a taker has got."""

    state: State
    device: int
    guard: int | None


class Door:
    """The daemon's side."""

    def __init__(self, directory: Path, leave: Callable[[Callable[[], None]], None]) -> None:
        self._directory = directory
        self._leave = leave
        """Ends this process at once, calling what it is given right before: its threads may wait
        for what the taker will answer."""
        self._taker: trio.socket.SocketType | None = None

    async def run(
        self, pause: Callable[[], None],
        *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        """Call `pause` for a taker; `hand` is to follow. Until cancelled."""
        path = self._directory / SOCKET
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with trio.socket.socket(socket.AF_UNIX) as listening:
            with _reachable(self._directory) as reachable:
                await listening.bind(reachable)
            path.chmod(0o600)
            listening.listen(1)
            task_status.started()
            while True:
                taker, _ = await listening.accept()
                try:
                    with trio.fail_after(ANSWER_S):
                        hello, _ = await _receive(taker, Hello)
                    if self._taker is not None or hello.format != FORMAT:
                        why = f"this daemon hands over in format {FORMAT}; unmount, mount again"
                        await _send(taker, Reply(refused=why))
                        taker.close()
                        continue
                except (OSError, EOFError, msgspec.MsgspecError, trio.TooSlowError) as error:
                    _LOG.warning("handover_malformed", error=str(error))
                    taker.close()
                    continue
                self._taker = taker
                pause()

    async def hand(self, prepare: Callable[[], Awaitable[State]], *descriptors: int) -> None:
        """Give the mount to the taker and end; returns when it was not taken: go on then."""
        taker, self._taker = self._taker, None
        assert taker is not None
        with taker:
            try:
                state = await prepare()
            except CfsError as error:
                _LOG.warning("handover_refused", error=str(error))
                with contextlib.suppress(OSError):
                    await _send(taker, Reply(refused=str(error)))
                return
            try:
                with trio.fail_after(ANSWER_S):
                    await _send(taker, Reply(state=state), *descriptors)
                    confirmed = await taker.recv(1)
            except (OSError, trio.TooSlowError) as error:
                _LOG.warning("handover_failed", error=str(error))
                return
            if confirmed:
                _LOG.info("mount_handed_over", files=len(state.files.files))
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / SOCKET).unlink()
                self._leave(taker.close)


async def take(directory: Path) -> Taken:
    """Take a mount from the daemon that serves it; that has ended on return. Raises Refused."""
    with trio.socket.socket(socket.AF_UNIX) as door:
        try:
            with _reachable(directory) as reachable:
                await door.connect(reachable)
            await _send(door, Hello(FORMAT))
            with trio.fail_after(PATIENCE_S + ANSWER_S):
                reply, descriptors = await _receive(door, Reply)
            if reply.state is None:
                raise Refused(f"the daemon keeps the mount: {reply.refused}")
            await door.send(b"\1")
            with trio.fail_after(ANSWER_S):
                await door.recv(1)
        except (OSError, EOFError, msgspec.MsgspecError, trio.TooSlowError) as error:
            raise Refused(
                f"no daemon hands its mount over at {directory / SOCKET} ({error}); "
                "is it mounted, with the kernel binding?"
            ) from error
    return Taken(reply.state, descriptors[0], descriptors[1] if len(descriptors) > 1 else None)


@contextlib.contextmanager
def _reachable(directory: Path) -> Iterator[str]:
    """Give a short path to the socket: an address holds 107 bytes."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


async def _send(end: trio.socket.SocketType, said: Any, *descriptors: int) -> None:
    body = msgspec.msgpack.encode(said)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    await end.sendmsg([_LENGTH.pack(len(body))], rights if descriptors else [])
    view = memoryview(body)
    while view:
        view = view[await end.send(view) :]


async def _receive(end: trio.socket.SocketType, kind: type[_T]) -> tuple[_T, list[int]]:
    """Receive one message and its descriptors. Raises EOFError, MsgspecError."""
    found = array.array("i")
    head, rights, _, _ = await end.recvmsg(_LENGTH.size, socket.CMSG_SPACE(4 * found.itemsize))
    for level, sort, data in rights:
        if (level, sort) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    for descriptor in found:
        os.set_inheritable(descriptor, False)
    if len(head) != _LENGTH.size:
        raise EOFError("the other end is gone")
    left = _LENGTH.unpack(head)[0]
    if left > STATE_BYTES_MAX:
        raise EOFError(f"a message of {left} bytes")
    body = bytearray()
    while len(body) < left:
        piece = await end.recv(min(1 << 20, left - len(body)))
        if not piece:
            raise EOFError("the other end is gone")
        body += piece
    return msgspec.msgpack.decode(body, type=kind), list(found)
