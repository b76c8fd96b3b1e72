"""Renews this process's certificate: at half of its life, and when the authority changed.

A renewal also brings the bundle of trusted authorities, so the three steps of changing the
authority (`admin`) wait for everybody's. A fresh key is made each time; the old identity stays
valid and in use until the new one is on disk.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog
import trio

from cfs.core.api import root
from cfs.core.errors import CfsError
from cfs.fs.root.directory import Membership, NodeDirectory
from cfs.fs.root.leader import RootLeader
from cfs.fs.root.view import ClusterView
from cfs.net.certificates import make_request, new_key
from cfs.net.identity import Identity
from cfs.net.ports import Threads, WallClock

_LOG = structlog.get_logger()

LOOK_S = 2.0
RETRY_S = 5.0


class Renewal:
    """Keeps the identity of one process in force."""

    def __init__(
        self,
        *,
        home: NodeDirectory,
        view: ClusterView,
        leader: RootLeader,
        reload: Callable[[Identity], None],
        clock: WallClock,
        threads: Threads,
    ) -> None:
        self._home = home
        self._view = view
        self._leader = leader
        self._reload = reload
        self._clock = clock
        self._threads = threads

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Renew whenever it is due; for ever."""
        identity = await self._threads.run(self._home.identity)
        member = await self._threads.run(self._home.membership)
        task_status.started()
        while True:
            now_s = self._clock.time_ns() / 1e9
            pause_s = LOOK_S
            if member.authority < self._view.map.authority or identity.needs_renewal(now_s):
                try:
                    member, identity = await self._renew(member)
                    self._reload(identity)
                    _LOG.info("certificate_renewed", serial=f"{identity.subject.serial:x}")
                except (CfsError, OSError) as error:
                    _LOG.warning("certificate_not_renewed", error=str(error))
                    pause_s = RETRY_S
            await trio.sleep(pause_s)

    async def _renew(self, member: Membership) -> tuple[Membership, Identity]:
        key = new_key()
        request = root.RenewCertificate(csr=make_request(key))
        reply = await self._leader.ask("root.renew", request)
        self._view.offer(reply.map)
        identity = Identity(key, reply.certificate, reply.ca_bundle)
        renewed = msgspec.structs.replace(member, authority=reply.map.authority)
        await self._threads.run(self._home.write_identity, renewed, identity)
        return renewed, identity
