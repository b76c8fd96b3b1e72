"""What this client may accept under quotas: files grow into room that the shard has charged.

A byte beyond a file's size is accepted only below what is *charged* for the file
(`cfs.core.api.quota.Charge`), so a quota says EDQUOT to `write`, never to a later `fsync`. A charge
holds as long as the WRITE lease it was given under; what is not used is given back when the file
has rested. What nothing limits needs no charge. What is made where there are limits is made at the
shard, which says no at once.

Which domains are limited each shard tells (`GetLimits`), once a version; every answer to a mutation
carries the version of its moment. A limit comes into force while nobody holds a WRITE lease, and
leases are given in such answers: so under every lease held the version heard is new enough.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import structlog
import trio
from msgspec.structs import replace

from cfs.core.api import meta
from cfs.core.api.meta import Attr, Lease
from cfs.core.api.quota import (
    GROUP,
    TREE,
    UNLIMITED,
    USER,
    Charge,
    Domain,
    GetLimits,
    GetLimitsReply,
    GetQuota,
    GetQuotaReply,
)
from cfs.core.errors import CfsError, FsError
from cfs.core.ids import ROOT_GROUP
from cfs.core.meta import change, quota
from cfs.net.tasks import open_tasks

if TYPE_CHECKING:
    from cfs.fs.client.file import File
    from cfs.fs.client.router import Router
    from cfs.fs.client.session import Session
    from cfs.fs.client.space import Totals
    from cfs.fs.client.writeback import Writeback

_LOG = structlog.get_logger()

WINDOW = 4 << 20
"""Charged beyond what is written, where there is ample room: a segment."""
LOOK_S = 0.3
RESTED_LOOKS = 2
"""A clean file that did not grow between so many looks gives back what it does not use."""
OPEN_LOOKS = 8


class _Resting:
    """A file with a charge, as it was at the last look."""

    __slots__ = ("file", "looks", "size")

    def __init__(self, file: File) -> None:
        self.file = file
        self.size = file.size
        self.looks = 0


class Quotas:
    """The limits this client knows, and the charges of its files."""

    def __init__(self, session: Session, router: Router, writeback: Writeback) -> None:
        self._session = session
        self._router = router
        self._writeback = writeback
        self._known: dict[int, tuple[int, frozenset[Domain]]] = {}
        self._charged: dict[int, _Resting] = {}
        self._patience_s = 60.0

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to give back what is not used."""
        nursery.start_soon(self._run)

    # --- what is limited

    def limited(self, shard: int, *domains: Domain) -> bool | None:
        """Tell whether any of these is limited in a shard; None: that is not known (`learn`)."""
        version = self._version(shard)
        if not version:
            return False
        known = self._known.get(shard)
        if known is None or known[0] < version or version < 0:
            return None
        return not known[1].isdisjoint(domains)

    async def learn(self, shard: int, deadline: float) -> None:
        """Ask a shard what is limited there, if that is not known."""
        if self.limited(shard) is not None:
            return
        request = GetLimits(shard=shard)
        reply: GetLimitsReply = await self._session.read(
            shard, "meta.limits", request, deadline=deadline
        )
        self._known[shard] = reply.version, frozenset(reply.domains)
        state = self._session.known(shard)
        if state is not None:
            state.limits = max(state.limits, reply.version)

    def _version(self, shard: int) -> int:
        """Give the version of what is limited in a shard; 0: nothing, -1: it is not known."""
        state = self._session.known(shard)
        return -1 if state is None else state.limits

    def may_make(self, shard: int, directory: Attr, op: meta.Create) -> bool:
        """Tell whether what is made in a directory needs no room in any quota."""
        if not self._version(shard):
            return True
        heir = change.inherit(directory, op)
        owners = [Domain(USER, heir["uid"]), Domain(GROUP, heir["gid"])]
        if heir["project"]:
            owners.append(Domain(TREE, heir["project"]))
        return self.limited(shard, *owners) is False

    def may_set(self, shard: int, attr: Attr, op: meta.SetAttr, charged: int) -> bool:
        """Tell whether a change of attributes needs no room in any quota."""
        if not self._version(shard):
            return True
        gaining: tuple[Domain, ...] = ()
        if op.size is not None and op.size > max(attr.size, charged):
            gaining = quota.domains(attr)
        if op.uid is not None and op.uid != attr.uid:
            gaining += (Domain(USER, op.uid),)
        if op.gid is not None and op.gid != attr.gid:
            gaining += (Domain(GROUP, op.gid),)
        return not gaining or self.limited(shard, *gaining) is False

    # --- growing

    def admits(self, file: File, end: int) -> bool:
        """Tell whether a write that ends at `end` may be accepted."""
        if end <= file.size or end <= file.charged:
            return True
        shard = file.node.shard
        if not self._version(shard):
            return True
        attr = file.node.attr
        return attr is not None and self.limited(shard, *quota.domains(attr)) is False

    async def make_room(self, file: File, end: int, deadline: float) -> None:
        """Have room charged for a write that ends at `end`. Raises EDQUOT, ENOENT."""
        shard = file.node.shard
        await self.learn(shard, deadline)
        async with file.acquiring:  # one charge of a file at a time: the last one counts
            if not self.admits(file, end):
                await self._charge(file, end, deadline)

    async def _charge(self, file: File, end: int, deadline: float) -> None:
        shard = file.node.shard
        op = Charge(ino=file.ino, size=end, want=end + WINDOW)
        with self._writeback.request() as token:
            try:
                _, result = await self._session.mutate(shard, op, deadline=deadline)
            except FsError as error:
                if error.errno != errno.ESTALE:
                    raise
                self._writeback.cache.forget(file.ino)  # the lease is gone: take it again
                return
            attr = result.attrs[0]
            held = self._writeback.cache.learn_attr(attr, 0, token)
            if held is not None and file.node.modes & Lease.WRITE:
                file.charged = max(file.charged, attr.charged)
                self._charged[file.ino] = _Resting(file)

    async def narrowed(self, totals: Totals, tree: int, deadline: float) -> Totals:
        """Give what a tree's quota leaves of the cluster's totals."""
        reply: GetQuotaReply = await self._router.ask(
            ROOT_GROUP, "root.quota", GetQuota(tree=tree), deadline=deadline
        )
        if reply.bytes_max != UNLIMITED:
            free = max(0, reply.bytes_max - reply.bytes)
            totals = replace(
                totals, capacity=reply.bytes_max, free=free, available=min(free, totals.available)
            )
        if reply.inodes_max != UNLIMITED:
            used = min(reply.inodes, reply.inodes_max)
            totals = replace(totals, inodes=used, inodes_max=reply.inodes_max)
        return totals

    # --- giving back

    async def _run(self) -> None:
        while True:
            await trio.sleep(LOOK_S)
            async with open_tasks() as nursery:
                for ino, resting in list(self._charged.items()):
                    if self._is_over(resting):
                        del self._charged[ino]
                    elif self._has_rested(resting):
                        del self._charged[ino]
                        nursery.start_soon(self._give_back, resting.file)

    def _is_over(self, resting: _Resting) -> bool:
        file = resting.file
        mine = self._writeback.files.get(file.ino) is file and file.node.modes & Lease.WRITE
        return not mine or not file.charged

    def _has_rested(self, resting: _Resting) -> bool:
        file = resting.file
        if file.unclean or file.size != resting.size:
            resting.size, resting.looks = file.size, 0
            return False
        resting.looks += 1
        return resting.looks >= (OPEN_LOOKS if file.opens else RESTED_LOOKS)

    async def _give_back(self, file: File) -> None:
        async with file.acquiring:
            if file.unclean:
                self._charged.setdefault(file.ino, _Resting(file))
                return
            file.charged = 0  # what is written from now on asks again, and is heard after this
            deadline = trio.current_time() + self._patience_s
            op = Charge(ino=file.ino, size=0)
            try:
                await self._session.mutate(file.node.shard, op, deadline=deadline)
            except CfsError as error:
                _LOG.debug("charge_kept", ino=file.ino, error=str(error))  # until the lease goes
