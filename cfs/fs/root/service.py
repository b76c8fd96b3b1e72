"""Answers every `root.*` method.

`root.map` is answered by any meta node from what it has applied; everything else by the leader
of the root group, others raise NotLeader. What an answer depends on is linearizable: read behind
a barrier or proposed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cfs.core.api import meta, root, scrub
from cfs.core.api.cluster import Role
from cfs.core.api.snapshots import GetSnapshots, GetSnapshotsReply
from cfs.core.errors import Refused, Unavailable
from cfs.core.root import commands, records, snapshots
from cfs.core.root.machine import check_token
from cfs.core.root.records import TokenRecord
from cfs.fs.root.admin import AdminCommands
from cfs.fs.root.detector import Detector
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.status import StatusBuilder
from cfs.fs.root.vault import Vault
from cfs.fs.root.view import ClusterView
from cfs.net.certificates import subject_of
from cfs.net.ports import WallClock
from cfs.net.rpc import Context, Handler

_CLIENT_NAME_MAX = 256


class RootService:
    """The handlers, wired."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        view: ClusterView,
        vault: Vault,
        detector: Detector,
        status: StatusBuilder,
        admin: AdminCommands,
        clock: WallClock,
    ) -> None:
        self._replica = replica
        self._view = view
        self._vault = vault
        self._detector = detector
        self._status_builder = status
        self._admin_commands = admin
        self._clock = clock
        self.handlers: Mapping[str, Handler] = {
            "root.map": self._map,
            "root.session": self._session,
            "root.keys": self._keys,
            "root.enrol": self._enrol,
            "root.renew": self._renew,
            "root.heartbeat": self._heartbeat,
            "root.status": self._status,
            "root.admin": self._admin,
            "root.findings": self._findings,
            "root.snapshots": self._snapshots,
        }

    def _map(self, _context: Context, request: root.GetMap, _payload: Any) -> root.GetMapReply:
        self._replica.sync()
        newer = self._view.map if self._view.epoch > request.have_epoch else None
        return root.GetMapReply(map=newer, root_leader=self._replica.leader)

    async def _session(
        self, context: Context, request: root.NewSession, _payload: Any
    ) -> root.NewSessionReply:
        if len(request.client) > _CLIENT_NAME_MAX:
            raise Refused(f"a client's name has at most {_CLIENT_NAME_MAX} characters")
        internal = context.peer.role == Role.META
        session = await self._replica.propose(commands.IssueSessions(internal=internal))
        return root.NewSessionReply(session=session)

    async def _keys(
        self, _context: Context, _request: root.GetVolumeKeys, _payload: Any
    ) -> root.GetVolumeKeysReply:
        return root.GetVolumeKeysReply(keys=self._vault.volume_keys(await self._replica.read()))

    async def _enrol(self, context: Context, request: root.Enrol, _payload: Any) -> root.EnrolReply:
        state = await self._replica.read()
        token = records.get(state, TokenRecord, records.TOKEN_PREFIX + request.token_id)
        if token is None or token.serial != context.peer.serial:
            raise Refused("this token is unknown or expired: make a new one with cfs token create")
        version = self._replica.cluster().authority
        certificate, digest, subject = self._issue(request.csr, request.role, request.name)
        now_ms = self._now_ms()
        check_token(state, request.token_id, request.role, digest, now_ms)
        node_id = await self._replica.propose(
            commands.Admit(
                token_id=request.token_id,
                key_digest=digest,
                now_ms=now_ms,
                role=request.role,
                name=request.name,
                host=request.host,
                port=request.port,
                domain=request.domain,
                weight=1.0,
                serial=subject.serial,
                expires_ms=subject.not_after_s * 1000,
            )
        )
        secrets = {"master_key": self._vault.master_key} if request.role == Role.META else {}
        return self._enrolled(certificate, node_id, secrets, version)

    async def _renew(
        self, context: Context, request: root.RenewCertificate, _payload: Any
    ) -> root.EnrolReply:
        await self._replica.read()
        role, name = context.peer.role, context.peer.name
        node_id = next(
            (
                r.node.node_id
                for r in self._replica.nodes()
                if r.node.name == name and r.node.role == role
            ),
            0,
        )
        version = self._replica.cluster().authority
        certificate, _digest, subject = self._issue(request.csr, role, name)
        await self._replica.propose(
            commands.IssueCertificate(
                serial=subject.serial,
                role=role,
                name=name,
                node_id=node_id,
                expires_ms=subject.not_after_s * 1000,
                now_ms=self._now_ms(),
            )
        )
        return self._enrolled(certificate, node_id, {}, version)

    def _heartbeat(
        self, context: Context, request: root.Heartbeat, _payload: Any
    ) -> root.HeartbeatReply:
        self._replica.require()
        node = self._view.node(request.node_id)
        if node is None or (node.name, node.role) != (context.peer.name, context.peer.role):
            raise Refused(f"{context.peer.role} {context.peer.name} is not node {request.node_id}")
        self._detector.beat(trio.current_time(), request)
        return root.HeartbeatReply(epoch=self._view.epoch)

    async def _status(
        self, _context: Context, _request: root.GetStatus, _payload: Any
    ) -> root.Status:
        await self._replica.read()
        return await self._status_builder.build()

    async def _findings(
        self, _context: Context, request: scrub.ReportFindings, _payload: Any
    ) -> meta.Empty:
        await self._replica.propose(
            commands.NoteFindings(findings=request.findings, now_ms=self._now_ms())
        )
        return meta.Empty()

    async def _admin(self, context: Context, request: root.Admin, _payload: Any) -> root.AdminReply:
        self._replica.require()
        value = await self._admin_commands.run(
            request.command, request.arguments, by=context.peer.name
        )
        return root.AdminReply(value=value)

    async def _snapshots(
        self, _context: Context, _request: GetSnapshots, _payload: Any
    ) -> GetSnapshotsReply:
        return GetSnapshotsReply(snapshots=snapshots.ready(await self._replica.read()))

    # --- certificates

    def _issue(self, csr: bytes, role: str, name: str) -> tuple[bytes, bytes, Any]:
        """Sign; give the certificate (PEM), the digest of its key, and its subject."""
        if role not in tuple(Role) or role == Role.ENROL:
            raise Refused(f"nobody can have the role {role!r}")
        authority = self._vault.authority(self._replica.state)
        now_s = self._clock.time_ns() // 1_000_000_000
        certificate = authority.issue(csr, role=role, name=name, now_s=now_s)
        return certificate, key_digest(certificate), subject_of(certificate)

    def _enrolled(
        self, certificate: bytes, node_id: int, secrets: dict[str, bytes], version: int
    ) -> root.EnrolReply:
        """Answer with the bundle the certificate belongs to; raises Unavailable if it changed."""
        cluster = self._replica.cluster()
        if cluster.authority != version:
            raise Unavailable("the certificate authority changed meanwhile: ask again")
        return root.EnrolReply(
            certificate=certificate,
            ca_bundle=cluster.ca_bundle,
            node_id=node_id,
            cluster_id=cluster.cluster_id,
            map=self._view.map,
            secrets=secrets,
        )

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def key_digest(certificate: bytes) -> bytes:
    """Give the SHA-256 of a certificate's public key: the same for every request by that key."""
    public = x509.load_pem_x509_certificate(certificate).public_key()
    encoded = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()
