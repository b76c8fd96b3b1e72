"""Snapshots between hosts: streaming one out, taking one in, installing it.

Out: flush, open one instant of LMDB, send pieces one after another, tell the machine how it ended.
At most one stream per group and peer, `OUTGOING_MAX` per node. In: pieces of one stream in order,
one stream per group, the newest; any other piece is refused and the sender starts over. The last
piece is answered once the group shows the snapshot, durably.

Installing pauses the group, so nothing is stepped between `accepts_snapshot` and
`SnapshotRestored`. The order on disk is LMDB first, then the log's restart: a crash between them
leaves a state ahead of its log, which the host recognises when it opens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from cfs.core.api.methods import SnapshotChunk
from cfs.core.errors import CfsError, Malformed, Unavailable
from cfs.core.raft import message as raft
from cfs.fs.meta.group_record import encode_group, meta_key
from cfs.fs.meta.snapshot import Incoming, Outgoing, wipe

if TYPE_CHECKING:
    from cfs.fs.meta.group import Group
    from cfs.fs.meta.host import Host

OUTGOING_MAX = 2
"""Streams at once: each holds an LMDB instant open and one piece in memory."""


class _Stream:
    """A snapshot on its way in."""

    def __init__(self, incoming: Incoming, key: tuple[int, int, int]) -> None:
        self.incoming = incoming
        self.key = key
        self.next_sequence = 0
        self.busy = False


class Transfers:
    """All snapshots of a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sending: set[tuple[int, int]] = set()
        self._streams: dict[int, _Stream] = {}
        self._limit: trio.CapacityLimiter | None = None

    async def send(self, group: Group, peer: int) -> None:
        """Stream `group` to `peer` and tell its machine how that ended."""
        key = (group.group, peer)
        if key in self._sending:
            return
        if self._limit is None:
            self._limit = trio.CapacityLimiter(OUTGOING_MAX)
        self._sending.add(key)
        ok = False
        try:
            async with self._limit:
                await self._stream(group, peer)
            ok = True
        except CfsError:
            pass  # the machine asks again
        finally:
            self._sending.discard(key)
            if not group.removed and not self._host.stopped:
                group.hear(raft.SnapshotSent(peer=peer, ok=ok))

    async def receive(self, group: Group, chunk: SnapshotChunk, payload: Any) -> None:
        """Take a piece in. Raises Unavailable when it does not continue a stream."""
        stream = self._streams.get(group.group)
        key = (chunk.term, chunk.index, chunk.sender)
        if chunk.sequence == 0:
            if stream is not None and not stream.busy:
                self._forget(group.group, stream)
                await self._release(stream.incoming.slot)
            elif stream is not None:
                raise Unavailable(f"group {group.group}: another snapshot is on its way")
            stream = await self._begin(group, chunk, key)
            if stream is None:
                return
        if stream is None or stream.key != key or stream.next_sequence != chunk.sequence:
            raise Unavailable(f"group {group.group}: no such snapshot stream, start over")
        if stream.busy:
            raise Unavailable(f"group {group.group}: a piece is being taken in, start over")
        stream.busy = True
        try:
            await self._host.threads.run(stream.incoming.take, payload)
            stream.next_sequence += 1
            if chunk.last:
                await self._install(group, chunk, stream.incoming)
        except BaseException:
            self._forget(group.group, stream)
            with trio.CancelScope(shield=True):
                await self._release(stream.incoming.slot)
            raise
        finally:
            stream.busy = False
        if chunk.last:
            self._forget(group.group, stream)

    def close(self) -> None:
        """Forget streams; what they staged is wiped when the host opens again."""
        self._streams.clear()

    # --- within

    async def _stream(self, group: Group, peer: int) -> None:
        host = self._host
        await host.flush()
        out = await host.threads.run(Outgoing, host.state.store, group.group)
        try:
            sequence = 0
            piece = await host.threads.run(out.next_piece)
            while True:
                following = await host.threads.run(out.next_piece) if piece else b""
                if group.removed or not group.is_leader:
                    raise Unavailable(f"group {group.group}: no longer the leader")
                chunk = SnapshotChunk(
                    group=group.group,
                    term=group.term,
                    index=out.meta.index,
                    sequence=sequence,
                    last=not following,
                    sender=host.node,
                    header=out.header if sequence == 0 else b"",
                )
                await host.sender.send_snapshot(peer, chunk, piece)
                if not following:
                    return
                piece = following
                sequence += 1
        finally:
            out.close()

    async def _begin(
        self, group: Group, chunk: SnapshotChunk, key: tuple[int, int, int]
    ) -> _Stream | None:
        """Open a stream; None when this replica needs no such snapshot."""
        state = self._host.state
        if chunk.term < group.term:
            raise Unavailable(f"group {group.group}: term {chunk.term} is over")
        slot = state.free_slot()
        incoming = Incoming(state.store, slot, chunk.header)
        if incoming.meta.index != chunk.index:
            raise Malformed("snapshot header and piece name different indexes")
        if not group.machine.accepts_snapshot(incoming.meta):
            if chunk.last:
                return None
            raise Unavailable(f"group {group.group}: this snapshot brings nothing new")
        state.reserved.add(slot)
        stream = self._streams[group.group] = _Stream(incoming, key)
        return stream

    async def _install(self, group: Group, chunk: SnapshotChunk, incoming: Incoming) -> None:
        host = self._host
        record = incoming.record()
        async with host.flush_lock:
            if group.removed or chunk.term < group.term:
                raise Unavailable(f"group {group.group}: term {chunk.term} is over")
            group.paused = True
            restored: raft.Event | None = None
            try:
                if not group.machine.accepts_snapshot(incoming.meta):
                    raise Unavailable(f"group {group.group}: this snapshot brings nothing new")
                with trio.CancelScope(shield=True):
                    await host.flush_locked()
                    change = [(meta_key(group.group), encode_group(record))]
                    await host.threads.run(lambda: host.state.store.write(change, sync=True))
                old_slot = group.state.slot
                group.state.replace(record)
                host.state.reserved.add(old_slot)
                host.state.reserved.discard(record.slot)
                host.reset_log(group, incoming.meta)
                restored = raft.SnapshotRestored(
                    meta=incoming.meta, sender=chunk.sender, term=chunk.term
                )
            finally:
                group.resume(restored)
        with trio.CancelScope(shield=True):
            await self._release(old_slot)

    def _forget(self, group: int, stream: _Stream) -> None:
        if self._streams.get(group) is stream:
            del self._streams[group]

    async def _release(self, slot: int) -> None:
        """Wipe a slot that nothing points to, then offer it again."""
        state = self._host.state
        if any(group.slot == slot for group in state.groups.values()):
            return
        await self._host.threads.run(wipe, state.store, slot)
        state.reserved.discard(slot)
