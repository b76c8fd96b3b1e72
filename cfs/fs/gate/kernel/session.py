"""One connection to the kernel: INIT, the read loop, the requests that wait.

Requests are read without blocking: their heads into one buffer, what follows where it may stay
(`Landing`), so that the data of a large WRITE are never copied. Where a handler knows the answer it
is written at once; otherwise its coroutine becomes a task. When nothing is there to be read and
nobody waits for this process's other work, it looks again a few times before it sleeps in epoll:
the next request of a busy caller comes sooner than a sleep takes. After a burst of requests others
have their turn.

A wait for a lock ends, with EINTR, at any signal to its caller (INTERRUPT). Anything else goes on,
as on a local file system, unless the caller is being killed (`signals`): then it is given up when
it is not answered within some time. So nobody waits unkillably for a cluster that is gone.
Whatever a request is, nothing it does ends the loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from struct import Struct

import structlog
import trio

from cfs.core.errors import CfsError, DeadlineExceeded, Malformed
from cfs.fs.client.landing import Landing
from cfs.fs.gate.errnos import LOUD, errno_of
from cfs.fs.gate.kernel import message
from cfs.fs.gate.kernel.flags import Init
from cfs.fs.gate.kernel.message import HEAD_BYTES, WRITE_BYTES_MAX, Request, decode
from cfs.fs.gate.kernel.opcodes import UNANSWERED, Opcode
from cfs.fs.gate.kernel.replies import DONE, Answer, Handler, Later
from cfs.fs.gate.kernel.signals import is_killed

_LOG = structlog.get_logger()

MAJOR, MINOR_MIN, MINOR = 7, 31, 45
PAGES_MAX = WRITE_BYTES_MAX // 4096
BACKGROUND = 64
"""Reads ahead and asynchronous requests the kernel has under way with us."""
LOOKS = 20
"""Looks for the next request, about a microsecond each, before sleeping: see DESIGN 6."""
BURST = 48
"""Requests, or 32 KiB of them, before other tasks have a turn."""
JOINED_BYTES_MAX = 1 << 14
"""An answer up to this long is copied behind its header: cheaper than a second buffer."""
REQUESTS_MAX = 4096
"""Requests that wait; more stay in the kernel. Each is a process that waits."""
INTERRUPT_S = 2.0
"""How long a request may take once its caller is being killed; how often that is looked at."""

WANTED = (
    Init.ASYNC_READ | Init.ATOMIC_O_TRUNC | Init.EXPORT_SUPPORT | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA | Init.DO_READDIRPLUS | Init.READDIRPLUS_AUTO | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS | Init.ABORT_ERROR | Init.MAX_PAGES | Init.CACHE_SYMLINKS
    | Init.DONT_MASK | Init.POSIX_ACL | Init.HANDLE_KILLPRIV_V2 | Init.INIT_EXT
    | Init.HAS_EXPIRE_ONLY | Init.HAS_RESEND | Init.DIRECT_IO_ALLOW_MMAP
)  # fmt: skip
"""Asked for where the kernel has it. AUTO_INVAL_DATA: the kernel asks for attributes, whose life
ends with the lease, before it reads from its pages. DONT_MASK: an inherited access list counts
instead of the umask. WRITEBACK_CACHE is for exclusive mounts only: DESIGN 6."""
LOCKS = Init.POSIX_LOCKS | Init.FLOCK_LOCKS

_INIT_OUT = Struct("=IIIIHHIIHHIIH22x")
_READING_ENDS = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EBADF})
_LOOKED_UP = frozenset({Opcode.OPEN, Opcode.READLINK})
"""Where the inode went after its name was looked up: at ESTALE the kernel looks the name up again,
so a name that others replace all the time is never absent."""
_READING_GOES_ON = frozenset({errno.ENOENT, errno.EINTR})


def negotiate(fields: tuple[int, ...], more: memoryview, wanted: int) -> tuple[bytes, int]:
    """Give the answer to INIT and the flags agreed on.

    Raises Malformed when kernel and daemon cannot understand each other.
    """
    major, minor, readahead, flags = fields
    if major > MAJOR:
        return _INIT_OUT.pack(MAJOR, MINOR, *[0] * 11), 0  # it will ask again
    if major < MAJOR or minor < MINOR_MIN:
        raise Malformed(f"the kernel speaks FUSE {major}.{minor}; {MAJOR}.{MINOR_MIN} is needed")
    if flags & Init.INIT_EXT and len(more) >= 4:
        flags |= int.from_bytes(more[:4], "little") << 32
    agreed = flags & wanted
    answer = _INIT_OUT.pack(
        MAJOR, min(minor, MINOR), readahead, agreed & 0xFFFFFFFF, BACKGROUND, BACKGROUND * 3 // 4,
        WRITE_BYTES_MAX, 1, PAGES_MAX, 0, agreed >> 32, 0, 0,
    )  # fmt: skip
    return answer, agreed


class Session:
    """Serves one connection."""

    def __init__(
        self, device: int, handlers: dict[int, Handler], landing: Landing, *, wanted: int,
        agreed: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._device = device
        self._agreed = agreed
        self._landing = landing
        self._wanted = wanted
        self._handlers: dict[int, Handler] = {
            **handlers,
            Opcode.INIT: self._init,
            Opcode.INTERRUPT: self._interrupt,
            Opcode.DESTROY: self._destroy,
        }
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._waiting: dict[int, tuple[Request, trio.CancelScope]] = {}
        self._room = trio.Event()
        self._reading = trio.CancelScope()
        self._settled = trio.Event()
        self._dropping = False
        self._nursery: trio.Nursery

    async def serve(self, nursery: trio.Nursery) -> bool:
        """Answer requests until the mount is gone, or (True) `pause`.

        What waits goes on in `nursery`.
        """
        self._nursery = nursery
        with trio.CancelScope() as self._reading:
            await self._serve()
        return self._reading.cancelled_caught

    def pause(self) -> None:
        """Read no more requests until `serve` is called again."""
        self._reading.cancel()

    async def settle(self, deadline: float) -> None:
        """Return when no request is under way; waits for locks are dropped, unanswered.

        The kernel must be told to say those again (`Notifier.resend`). Raises DeadlineExceeded:
        then none was dropped.
        """
        while any(r.opcode != Opcode.SETLKW for r, _ in self._waiting.values()):
            self._settled = trio.Event()
            with trio.move_on_at(deadline) as scope:
                await self._settled.wait()
            if scope.cancelled_caught:
                raise DeadlineExceeded(f"{len(self._waiting)} requests wait for the cluster")
        self._dropping = True
        for _, waits in self._waiting.values():
            waits.cancel()
        while self._waiting:
            self._settled = trio.Event()
            await self._settled.wait()
        self._dropping = False

    async def _serve(self) -> None:
        device, head, landing = self._device, self._head, self._landing
        looks = served = 0
        while True:
            try:
                count = os.readv(device, (head, landing.room))
            except BlockingIOError:
                looks += 1
                if looks < LOOKS and not self._waiting:
                    continue
                looks = served = 0
                await trio.lowlevel.wait_readable(device)
                continue
            except OSError as error:
                if error.errno in _READING_ENDS:
                    return
                if error.errno not in _READING_GOES_ON:
                    raise
                continue
            looks = 0
            if not count:
                return
            self._take(count)
            served += 1 + (count >> 15)
            if served >= BURST:
                served = 0
                await trio.lowlevel.checkpoint()
                while len(self._waiting) >= REQUESTS_MAX:
                    self._room = trio.Event()
                    await self._room.wait()

    def _take(self, count: int) -> None:
        """Answer the request in the buffer, or start what will."""
        landed = self._landing.room[: count - HEAD_BYTES] if count > HEAD_BYTES else None
        try:
            request = decode(self._head, count, landed)
        except Malformed as error:
            _LOG.warning("fuse_malformed", error=str(error))
            if unique := error.detail.get("unique"):
                self._write(message.refusal(unique, errno.EINVAL))
            return
        opcode = request.opcode
        handler = self._handlers.get(opcode)
        if handler is None:
            self._write(message.refusal(request.unique, errno.ENOSYS))
            return
        try:
            answer = handler(request)
        except Exception as error:
            self._refuse(opcode, request.unique, error)
            if opcode == Opcode.INIT:
                raise
            return  # nothing else that a request does ends the mount
        if isinstance(answer, bytes):
            self._answer(request.unique, answer)
        elif answer is not None:
            self._waiting[request.unique] = (request, trio.CancelScope())
            self._nursery.start_soon(self._wait, opcode, request.unique, answer)

    async def _wait(self, opcode: int, unique: int, work: Later) -> None:
        """Answer when `work` is done."""
        scope = self._waiting[unique][1]
        try:
            with scope:
                self._answer(unique, await work)
                return
            if not self._dropping:
                self._write(message.refusal(unique, errno.EINTR))
        except Exception as error:  # noqa: BLE001 nothing a request does ends the mount
            self._refuse(opcode, unique, error)
        finally:
            del self._waiting[unique]
            self._settled.set()
            if len(self._waiting) < REQUESTS_MAX:
                self._room.set()

    # --- answers

    def _answer(self, unique: int, body: bytes) -> None:
        if len(body) <= JOINED_BYTES_MAX:
            self._write(message.answer(unique, body))
        else:
            self._write(message.head(unique, len(body)), body)

    def _refuse(self, opcode: int, unique: int, error: Exception) -> None:
        if isinstance(error, CfsError):
            number = errno_of(error)
            if number == errno.ENOENT and opcode in _LOOKED_UP:
                number = errno.ESTALE
            if number in LOUD:
                _LOG.warning("fuse_error", operation=_name(opcode), error=str(error))
        else:
            number = errno.EIO
            _LOG.error("fuse_defect", operation=_name(opcode), exc_info=error)
        if opcode not in UNANSWERED:
            self._write(message.refusal(unique, number))

    def _write(self, *parts: bytes) -> None:
        try:
            if len(parts) == 1:
                os.write(self._device, parts[0])
            else:
                os.writev(self._device, parts)
        except OSError as error:
            # the caller is gone, or the mount: the read loop hears of that
            if error.errno not in _READING_ENDS and error.errno not in _READING_GOES_ON:
                _LOG.warning("fuse_answer_refused", error=str(error), size=sum(map(len, parts)))

    # --- the connection's own requests

    def _init(self, request: Request) -> Answer:
        """Answer INIT here: where the answer is not taken, there is no connection."""
        body, agreed = negotiate(request.fields, request.data, self._wanted)
        self._agreed(agreed)
        os.write(self._device, message.answer(request.unique, body))
        _LOG.info("fuse_init", kernel=f"{request.fields[0]}.{request.fields[1]}")
        return None

    def _interrupt(self, request: Request) -> Answer:
        waiting = self._waiting.get(request.fields[0])
        if waiting is not None:
            interrupted, scope = waiting
            if interrupted.opcode == Opcode.SETLKW:
                scope.cancel()
            else:
                self._nursery.start_soon(self._give_up, interrupted)
        return None

    async def _give_up(self, request: Request) -> None:
        """End a request once its caller is being killed; the kernel tells of signals only once."""
        while True:
            await trio.sleep(INTERRUPT_S)
            waiting = self._waiting.get(request.unique)
            if waiting is None or waiting[0] is not request:
                return
            if is_killed(request.pid):
                waiting[1].cancel()
                return

    @staticmethod
    def _destroy(request: Request) -> Answer:
        del request
        return DONE


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return str(opcode)
