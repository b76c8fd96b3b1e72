"""A service: which methods this process answers, and by what; the authorisation before decoding.

A handler is a plain function `(context, request, payload) -> answer`. The answer is the reply,
`(reply, payload)`, or an awaitable of either: whatever needs no waiting is answered inline in the
connection's read loop, without a task. A handler raises `CfsError`s; they reach the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cfs.core.api.methods import BY_NAME, METHODS, Method
from cfs.net.frame import Received

if TYPE_CHECKING:
    from cfs.net.peer import Peer


class Context(msgspec.Struct, kw_only=True):
    """Who asks, what, and until when."""

    peer: Peer
    method: str
    deadline: float | None
    """trio time after which nobody waits for the answer; None: no limit."""
    epoch: int
    """Of the caller's cluster map."""


Answer = Any
Handler = Callable[[Context, Any, Any], Answer | Awaitable[Answer]]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table with how it is answered here."""

    method: Method
    name: str
    callers: frozenset[str]
    decode: Callable[[Received], Any]
    handler: Handler | None


DECODE_REQUEST: dict[int, Callable[[Received], Any]] = {
    m.number: msgspec.msgpack.Decoder(m.request).decode for m in METHODS
}
DECODE_REPLY: dict[int, Callable[[Received], Any]] = {
    m.number: msgspec.msgpack.Decoder(m.reply).decode for m in METHODS
}


class Service:
    """Everything a connection needs to know of its process.

    `epoch` gives the epoch of the map in use, `on_epoch` hears of a newer one with every frame that
    shows it until `epoch` has caught up, `refused` tells revoked serials; all three are asked for
    every frame: cheap, and never waiting.
    """

    def __init__(
        self,
        *,
        handlers: Mapping[str, Handler],
        epoch: Callable[[], int],
        on_epoch: Callable[[int], None],
        refused: Callable[[int], bool] = lambda _serial: False,
    ) -> None:
        unknown = set(handlers) - set(BY_NAME)
        assert not unknown, f"handlers for methods that are not in the table: {unknown}"
        self.epoch = epoch
        self.on_epoch = on_epoch
        self.refused = refused
        self.table: dict[int, Served] = {
            m.number: Served(
                method=m,
                name=m.name,
                callers=frozenset(str(role) for role in m.callers),
                decode=DECODE_REQUEST[m.number],
                handler=handlers.get(m.name),
            )
            for m in METHODS
        }
