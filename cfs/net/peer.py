"""A peer: one connection on which both sides may call the other.

Decides who waits for what: pending calls by request id, running handlers by request id, deadlines,
cancellation, and when a silent peer is given up. The read loop answers inline whatever needs no
waiting, and lets all answers of one read leave in one send.

Invariants: every call ends exactly once, by its reply, an error, its deadline, its cancellation or
the end of the connection. A handler's task is cancelled when its caller cancels, when the deadline
passes, or when the connection ends. A frame that no correct peer sends, or that its role may not
send, ends the connection before it is decoded or given memory.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Coroutine
from typing import Any

import msgspec
import outcome
import structlog
import trio

from cfs.core.api.methods import BY_NAME
from cfs.core.errors import (
    CfsError,
    DeadlineExceeded,
    Malformed,
    Refused,
    Unavailable,
    from_wire,
)
from cfs.net import hello
from cfs.net.counters import Counters
from cfs.net.frame import Buffer, Header, Kind, encode
from cfs.net.handlers import DECODE_REPLY, Context, Served, Service
from cfs.net.outbox import Outbox
from cfs.net.ports import Connection
from cfs.net.receiver import Receiver

HELLO_LIMIT_S = 5.0
BUSY_SILENCE_S = 0.7
"""A peer that owes an answer and says nothing for so long is pinged..."""
BUSY_PONG_S = 1.3
"""...and given up when it does not answer the ping within this: 2 s together."""
IDLE_SILENCE_S = 10.0
IDLE_PONG_S = 10.0
LATE_S = 0.5
"""A watch that woke so much too late was stopped itself: the peer's silence proves nothing."""
STALL_LIMIT_S = 10.0
"""How long a peer may leave its answers unread before the connection ends."""
CALLS_BYTES_MAX = 64 << 20
"""Payload bytes of unanswered calls per connection; callers wait above it."""
RUNNING_MAX = 4096
"""Handler tasks per connection; more are answered Unavailable."""
GATHER_CALLS = 4
"""With so many calls under way more follow within the turn: gathering saves system calls."""

_REQUEST, _REPLY, _ERROR = int(Kind.REQUEST), int(Kind.REPLY), int(Kind.ERROR)
_CANCEL, _ONEWAY = int(Kind.CANCEL), int(Kind.ONEWAY)
_PING, _PONG = int(Kind.PING), int(Kind.PONG)

_DECODE_ERROR = msgspec.msgpack.Decoder(tuple[int, int, str, dict[str, Any]]).decode
_log = structlog.get_logger()


class _Call(msgspec.Struct, gc=False):
    task: trio.lowlevel.Task
    method: int
    deadline: float
    size: int


class Peer:
    """One connection; see the module. `greet`, then `run` in a task of its own."""

    def __init__(self, connection: Connection, service: Service, counters: Counters) -> None:
        self.role = connection.peer_role
        self.name = connection.peer_name
        self.serial = connection.peer_serial
        self.software = ""
        self.protocol = 0
        self.closed = trio.Event()
        self.counters = counters
        self._connection = connection
        self._service = service
        self._outbox = Outbox(connection, self._end)
        self._receiver = Receiver(connection, self._admit)
        self._pending: dict[int, _Call] = {}
        self._running: dict[int, trio.CancelScope] = {}
        self._last_id = 0
        self._calls_bytes = 0
        self._credit = trio.lowlevel.ParkingLot()
        self._error: CfsError | None = None
        self._greeted = False
        self._heard_epoch = 0
        self._nursery: trio.Nursery | None = None
        self._busy_since = 0.0
        self._pinged_at: float | None = None
        self._watch_scope = trio.CancelScope()

    # --- calling ---------------------------------------------------------------------------------

    @property
    def last_heard(self) -> float:
        """Trio time at which bytes last arrived."""
        return self._receiver.last_heard

    @property
    def pending_count(self) -> int:
        """Calls that wait for an answer."""
        return len(self._pending)

    async def call(
        self, method: str, request: Any, payload: Buffer = b"", *, timeout_s: float
    ) -> tuple[Any, Buffer]:
        """Ask, and give `(reply, payload)`.

        Raises what the handler raised, Unavailable on a lost connection (the request may have
        taken effect), DeadlineExceeded. Cancelling cancels the handler.
        """
        now = trio.current_time()
        deadline = now + timeout_s
        size = len(payload)
        outbox = self._outbox
        if outbox.full or (self._calls_bytes and self._calls_bytes + size > CALLS_BYTES_MAX):
            await self._wait_credit(size, method, deadline)
        if self._error is not None:
            raise self._lost()
        number = BY_NAME[method].number
        self._last_id = request_id = self._last_id + 1
        head = encode(
            _REQUEST,
            request,
            method=number,
            request=request_id,
            payload_bytes=size,
            epoch=self._service.epoch(),
            deadline_ms=max(1, int(timeout_s * 1000)),
        )
        pending = self._pending
        outbox.push(head, payload, gather=len(pending) >= GATHER_CALLS)
        if self._error is not None:
            raise self._lost()
        if not pending:
            self._busy_since = now
            self._watch_by(min(deadline, now + BUSY_SILENCE_S))
        else:
            self._watch_by(deadline)
        pending[request_id] = _Call(trio.lowlevel.current_task(), number, deadline, size)
        self._calls_bytes += size

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._forget(request_id)
            self._outbox.push(encode(_CANCEL, request=request_id))
            return trio.lowlevel.Abort.SUCCEEDED

        answer: tuple[Any, Buffer] = await trio.lowlevel.wait_task_rescheduled(abort)
        return answer

    def post(self, method: str, request: Any, payload: Buffer = b"") -> None:
        """Send one way, without waiting. Raises Unavailable when the queue is full or closed."""
        if self._error is not None:
            raise self._lost()
        if self._outbox.full:
            raise Unavailable(f"the queue to {self.role} {self.name} is full", full=True)
        head = encode(
            _ONEWAY,
            request,
            method=BY_NAME[method].number,
            payload_bytes=len(payload),
            epoch=self._service.epoch(),
        )
        self._outbox.push(head, payload)

    def close(self, reason: str = "closed on this side") -> None:
        """End the connection at once; pending calls raise Unavailable naming `reason`."""
        self._end(Unavailable(f"connection to {self.role} {self.name}: {reason}"))

    async def _wait_credit(self, size: int, method: str, deadline: float) -> None:
        with trio.move_on_at(deadline):
            while self._error is None:
                if self._outbox.full:
                    await self._outbox.wait_room()
                elif self._calls_bytes and self._calls_bytes + size > CALLS_BYTES_MAX:
                    await self._credit.park()
                else:
                    return
            return
        raise DeadlineExceeded(f"{method} to {self.role} {self.name}: no room to send in time")

    def _forget(self, request_id: int) -> _Call | None:
        call = self._pending.pop(request_id, None)
        if call is not None and call.size:
            self._calls_bytes -= call.size
            self._credit.unpark_all()
        return call

    def _lost(self) -> Unavailable:
        assert self._error is not None
        return Unavailable(str(self._error), peer=self.name)

    # --- the connection's life -------------------------------------------------------------------

    async def greet(self) -> None:
        """Exchange hellos, within 5 s. Raises Refused, Malformed, Unavailable."""
        try:
            with trio.fail_after(HELLO_LIMIT_S):
                epoch = self._service.epoch()
                await self._connection.send([encode(Kind.HELLO, hello.OURS, epoch=epoch)])
                frame = await self._receiver.next()
                if frame is None:
                    raise Unavailable(f"{self.role} {self.name} closed without a word")
                self._greet(*frame)
        except trio.TooSlowError:
            error: CfsError = Unavailable(f"{self.role} {self.name} said no hello in time")
            self._end(error)
            raise error from None
        except CfsError as error:
            self._reject(error)
            raise
        except BaseException:
            self.close()
            raise

    def _greet(self, header: Header, message: Buffer, _payload: Buffer) -> None:
        if header.kind == _ERROR:
            raise from_wire(list(_DECODE_ERROR(message)))
        if header.kind != Kind.HELLO:
            raise Malformed("the first frame is no hello", reason="hello")
        theirs = hello.decode(message)
        self.protocol = hello.agree(theirs)
        self.software = theirs.software
        self._greeted = True
        self._note_epoch(header.epoch)

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing of the peer's."""
        assert self._greeted
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._error is not None:
                    return
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._watch)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.close("its task ended")

    async def _read(self) -> None:
        receiver, outbox = self._receiver, self._outbox
        try:
            while self._error is None:
                frame = await receiver.next()
                if frame is None:
                    self.close("closed by the peer")
                    return
                outbox.corked = True
                while frame is not None:
                    self._dispatch(*frame)
                    frame = None if outbox.full else receiver.next_buffered()
                outbox.uncork()
                if outbox.full:
                    with trio.move_on_after(STALL_LIMIT_S) as scope:
                        await outbox.wait_room()
                    if scope.cancelled_caught:
                        self.close(f"the peer read nothing for {STALL_LIMIT_S:.0f} s")
        except CfsError as error:
            self._reject(error)

    def _reject(self, error: CfsError) -> None:
        """End the connection over what the peer sent: count it, and tell it why if it listens."""
        if isinstance(error, (Malformed, Refused)) and self._error is None:
            self.counters.add(f"connection_{error.detail.get('reason', 'refused')}")
            send_now = getattr(self._connection, "send_now", None)
            if send_now is not None and not self._outbox.bytes_queued:
                try:
                    send_now(encode(_ERROR, error.to_wire()))
                except Unavailable:
                    self.counters.add("connection_gone")
        self._end(error)

    def _end(self, error: CfsError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._outbox.close()
        self._connection.close()
        pending, self._pending = self._pending, {}
        self._calls_bytes = 0
        for call in pending.values():
            trio.lowlevel.reschedule(call.task, outcome.Error(self._lost()))
        self._credit.unpark_all()
        self.closed.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    # --- watching --------------------------------------------------------------------------------

    def _watch_by(self, when: float) -> None:
        """Have the watch look no later than `when`."""
        self._watch_scope.deadline = min(self._watch_scope.deadline, when)

    async def _watch(self) -> None:
        """Expire calls at their deadlines, ping a silent peer, give up one that stays silent."""
        while self._error is None:
            now = trio.current_time()
            self._watch_scope = scope = trio.CancelScope(deadline=self._next_look(now))
            with scope:
                await trio.sleep_forever()
            now = trio.current_time()
            if self._pinged_at is not None:
                if self._receiver.last_heard > self._pinged_at:
                    self._pinged_at = None
                elif now - scope.deadline > LATE_S:
                    self._pinged_at = now
            self._expire(now)
            self._probe(now)

    def _next_look(self, now: float) -> float:
        if self._pending:
            quiet = BUSY_SILENCE_S
            if self._pinged_at is not None:
                quiet_until = self._pinged_at + BUSY_PONG_S
            else:
                quiet_until = max(self._receiver.last_heard, self._busy_since) + quiet
            earliest = min(call.deadline for call in self._pending.values())
            return max(now, min(earliest, quiet_until))
        if self._pinged_at is not None:
            return self._pinged_at + IDLE_PONG_S
        return max(now, self._receiver.last_heard + IDLE_SILENCE_S)

    def _expire(self, now: float) -> None:
        for request_id in [i for i, c in self._pending.items() if c.deadline <= now]:
            call = self._forget(request_id)
            assert call is not None
            self._outbox.push(encode(_CANCEL, request=request_id))
            if self._error is None:
                error = DeadlineExceeded(f"{self.role} {self.name} did not answer in time")
            else:
                error = DeadlineExceeded(str(self._error))
            trio.lowlevel.reschedule(call.task, outcome.Error(error))

    def _probe(self, now: float) -> None:
        busy = bool(self._pending)
        if self._pinged_at is None:
            since = max(self._receiver.last_heard, self._busy_since if busy else -math.inf)
            if now - since >= (BUSY_SILENCE_S if busy else IDLE_SILENCE_S):
                self._pinged_at = now
                self._outbox.push(encode(_PING, epoch=self._service.epoch()))
        elif now - self._pinged_at >= (BUSY_PONG_S if busy else IDLE_PONG_S):
            self.counters.add("connection_silent")
            self.close("silent, though asked")

    # --- dispatch --------------------------------------------------------------------------------

    def _admit(self, header: Header) -> None:
        """Refuse a frame by its header alone. Raises Malformed, Refused."""
        kind = header.kind
        if not self._greeted:
            if kind not in (Kind.HELLO, Kind.ERROR) or header.message_bytes > 4096:
                raise Malformed("the first frame is no hello", reason="hello")
        elif kind in (_REQUEST, _ONEWAY):
            served = self._service.table.get(header.method)
            if served is None:
                raise Malformed(f"method {header.method} is unknown", reason="method")
            if self.role not in served.callers:
                raise Refused(f"role {self.role} may not call {served.name}", reason="role")
            if self._service.refused(self.serial):
                raise Refused(f"certificate {self.serial:x} is revoked", reason="revoked")
        elif kind == Kind.HELLO:
            raise Malformed("a second hello", reason="hello")

    def _note_epoch(self, epoch: int) -> None:
        self._heard_epoch = epoch
        if epoch > self._service.epoch():
            self._service.on_epoch(epoch)

    def _dispatch(self, header: Header, message: Buffer, payload: Buffer) -> None:
        if header.epoch > self._heard_epoch:
            self._note_epoch(header.epoch)
        kind = header.kind
        if kind == _REPLY:
            call = self._forget(header.request)
            if call is None:
                return  # cancelled or expired while the answer was under way
            try:
                reply = DECODE_REPLY[call.method](message)
            except msgspec.DecodeError as error:
                malformed = Malformed(f"the reply cannot be read: {error}", reason="undecodable")
                trio.lowlevel.reschedule(call.task, outcome.Error(malformed))
                raise malformed from None
            trio.lowlevel.reschedule(call.task, outcome.Value((reply, payload)))
        elif kind in (_REQUEST, _ONEWAY):
            self._serve(self._service.table[header.method], header, message, payload)
        elif kind == _ERROR:
            self._dispatch_error(header.request, message)
        elif kind == _CANCEL:
            scope = self._running.pop(header.request, None)
            if scope is not None:
                scope.cancel()
        elif kind == _PING:
            self._outbox.push(encode(_PONG, epoch=self._service.epoch()))

    def _dispatch_error(self, request_id: int, message: Buffer) -> None:
        try:
            error = from_wire(list(_DECODE_ERROR(message)))
        except msgspec.DecodeError as fault:
            raise Malformed(f"the error cannot be read: {fault}", reason="undecodable") from None
        if request_id == 0:
            self._end(Unavailable(f"{self.role} {self.name} closed the connection: {error}"))
            return
        call = self._forget(request_id)
        if call is not None:
            trio.lowlevel.reschedule(call.task, outcome.Error(error))

    # --- serving ---------------------------------------------------------------------------------

    def _serve(self, served: Served, header: Header, message: Buffer, payload: Buffer) -> None:
        request_id = header.request if header.kind == _REQUEST else 0
        try:
            request = served.decode(message)
        except msgspec.DecodeError as error:
            raise Malformed(
                f"{served.name} cannot be read: {error}", reason="undecodable"
            ) from None
        wait_ms = header.deadline_ms
        context = Context(
            peer=self,
            method=served.name,
            deadline=trio.current_time() + wait_ms / 1000 if wait_ms else None,
            epoch=header.epoch,
        )
        try:
            if served.handler is None:
                raise Unavailable(f"{served.name} is not served here")
            answer = served.handler(context, request, payload)
        except CfsError as error:
            self._answer_error(request_id, error)
        except Exception as error:  # noqa: BLE001 - our bug must not take every caller down
            self._answer_bug(request_id, served.name, error)
        else:
            if not hasattr(answer, "__await__"):
                self._answer(request_id, answer)
            elif len(self._running) >= RUNNING_MAX:
                if isinstance(answer, Coroutine):
                    answer.close()
                self._answer_error(request_id, Unavailable("too many calls under way"))
            else:
                assert self._nursery is not None
                scope = trio.CancelScope(deadline=context.deadline or math.inf)
                if request_id:
                    self._running[request_id] = scope
                self._nursery.start_soon(self._run, request_id, served.name, answer, scope)

    async def _run(
        self, request_id: int, name: str, answer: Awaitable[Any], scope: trio.CancelScope
    ) -> None:
        try:
            with scope:
                result = await answer
                if self._outbox.full:
                    await self._outbox.wait_room()
                self._answer(request_id, result)
            if scope.cancelled_caught and request_id in self._running:
                self._answer_error(request_id, DeadlineExceeded(f"{name}: out of time"))
        except CfsError as error:
            self._answer_error(request_id, error)
        except Exception as error:  # noqa: BLE001 - our bug must not take every caller down
            self._answer_bug(request_id, name, error)
        finally:
            self._running.pop(request_id, None)

    def _answer(self, request_id: int, answer: Any) -> None:
        if not request_id:
            return
        reply, payload = answer if type(answer) is tuple else (answer, b"")
        head = encode(
            _REPLY,
            reply,
            request=request_id,
            payload_bytes=len(payload),
            epoch=self._service.epoch(),
        )
        self._outbox.push(head, payload, gather=len(self._running) >= GATHER_CALLS)

    def _answer_error(self, request_id: int, error: CfsError) -> None:
        if request_id:
            self._outbox.push(
                encode(_ERROR, error.to_wire(), request=request_id, epoch=self._service.epoch())
            )

    def _answer_bug(self, request_id: int, name: str, error: Exception) -> None:
        self.counters.add("handler_bug")
        _log.error("handler_failed", method=name, peer=self.name, exc_info=error)
        self._answer_error(request_id, CfsError(f"{name} failed at the server: {error!r}"))
