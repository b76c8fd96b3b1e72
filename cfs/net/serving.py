"""Serving: what the other side of a connection asked of this one, until it is answered.

An answer that needs no waiting is given at once. An awaitable gets a task, which ends with its
answer, its caller's cancellation, its caller's deadline or the connection. Tasks and the payload
bytes they hold are bounded; what comes beyond is answered Unavailable (a correct caller stops
before: `cfs.net.calls`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import trio

from cfs.core.errors import CfsError, DeadlineExceeded, Malformed, Unavailable
from cfs.net.calls import CALLS_BYTES_MAX
from cfs.net.counters import Counters
from cfs.net.frame import Header, Kind, Received, encode
from cfs.net.handlers import Context, Served, Service
from cfs.net.outbox import Outbox

if TYPE_CHECKING:
    from cfs.net.peer import Peer

TASKS_MAX = 4096
"""Per connection: a client's waiting lock requests and recalls are the most there can be."""
HELD_BYTES_MAX = 2 * CALLS_BYTES_MAX
GATHER_TASKS = 4
"""With so many tasks more answers follow within the turn: gathering saves system calls."""

_REQUEST, _REPLY, _ERROR = int(Kind.REQUEST), int(Kind.REPLY), int(Kind.ERROR)
_log = structlog.get_logger()


class Serving:
    """Handlers under way for one peer."""

    def __init__(self, peer: Peer, service: Service, outbox: Outbox, counters: Counters) -> None:
        self._peer = peer
        self._service = service
        self._outbox = outbox
        self._counters = counters
        self._scopes: dict[int, trio.CancelScope] = {}
        self._tasks = 0
        self._held_bytes = 0

    def start(
        self, nursery: trio.Nursery, header: Header, message: Received, payload: Received
    ) -> None:
        """Answer a request or one-way message, or start its task. Raises Malformed."""
        served = self._service.table[header.method]
        request_id = header.request if header.kind == _REQUEST else 0
        try:
            request = served.decode(message)
        except msgspec.DecodeError as error:
            raise Malformed(
                f"{served.name} cannot be read: {error}", reason="undecodable"
            ) from None
        wait_ms = header.deadline_ms
        context = Context(
            peer=self._peer,
            method=served.name,
            deadline=trio.current_time() + wait_ms / 1000 if wait_ms else None,
            epoch=header.epoch,
        )
        try:
            answer = _answer_of(served, context, request, payload)
            if not hasattr(answer, "__await__"):
                self._answer(request_id, answer)
                return
        except CfsError as error:
            self._answer_error(request_id, error)
            return
        except Exception as error:  # noqa: BLE001 - our bug must not take every caller down
            self._answer_bug(request_id, served.name, error)
            return
        self._spawn(nursery, request_id, context, answer, len(payload))

    def cancel(self, request_id: int) -> None:
        """Stop a handler whose caller no longer waits."""
        scope = self._scopes.pop(request_id, None)
        if scope is not None:
            scope.cancel()

    def _spawn(
        self,
        nursery: trio.Nursery,
        request_id: int,
        context: Context,
        answer: Awaitable[Any],
        size: int,
    ) -> None:
        if self._tasks >= TASKS_MAX or self._held_bytes + size > HELD_BYTES_MAX:
            self._counters.add("request_crowded")
            if inspect.iscoroutine(answer):
                answer.close()
            self._answer_error(request_id, Unavailable("too much under way on this connection"))
            return
        self._tasks += 1
        self._held_bytes += size
        scope = trio.CancelScope(deadline=context.deadline or math.inf)
        if request_id:
            self._scopes[request_id] = scope
        nursery.start_soon(self._run, request_id, context.method, answer, scope, size)

    async def _run(
        self,
        request_id: int,
        name: str,
        answer: Awaitable[Any],
        scope: trio.CancelScope,
        size: int,
    ) -> None:
        try:
            with scope:
                result = await answer
                if self._outbox.full:
                    await self._outbox.wait_room()
                self._answer(request_id, result)
            if scope.cancelled_caught and request_id in self._scopes:
                self._answer_error(request_id, DeadlineExceeded(f"{name}: out of time"))
        except CfsError as error:
            self._answer_error(request_id, error)
        except Exception as error:  # noqa: BLE001 - our bug must not take every caller down
            self._answer_bug(request_id, name, error)
        finally:
            self._scopes.pop(request_id, None)
            self._tasks -= 1
            self._held_bytes -= size

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
        self._outbox.push(head, payload, gather=self._tasks >= GATHER_TASKS)

    def _answer_error(self, request_id: int, error: CfsError) -> None:
        if request_id:
            epoch = self._service.epoch()
            self._outbox.push(encode(_ERROR, error.to_wire(), request=request_id, epoch=epoch))

    def _answer_bug(self, request_id: int, name: str, error: Exception) -> None:
        self._counters.add("handler_bug")
        _log.error("handler_failed", method=name, peer=self._peer.name, exc_info=error)
        self._answer_error(request_id, CfsError(f"{name} failed at the server: {error!r}"))


def _answer_of(served: Served, context: Context, request: Any, payload: Received) -> Any:
    if served.handler is None:
        raise Unavailable(f"{served.name} is not served here")
    return served.handler(context, request, payload)
