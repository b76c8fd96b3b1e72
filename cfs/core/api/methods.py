"""The table of methods: number, name, messages, who may call, and whether a blind retry is safe.

Authorisation is by the role in the caller's certificate, checked before the message is decoded.
`idempotent` methods may be sent again after a lost connection without asking; others carry their
own exactly-once number.
"""

from __future__ import annotations

import msgspec

from cfs.core.api import insight, layout, meta, moving, quota, root, scrub, snapshots, store, trash
from cfs.core.api.cluster import Role
from cfs.core.api.locking import LockGraph, LockGraphReply

_META, _STORAGE, _ADMIN = Role.META, Role.STORAGE, Role.ADMIN
_USERS = frozenset({Role.CLIENT, Role.GATEWAY, Role.ADMIN})
_NODES = frozenset({_META, _STORAGE})
_READERS = _USERS | {Role.READER}
"""Of a reader's operations only some are taken, by `cfs.fs.meta.readers`."""
_ENROLLED = _READERS | _NODES


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    number: int
    name: str
    request: type
    reply: type
    callers: frozenset[Role]
    idempotent: bool


class RaftMessages(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A batch of Raft messages between two nodes, encoded by `cfs.core.raft.message`."""

    sender: int
    messages: tuple[bytes, ...]


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A piece of a group's state on its way to a replica; the payload is the piece.

    Pieces of one `(group, index, term)` come in `sequence` order; `last` completes it. `header` is
    the encoded snapshot description, in the first piece.
    """

    group: int
    term: int
    index: int
    sequence: int
    last: bool
    sender: int
    header: bytes = b""


class Internal(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A command for a group's leader from another meta node: transactions, collection, packing."""

    group: int
    command: bytes
    read: bool = False
    """Do not propose: answer from state after a read barrier."""


class InternalReply(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The encoded result."""

    result: bytes


def _row(number: int, name: str, request: type, reply: type, callers: frozenset[Role],
         *, idempotent: bool) -> Method:  # fmt: skip
    return Method(number=number, name=name, request=request, reply=reply, callers=callers,
                  idempotent=idempotent)  # fmt: skip


_ANY = _ENROLLED
_E = meta.Empty
_metas = frozenset({_META})
_writers = _USERS | _metas
_askers = _READERS | _metas
_scrubbers = frozenset({_META, _STORAGE, _ADMIN})

METHODS: tuple[Method, ...] = (
    # root
    _row(1, "root.map", root.GetMap, root.GetMapReply, _ANY | {Role.ENROL}, idempotent=True),
    _row(2, "root.session", root.NewSession, root.NewSessionReply, _askers, idempotent=True),
    _row(3, "root.keys", root.GetVolumeKeys, root.GetVolumeKeysReply, _READERS, idempotent=True),
    _row(4, "root.enrol", root.Enrol, root.EnrolReply, frozenset({Role.ENROL}), idempotent=False),
    _row(5, "root.renew", root.RenewCertificate, root.EnrolReply, _ANY, idempotent=True),
    _row(6, "root.heartbeat", root.Heartbeat, root.HeartbeatReply, _NODES, idempotent=True),
    _row(7, "root.status", root.GetStatus, root.Status, _ANY, idempotent=True),
    _row(8, "root.admin", root.Admin, root.AdminReply, frozenset({_ADMIN}), idempotent=False),
    _row(10, "root.findings", scrub.ReportFindings, _E, _NODES, idempotent=True),
    _row(9, "root.snapshots", snapshots.GetSnapshots, snapshots.GetSnapshotsReply, _ANY,
         idempotent=True),
    # metadata
    _row(20, "meta.mutate", meta.Mutate, meta.MutateReply, _READERS, idempotent=True),
    _row(21, "meta.lookup", meta.Lookup, meta.LookupReply, _askers, idempotent=True),
    _row(22, "meta.getattr", meta.GetAttr, meta.GetAttrReply, _askers, idempotent=True),
    _row(23, "meta.readdir", meta.ReadDir, meta.ReadDirReply, _askers, idempotent=True),
    _row(24, "meta.layout", meta.Layout, meta.LayoutReply, _askers, idempotent=True),
    _row(33, "meta.layouts", layout.Layouts, layout.LayoutsReply, _READERS, idempotent=True),
    _row(25, "meta.getxattr", meta.GetXattr, meta.XattrReply, _READERS, idempotent=True),
    _row(26, "meta.listxattr", meta.ListXattr, meta.XattrReply, _READERS, idempotent=True),
    _row(27, "meta.statfs", meta.StatFs, meta.StatFsReply, _askers, idempotent=True),
    _row(28, "meta.getlock", meta.GetLock, meta.GetLockReply, _READERS, idempotent=True),
    _row(29, "meta.lockwait", meta.LockWait, meta.LockWaitReply, _READERS, idempotent=True),
    _row(30, "meta.session", meta.OpenSession, meta.OpenSessionReply, _READERS, idempotent=True),
    _row(31, "meta.renew", meta.Renew, meta.RenewReply, _READERS, idempotent=True),
    _row(32, "meta.holders", insight.GetHolders, insight.GetHoldersReply, _metas | {_ADMIN},
         idempotent=True),
    # between meta nodes
    _row(40, "raft.messages", RaftMessages, _E, _metas, idempotent=True),
    _row(41, "raft.snapshot", SnapshotChunk, _E, _metas, idempotent=True),
    _row(42, "meta.internal", Internal, InternalReply, _metas, idempotent=True),
    _row(43, "meta.lockgraph", LockGraph, LockGraphReply, _metas, idempotent=True),
    _row(44, "meta.digest", scrub.DigestOf, scrub.DigestReply, _metas | {_ADMIN}, idempotent=True),
    _row(45, "meta.rebuild", scrub.RebuildReplica, _E, _metas | {_ADMIN}, idempotent=True),
    _row(46, "meta.export", insight.ExportState, insight.ExportStateReply, frozenset({_ADMIN}),
         idempotent=False),
    _row(52, "meta.snapshot", snapshots.TakePart, _E, _metas, idempotent=True),
    _row(53, "meta.trash", trash.ListTrash, trash.ListTrashReply, _READERS, idempotent=True),
    _row(54, "meta.purge", trash.PurgeTrash, _E, _USERS, idempotent=True),
    _row(55, "meta.limits", quota.GetLimits, quota.GetLimitsReply, _READERS, idempotent=True),
    _row(56, "root.room", quota.MakeRoom, quota.MakeRoomReply, _metas, idempotent=True),
    _row(57, "root.quota", quota.GetQuota, quota.GetQuotaReply, _READERS, idempotent=True),
    # storage
    _row(60, "store.put", store.PutFragment, _E, _writers | {_STORAGE}, idempotent=True),
    _row(61, "store.get", store.GetFragment, store.FragmentInfo, _ANY, idempotent=True),
    _row(62, "store.delete", store.DeleteSegments, _E, _metas, idempotent=True),
    _row(63, "store.list", store.ListFragments, store.ListFragmentsReply,
         frozenset({_META, _STORAGE, _ADMIN}), idempotent=True),
    _row(64, "store.find", store.FindChunks, store.FindChunksReply, _writers, idempotent=True),
    _row(65, "store.publish", store.PublishChunks, _E, _writers, idempotent=True),
    _row(66, "store.stat", meta.Empty, store.StoreStat, _ANY, idempotent=True),
    _row(67, "store.verify", scrub.VerifyFragments, scrub.VerifyReply, _scrubbers, idempotent=True),
    _row(68, "store.prove", scrub.ProveStripes, scrub.ProveReply, _scrubbers, idempotent=True),
    _row(69, "store.entries", scrub.ListEntries, scrub.ListEntriesReply, _scrubbers,
         idempotent=True),
    _row(70, "store.forget", scrub.ForgetEntries, _E, _scrubbers, idempotent=True),
    _row(75, "store.held", moving.ListHeld, moving.ListHeldReply, _metas, idempotent=True),
    _row(76, "store.fetch", moving.FetchFragments, moving.FetchReply, _metas, idempotent=True),
    _row(77, "store.seal", moving.SealAt, _E, _metas, idempotent=True),
    _row(78, "store.drop", moving.DropFragments, moving.DropReply, _metas, idempotent=True),
    _row(79, "node.usage", insight.GetUsage, insight.UsageReply, _metas | {_ADMIN},
         idempotent=True),
    # server to client, on the client's own connection
    _row(80, "client.recall", meta.Recall, _E, _metas, idempotent=True),
)  # fmt: skip

BY_NUMBER: dict[int, Method] = {m.number: m for m in METHODS}
BY_NAME: dict[str, Method] = {m.name: m for m in METHODS}
assert len(BY_NUMBER) == len(BY_NAME) == len(METHODS)
