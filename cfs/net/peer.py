"""A peer: one connection on which both sides may call the other.

Decides how a connection lives and ends: the hello, the read loop and what each frame means, the
watch over deadlines and silence. The read loop answers inline whatever needs no waiting, and lets
all answers of one read leave in one send.

Invariants: every call ends exactly once, by its reply, an error, its deadline, its cancellation or
the end of the connection. A handler's task is cancelled when its caller cancels, when the deadline
passes, or when the connection ends. A frame that no correct peer sends, or that its role may not
send, ends the connection before it is decoded or given memory.
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
import trio

from cfs.core.api.methods import BY_NAME, BY_NUMBER
from cfs.core.errors import (
    CfsError,
    DeadlineExceeded,
    Malformed,
    Refused,
    Unavailable,
    from_wire,
)
from cfs.net import hello
from cfs.net.calls import Call, Calls
from cfs.net.counters import Counters
from cfs.net.frame import Buffer, Header, Kind, Received, encode
from cfs.net.handlers import DECODE_REPLY, Service
from cfs.net.outbox import Outbox
from cfs.net.ports import Connection
from cfs.net.receiver import Receiver
from cfs.net.serving import Serving
from cfs.net.silence import BUSY_SILENCE_S, Silence, Verdict

HELLO_LIMIT_S = 5.0
HELLO_BYTES_MAX = 4096
STALL_LIMIT_S = 10.0
"""How long a peer may leave its answers unread before the connection ends."""
DEADLINE_S_MAX = 4_000_000
"""What the frame can say; longer is for ever."""
GATHER_CALLS = 4
"""With so many calls under way more follow within the turn: gathering saves system calls."""

_REQUEST, _REPLY, _ERROR = int(Kind.REQUEST), int(Kind.REPLY), int(Kind.ERROR)
_CANCEL, _ONEWAY = int(Kind.CANCEL), int(Kind.ONEWAY)
_HELLO, _PING, _PONG = int(Kind.HELLO), int(Kind.PING), int(Kind.PONG)

_DECODE_ERROR = msgspec.msgpack.Decoder(tuple[int, int, str, dict[str, Any]]).decode


class Peer:
    """One connection; see the module. `greet`, then `run` in a task of its own.

    `role`, `name` and `serial` are the peer's certificate's; `software` is its version; `closed`
    is set when the connection has ended.
    """

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
        self._calls = Calls()
        self._serving = Serving(self, service, self._outbox, counters)
        self._silence = Silence()
        self._last_id = 0
        self._error: CfsError | None = None
        self._greeted = False
        self._nursery: trio.Nursery | None = None
        self._watch_scope = trio.CancelScope()

    # --- calling ---------------------------------------------------------------------------------

    @property
    def last_heard(self) -> float:
        """Trio time at which bytes last arrived."""
        return self._receiver.last_heard

    @property
    def alive(self) -> bool:
        """Tell whether the connection stands, as far as is known."""
        return self._error is None

    @property
    def pending_count(self) -> int:
        """Calls that wait for an answer."""
        return len(self._calls)

    async def call(
        self, method: str, request: Any, payload: Buffer = b"", *, timeout_s: float
    ) -> tuple[Any, Received]:
        """Ask, and give `(reply, payload)`.

        Raises what the handler raised, Unavailable on a lost connection (the request may have
        taken effect), Refused when the peer may not be asked this, DeadlineExceeded, Malformed when
        the request exceeds a frame. Cancelling cancels the handler.
        """
        now = trio.current_time()
        deadline = now + timeout_s
        size = len(payload)
        calls, outbox = self._calls, self._outbox
        if outbox.full or not calls.may_send(size):
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
            deadline_ms=max(1, int(min(timeout_s, DEADLINE_S_MAX) * 1000)),
        )
        outbox.push(head, payload, gather=len(calls) >= GATHER_CALLS)
        if self._error is not None:
            raise self._lost()
        look = deadline if len(calls) else min(deadline, now + BUSY_SILENCE_S)
        if look < self._watch_scope.deadline:  # noqa: PLR1730 - setting it costs a heap operation
            self._watch_scope.deadline = look
        calls.begin(request_id, Call(trio.lowlevel.current_task(), number, deadline, size), now)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            calls.forget(request_id)
            outbox.push(encode(_CANCEL, request=request_id))
            return trio.lowlevel.Abort.SUCCEEDED

        answer: tuple[Any, Received] = await trio.lowlevel.wait_task_rescheduled(abort)
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

    def shut_out(self) -> None:
        """End the connection because the peer's certificate is revoked, and tell it so."""
        self._reject(Refused(f"certificate {self.serial:x} is revoked", reason="revoked"))

    async def _wait_credit(self, size: int, method: str, deadline: float) -> None:
        with trio.move_on_at(deadline):
            while self._error is None:
                if self._outbox.full:
                    await self._outbox.wait_room()
                elif not self._calls.may_send(size):
                    await self._calls.wait_credit()
                else:
                    return
            return
        raise DeadlineExceeded(f"{method} to {self.role} {self.name}: no room to send in time")

    def _lost(self) -> CfsError:
        kind = Refused if isinstance(self._error, Refused) else Unavailable
        return kind(str(self._error), peer=self.name)

    # --- the connection's life -------------------------------------------------------------------

    async def greet(self) -> None:
        """Exchange hellos, within 5 s. Raises Refused, Malformed, Unavailable."""
        try:
            with trio.fail_after(HELLO_LIMIT_S):
                epoch = self._service.epoch()
                await self._connection.send([encode(_HELLO, hello.OURS, epoch=epoch)])
                self._greet(await self._receiver.next())
        except trio.TooSlowError:
            error = Unavailable(f"{self.role} {self.name} said no hello in time")
            self._end(error)
            raise error from None
        except CfsError as error:
            self._reject(error)
            raise
        except BaseException:
            self.close()
            raise

    def _greet(self, frame: tuple[Header, Received, Received] | None) -> None:
        if frame is None:
            raise Unavailable(f"{self.role} {self.name} closed without a word")
        header, message, _payload = frame
        if header.kind == _ERROR:
            raise _read_error(message)
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
                if self._error is None:
                    nursery.start_soon(self._outbox.run)
                    nursery.start_soon(self._watch)
                    await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.close("its task ended")

    async def _read(self, nursery: trio.Nursery) -> None:
        receiver, outbox = self._receiver, self._outbox
        try:
            while self._error is None:
                frame = await receiver.next()
                if frame is None:
                    self.close("closed by the peer")
                    return
                outbox.corked = True
                full = False
                try:
                    while frame is not None and not full:
                        self._dispatch(nursery, *frame)
                        # Only requests make answers: whoever just calls never stops reading, else
                        # two full queues would wait for one another.
                        full = frame[0].kind == _REQUEST and outbox.full
                        frame = None if full else receiver.next_buffered()
                finally:
                    outbox.uncork()
                if full:
                    await self._stall()
        except CfsError as error:
            self._reject(error)

    async def _stall(self) -> None:
        """Read no more from a peer that does not read its answers."""
        with trio.move_on_after(STALL_LIMIT_S) as scope:
            await self._outbox.wait_room()
        if scope.cancelled_caught:
            self.counters.add("connection_stalled")
            self.close(f"the peer read nothing for {STALL_LIMIT_S:.0f} s")

    def _reject(self, error: CfsError) -> None:
        """End the connection over what came, or did not: count it, and tell the peer why."""
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
        self._calls.fail_all(self._lost)
        self.closed.set()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        """Expire calls at their deadlines, ping a silent peer, give up one that stays silent."""
        calls, receiver = self._calls, self._receiver
        while self._error is None:
            heard = max(receiver.last_heard, self._outbox.last_progress)
            look = self._silence.next_look(heard, calls.busy_since)
            self._watch_scope = trio.CancelScope(deadline=min(look, calls.earliest_deadline))
            with self._watch_scope as scope:
                await trio.sleep_forever()
            now = trio.current_time()
            for request_id, call in calls.expire(now):
                self._outbox.push(encode(_CANCEL, request=request_id))
                name = BY_NUMBER[call.method].name
                calls.fail(call, DeadlineExceeded(f"{name}: {self.name} did not answer in time"))
            heard = max(receiver.last_heard, self._outbox.last_progress)
            match self._silence.judge(now, scope.deadline, heard, calls.busy_since):
                case Verdict.PING:
                    self._outbox.push(encode(_PING, epoch=self._service.epoch()))
                case Verdict.GIVE_UP:
                    self.counters.add("connection_silent")
                    self.close("silent, though asked")
                case Verdict.WAIT:
                    pass

    # --- frames ----------------------------------------------------------------------------------

    def _admit(self, header: Header) -> None:
        """Refuse a frame by its header alone. Raises Malformed, Refused."""
        kind = header.kind
        if kind in (_REQUEST, _ONEWAY) and self._greeted:
            served = self._service.table.get(header.method)
            if served is None:
                raise Malformed(f"method {header.method} is unknown", reason="method")
            if self.role not in served.callers:
                raise Refused(f"role {self.role} may not call {served.name}", reason="role")
            if self._service.refused(self.serial):
                raise Refused(f"certificate {self.serial:x} is revoked", reason="revoked")
        elif self._greeted:
            if kind == _HELLO:
                raise Malformed("a second hello", reason="hello")
        elif kind not in (_HELLO, _ERROR) or header.message_bytes > HELLO_BYTES_MAX:
            raise Malformed("the first frame is no hello", reason="hello")

    def _note_epoch(self, epoch: int) -> None:
        if epoch > self._service.epoch():
            self._service.on_epoch(epoch)

    def _dispatch(
        self, nursery: trio.Nursery, header: Header, message: Received, payload: Received
    ) -> None:
        if header.epoch:
            self._note_epoch(header.epoch)
        kind = header.kind
        if kind == _REPLY:
            call = self._calls.forget(header.request)
            if call is not None:  # else cancelled or expired while the answer was under way
                self._accept(call, message, payload)
        elif kind in (_REQUEST, _ONEWAY):
            self._serving.start(nursery, header, message, payload)
        elif kind == _ERROR:
            self._dispatch_error(header.request, message)
        elif kind == _CANCEL:
            self._serving.cancel(header.request)
        elif kind == _PING:
            self._outbox.push(encode(_PONG, epoch=self._service.epoch()))

    def _accept(self, call: Call, message: Received, payload: Received) -> None:
        try:
            reply = DECODE_REPLY[call.method](message)
        except msgspec.DecodeError as error:
            name = BY_NUMBER[call.method].name
            text = f"the reply to {name} cannot be read: {error}"
            self._calls.fail(call, Malformed(text))
            _reject_undecodable(text)
        self._calls.succeed(call, (reply, payload))

    def _dispatch_error(self, request_id: int, message: Received) -> None:
        error = _read_error(message)
        if request_id == 0:
            kind = Refused if isinstance(error, Refused) else Unavailable
            self._end(kind(f"{self.role} {self.name} closed the connection: {error}"))
            return
        call = self._calls.forget(request_id)
        if call is not None:
            self._calls.fail(call, error)


def _read_error(message: Received) -> CfsError:
    try:
        return from_wire(list(_DECODE_ERROR(message)))
    except msgspec.DecodeError as fault:
        _reject_undecodable(f"the error cannot be read: {fault}")


def _reject_undecodable(text: str) -> NoReturn:
    raise Malformed(text, reason="undecodable")
