"""What a metadata node says of its replicas when scrub asks: digests, recounts, its log.

Recounting reads every record on disk in a thread, from one instant of LMDB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfs.core.api.meta import Empty
from cfs.core.api.scrub import DigestOf, DigestReply, RebuildReplica
from cfs.core.errors import Corrupt, NotFound
from cfs.fs.meta.host import Host
from cfs.fs.meta.rebuild import Note, rebuild, renew_log
from cfs.fs.meta.snapshot import check_digest
from cfs.net.handlers import Context, Handler


class Examiner:
    """Answers `meta.digest` and `meta.rebuild`."""

    def __init__(self, host: Host, note: Note) -> None:
        self._host = host
        self._note = note
        self.handlers: Mapping[str, Handler] = {
            "meta.digest": self._digest,
            "meta.rebuild": self._rebuild,
        }

    async def _digest(self, _context: Context, request: DigestOf, _payload: Any) -> DigestReply:
        host = self._host
        group = host.groups.get(request.group)
        if group is None:
            raise NotFound(f"group {request.group} has no replica on node {host.node}")
        damage = log_damage = ""
        mended = False
        if request.recount:
            await host.flush()
            try:
                await host.threads.run(check_digest, host.state.store, request.group)
            except Corrupt as error:
                damage = str(error)
        if request.log:
            log_damage = await host.threads.run(host.log.damage)
            if log_damage and request.mend:
                await host.flush()
                mended = renew_log(host) and not await host.threads.run(host.log.damage)
        return DigestReply(
            digests=group.state.digests,
            applied=group.applied,
            term=group.term,
            damage=damage,
            log_damage=log_damage,
            log_mended=mended,
        )

    async def _rebuild(self, _context: Context, request: RebuildReplica, _payload: Any) -> Empty:
        await rebuild(self._host, request.group, self._note)
        return Empty()
