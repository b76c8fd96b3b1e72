"""Enrols this machine with a token: makes a key, has it signed, writes the node's directory.

The key is kept on disk before the token is used. So when the answer is lost, or this machine dies,
the same call again continues: the root group lets a used token enrol the same key once more.
"""

from __future__ import annotations

from pathlib import Path

import trio

from cfs.core.api import root
from cfs.core.api.cluster import Role
from cfs.core.errors import (
    CfsError,
    DeadlineExceeded,
    Malformed,
    NotLeader,
    Refused,
    Retryable,
    Unavailable,
)
from cfs.fs.root.directory import Membership, NodeDirectory
from cfs.net.certificates import make_request, new_key
from cfs.net.identity import Identity
from cfs.net.pool import Pool
from cfs.net.ports import Transport, WallClock
from cfs.net.system import SystemClock
from cfs.net.tls import TlsTransport
from cfs.net.token import Token, decode_token

ATTEMPT_S = 5.0
PAUSE_S = 0.25


async def join(
    token_text: str,
    directory: Path,
    *,
    name: str,
    role: str = "",
    host: str = "",
    port: int = 0,
    domain: str = "",
    disks: tuple[Path, ...] = (),
    timeout_s: float = 60.0,
    transport: Transport | None = None,
    clock: WallClock = SystemClock(),  # noqa: B008 - it has no state
) -> Membership:
    """Enrol and write `directory`; durable on return.

    `role`: must be the token's when given. `host` and `port`: where meta and storage nodes will
    serve. Raises Malformed (the token), Refused (used, expired, name taken, directory in use) and
    DeadlineExceeded when no root leader answered in time.
    """
    token = decode_token(token_text)
    if role and role != token.role:
        raise Refused(f"this token is for the role {token.role}, not {role}")
    if token.role in (Role.META, Role.STORAGE) and not (host and port):
        raise Malformed(f"a {token.role} node needs the address it serves at")
    if token.expires_s <= clock.time_ns() // 1_000_000_000:
        raise Refused("this token has expired: make another with 'cfs node token'")
    home = NodeDirectory(directory)
    home.require_empty()
    key = home.pending_key()
    if key is None:
        key = new_key()
        home.write_pending_key(key)
    request = root.Enrol(
        token_id=token.token_id,
        role=token.role,
        name=name,
        csr=make_request(key),
        host=host,
        port=port,
        domain=domain,
    )
    reply = await _enrol(token, request, transport or TlsTransport(token.identity), timeout_s)
    if token.role == Role.META:
        home.write_master_key(reply.secrets["master_key"])
    if disks:
        home.write_disks(list(disks))
    home.save_map(reply.map)
    member = Membership(
        node_id=reply.node_id,
        name=name,
        role=token.role,
        cluster_id=reply.cluster_id,
        host=host,
        port=port,
        domain=domain or name,
        authority=reply.map.authority,
    )
    home.write_identity(member, Identity(key, reply.certificate, reply.ca_bundle))
    return member


async def _enrol(
    token: Token, request: root.Enrol, transport: Transport, timeout_s: float
) -> root.EnrolReply:
    """Find the root leader from the token's addresses, and enrol there."""
    pool = Pool(
        transport=transport,
        resolve=lambda _node: None,
        epoch=lambda: 0,
        on_epoch=lambda _epoch: None,
    )
    known: dict[int, tuple[str, int]] = {}
    failure: CfsError = Unavailable("the token names no address")
    deadline = trio.current_time() + timeout_s
    turn = 0
    leader: int | None = None
    while trio.current_time() < deadline:
        addresses = [*token.addresses, *(a for a in known.values() if a not in token.addresses)]
        address = known.get(leader) if leader is not None else None
        if address is None:
            if not addresses:
                break
            address = addresses[turn % len(addresses)]
            turn += 1
        try:
            asked, _ = await pool.call_address(
                *address, "root.map", root.GetMap(), timeout_s=ATTEMPT_S
            )
            if asked.map is not None:
                metas = [n for n in asked.map.nodes if n.role == Role.META]
                known = {n.node_id: (n.host, n.port) for n in metas}
            address = known.get(asked.root_leader or 0, address)
            reply, _ = await pool.call_address(*address, "root.enrol", request, timeout_s=ATTEMPT_S)
        except NotLeader as error:
            failure, leader = error, error.leader
        except (Retryable, DeadlineExceeded) as error:
            failure, leader = error, None
        else:
            assert isinstance(reply, root.EnrolReply)
            return reply
        await trio.sleep(PAUSE_S)
    raise DeadlineExceeded(f"nobody could enrol {request.name} in {timeout_s:.0f} s: {failure}")
