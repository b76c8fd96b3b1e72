"""One segment to its nodes: which id, which form, which members, and what to do when some fail.

A segment goes erasure coded to all members of its group, or, when it is tiny or no group that was
tried has all members live and with room, as `m + 1` copies to the first live members. Either way it
survives the loss of any `m` nodes from the moment `send` returns.

What could not be wholly stored is abandoned (the collector finds it) and sent again under another
id: ids (session, sequence) are never used twice, whatever became of the first try. Ids cost
nothing, so the next is searched for among several until its group suits.

With fewer than `m + 1` live domains it waits, asking for a newer map, until the caller cancels;
with enough live domains but too few with room it raises NoSpace at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from cfs.core.api.cluster import Profile
from cfs.core.api.store import ChunkRef, PutFragment
from cfs.core.code import erasure
from cfs.core.data.pipeline import Sealed
from cfs.core.errors import (
    CfsError,
    Malformed,
    NoSpace,
    Refused,
    StaleEpoch,
    Unavailable,
)
from cfs.core.ids import SegmentId, SessionId, make_segment_id
from cfs.core.segment import container
from cfs.fs.data.fragment_client import FragmentClient
from cfs.fs.data.nodes import Nodes
from cfs.net.ports import Threads
from cfs.net.tasks import open_tasks

REPLICATE_BYTES_MAX = 64 << 10
"""Segments up to this size are replicated: one small write a node, no coding."""
PUT_TIMEOUT_S = 5.0
FAILURE_GRACE_S = 0.2
"""How long the other puts of a segment may still finish, or fail and be learnt from."""
TRIALS = 32
"""Ids tried for a group whose members are all live."""
AGAIN_S = 0.1
"""A node that does not answer is tried once more after this: it may have been busy for a moment."""
_RETRY_S_MIN = 0.05
_RETRY_S_MAX = 1.0
_HOP_BYTES = 256 << 10
"""Building and coding below this (about 70 us) costs less than handing it to a thread."""


@dataclass(frozen=True, slots=True)
class _Plan:
    segment: SegmentId
    profile: Profile
    nodes: tuple[int, ...]
    """Where fragment 0, 1, ... go."""
    epoch: int
    """Of the map that says so."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A segment as built and coded under one profile."""

    length: int
    rows: list[container.Row]
    fragments: list[erasure.Bytes]


@dataclass(slots=True)
class SendCounters:
    """What became of segments."""

    segments: int = 0
    replicated: int = 0
    abandoned: int = 0
    sealed_bytes: int = 0


class Sender:
    """Makes segments durable."""

    def __init__(
        self,
        *,
        client: FragmentClient,
        nodes: Nodes,
        threads: Threads,
        session: Callable[[], int],
        refresh: Callable[[], Awaitable[object]],
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._threads = threads
        self._session = session
        self._refresh = refresh
        self._sequence = 0
        self.counters = SendCounters()

    async def send(self, chunks: Sequence[Sealed], *, repair: bool = False) -> list[ChunkRef]:
        """Store the chunks as one segment, and give their references in order once it is durable.

        Raises NoSpace. A cancelled send leaves fragments that nothing refers to.
        """
        blob_bytes = sum(len(chunk.blob) for chunk in chunks)
        length = container.built_length(len(chunks), blob_bytes)
        raw = sum(chunk.raw for chunk in chunks)
        forms: dict[Profile, _Form] = {}
        delay_s = _RETRY_S_MIN
        while True:
            plan = self._plan(length)
            if plan is None:
                await self._refresh_quietly()
                await trio.sleep(delay_s)
                delay_s = min(delay_s * 2, _RETRY_S_MAX)
                continue
            form = forms.get(plan.profile)
            if form is None:
                if length <= _HOP_BYTES:
                    form = _form(chunks, plan.profile)
                else:
                    form = await self._threads.run(_form, chunks, plan.profile)
                forms[plan.profile] = form
            if await self._store(plan, form, raw, blob_bytes, repair=repair):
                break
        self.counters.segments += 1
        self.counters.sealed_bytes += blob_bytes
        self.counters.replicated += plan.profile.data == 1
        return [
            ChunkRef(
                chunk_id=row.chunk_id,
                segment=plan.segment,
                data=plan.profile.data,
                parity=plan.profile.parity,
                segment_length=length,
                at=row.at,
                stored=row.stored,
                raw=row.raw,
                key_version=row.key_version,
            )
            for row in form.rows
        ]

    def _plan(self, segment_length: int) -> _Plan | None:
        """Choose an id; None: wait. Raises NoSpace."""
        nodes = self._nodes
        placement = nodes.map.placement
        if not placement:
            return None
        profile = nodes.map.profile
        copies = profile.parity + 1
        coded = profile.data > 1 and segment_length > REPLICATE_BYTES_MAX
        session = SessionId(self._session())
        fallback: tuple[int, _Plan] | None = None
        sequence = self._sequence
        for trial in range(max(TRIALS, 4 * len(placement))):
            if trial >= TRIALS and fallback is not None:
                break
            sequence += 1
            segment = make_segment_id(session, sequence)
            members = nodes.members(segment)
            usable = tuple(node for node in members[: profile.total] if nodes.writable(node))
            if coded and len(usable) == profile.total:
                self._sequence = sequence
                return _Plan(segment, profile, usable, nodes.map.epoch)
            if fallback is None and len(usable) >= copies:
                plan = _Plan(segment, Profile(1, profile.parity), usable[:copies], nodes.map.epoch)
                fallback = (sequence, plan)
                if not coded:
                    break
        if fallback is not None:
            self._sequence, chosen = fallback
            return chosen
        live, writable = nodes.live_domains()
        if live >= copies and writable < live:
            raise NoSpace(
                f"{writable} of {live} live failure domains have room where {copies} are needed; "
                "delete files or add storage"
            )
        return None

    async def _store(
        self, plan: _Plan, form: _Form, raw: int, sealed: int, *, repair: bool
    ) -> bool:
        """Put every fragment; False when one failed and what it taught is noted."""
        fragments = form.fragments
        failed: list[CfsError] = []

        async def put(index: int, node: int) -> None:
            header = PutFragment(
                segment=plan.segment,
                index=index,
                data=plan.profile.data,
                parity=plan.profile.parity,
                segment_length=form.length,
                raw_bytes=raw,
                sealed_bytes=sealed,
                repair=repair,
                epoch=plan.epoch,
            )
            try:
                try:
                    await self._client.put(node, header, fragments[index], timeout_s=PUT_TIMEOUT_S)
                except Unavailable:
                    await trio.sleep(AGAIN_S)
                    await self._client.put(node, header, fragments[index], timeout_s=PUT_TIMEOUT_S)
            except CfsError as error:
                failed.append(error)
                self._learn(node, error)
                grace = trio.current_time() + FAILURE_GRACE_S
                scope = nursery.cancel_scope
                scope.deadline = min(scope.deadline, grace)

        async with open_tasks() as nursery:
            for index, node in enumerate(plan.nodes):
                nursery.start_soon(put, index, node)
        if not failed:
            return True
        self.counters.abandoned += 1
        for error in failed:
            if isinstance(error, Refused | Malformed):
                raise error
        if any(isinstance(error, StaleEpoch) for error in failed):
            await self._refresh_quietly()
            await trio.sleep(_RETRY_S_MIN)
        return False

    def _learn(self, node: int, error: CfsError) -> None:
        match error:
            case NoSpace():
                self._nodes.full(node)
            case StaleEpoch() | Refused() | Malformed():
                pass
            case _:
                self._nodes.suspect(node)

    async def _refresh_quietly(self) -> None:
        """Ask for a newer map. Without an answer the one in hand is used on."""
        try:
            with trio.move_on_after(_RETRY_S_MAX):
                await self._refresh()
        except CfsError:
            pass


def _form(chunks: Sequence[Sealed], profile: Profile) -> _Form:
    segment, rows = container.build(chunks)
    return _Form(len(segment), rows, erasure.encode(segment, profile))
