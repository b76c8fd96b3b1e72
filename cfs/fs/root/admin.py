"""An operator's commands to the root leader (`root.admin`): names, arguments, answers.

    token_create     role, valid_s?                        -> token, token_id, expires_ms
    token_revoke     token_id (hex)                        -> {}
    token_list                                             -> tokens
    node_list                                              -> nodes
    node_state       node, state (in, draining, out)       -> node, state
    node_set         node, host?, port?, domain?, weight?  -> node
    certificate_list                                       -> certificates
    revoke           node | serial (hex) | name + role     -> revoked
    ca_rotate                                              -> version   a second one is trusted
    ca_switch                                              -> version   the second one issues
    ca_retire                                              -> version   the first is forgotten
    key_rotate                                             -> version
    round_list                                             -> rounds
    collect                                                -> {}   begins a garbage pass now
    job_*                                                  see `job_commands`

Each of the three `ca_*` steps is refused until every node renewed its certificate after the one
before, which they do by themselves within seconds. `node` is a name or an id; a `?` marks what may
be left out. Times are wall clock milliseconds.

Raises Malformed for an unknown command or argument, NotFound for what is not there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from cfs.core.api.cluster import NodeState, Role
from cfs.core.errors import Malformed, NotFound, Refused
from cfs.core.root import commands, records, rounds
from cfs.core.root.records import CertificateRecord, NodeRecord, TokenRecord
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.vault import Vault
from cfs.net.certificates import Authority
from cfs.net.ports import Entropy, WallClock
from cfs.net.token import TOKEN_VALID_S, issue_token

TOKEN_VALID_S_MAX = 30 * 86_400
_SETTABLE = (NodeState.IN, NodeState.DRAINING, NodeState.OUT)
_Arguments = dict[str, Any]


class Command(NamedTuple):
    """A command that another module carries out: with its arguments and who asked."""

    run: Callable[[_Arguments, str], Awaitable[dict[str, Any]]]
    arguments: frozenset[str]


class AdminCommands:
    """Runs them on the root leader."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        vault: Vault,
        clock: WallClock,
        entropy: Entropy,
        collect: Callable[[], None],
        more: Mapping[str, Command] | None = None,
    ) -> None:
        self._replica = replica
        self._vault = vault
        self._clock = clock
        self._entropy = entropy
        self._collect_now = collect
        self._more = more or {}
        self._commands: dict[
            str, tuple[Callable[[_Arguments], Awaitable[dict[str, Any]]], frozenset[str]]
        ] = {
            "token_create": (self._token_create, frozenset({"role", "valid_s"})),
            "token_revoke": (self._token_revoke, frozenset({"token_id"})),
            "token_list": (self._token_list, frozenset()),
            "node_list": (self._node_list, frozenset()),
            "node_state": (self._node_state, frozenset({"node", "state"})),
            "node_set": (
                self._node_set, frozenset({"node", "host", "port", "domain", "weight"}),
            ),
            "certificate_list": (self._certificate_list, frozenset()),
            "revoke": (self._revoke, frozenset({"node", "serial", "name", "role"})),
            "ca_rotate": (self._ca_rotate, frozenset()),
            "ca_switch": (self._ca_switch, frozenset()),
            "ca_retire": (self._ca_retire, frozenset()),
            "key_rotate": (self._key_rotate, frozenset()),
            "round_list": (self._round_list, frozenset()),
            "collect": (self._collect, frozenset()),
        }  # fmt: skip

    async def run(self, command: str, arguments: dict[str, Any], *, by: str = "") -> dict[str, Any]:
        """Run one command behind a read barrier, for the administrator `by`; give its answer."""
        if command not in self._commands and command not in self._more:
            known = ", ".join((*self._commands, *self._more))
            raise Malformed(f"there is no command {command!r}: {known}")
        if command in self._more:
            allowed = self._more[command].arguments
        else:
            run, allowed = self._commands[command]
        unknown = sorted(set(arguments) - allowed)
        if unknown:
            raise Malformed(f"{command} takes no {unknown[0]!r}")
        await self._replica.read()
        if command in self._more:
            return await self._more[command].run(arguments, by)
        return await run(arguments)

    # --- tokens

    async def _token_create(self, arguments: _Arguments) -> dict[str, Any]:
        role = _text(arguments, "role")
        if role not in tuple(Role) or role == Role.ENROL:
            raise Malformed(f"{role!r} is no role: meta, storage, client, reader, gateway or admin")
        valid_s = arguments.get("valid_s", TOKEN_VALID_S)
        if not isinstance(valid_s, int) or not 0 < valid_s <= TOKEN_VALID_S_MAX:
            raise Malformed(f"a token is valid for 1 to {TOKEN_VALID_S_MAX} seconds")
        metas = [
            r.node
            for r in self._replica.nodes()
            if r.node.role == Role.META and r.node.state != NodeState.OUT
        ]
        now_ms = self._now_ms()
        token = issue_token(
            self._vault.authority(self._replica.state),
            role=role,
            addresses=tuple((n.host, n.port) for n in metas),
            now_s=now_ms // 1000,
            entropy=self._entropy,
            valid_s=valid_s,
        )
        await self._replica.propose(
            commands.MintToken(
                token_id=token.token_id,
                role=role,
                expires_ms=token.expires_s * 1000,
                serial=token.identity.subject.serial,
                now_ms=now_ms,
            )
        )
        return {
            "token": token.encode(),
            "token_id": token.token_id.hex(),
            "expires_ms": token.expires_s * 1000,
        }

    async def _token_revoke(self, arguments: _Arguments) -> dict[str, Any]:
        token_id = _hex(arguments, "token_id")
        await self._replica.propose(commands.RevokeToken(token_id=token_id))
        return {}

    async def _token_list(self, _arguments: _Arguments) -> dict[str, Any]:
        tokens = records.get_all(self._replica.state, TokenRecord, records.TOKEN_PREFIX)
        return {
            "tokens": [
                {
                    "token_id": t.token_id.hex(),
                    "role": t.role,
                    "expires_ms": t.expires_ms,
                    "used": bool(t.used_by),
                    "revoked": t.revoked,
                }
                for t in tokens
            ]
        }

    # --- nodes

    async def _node_list(self, _arguments: _Arguments) -> dict[str, Any]:
        return {
            "nodes": [
                {
                    "node": r.node.node_id,
                    "name": r.node.name,
                    "role": r.node.role.value,
                    "host": r.node.host,
                    "port": r.node.port,
                    "domain": r.node.domain,
                    "state": r.node.state.value,
                    "weight": r.node.weight,
                    "serial": f"{r.node.serial:x}",
                }
                for r in self._replica.nodes()
            ]
        }

    async def _node_state(self, arguments: _Arguments) -> dict[str, Any]:
        node = self._find(arguments).node
        state = _text(arguments, "state")
        if state not in _SETTABLE:
            raise Malformed(f"a node can be set in, draining or out, not {state!r}")
        change = commands.StateChange(node.node_id, node.state, state)
        await self._replica.propose(commands.SetStates(changes=(change,)))
        return {"node": node.node_id, "state": state}

    async def _node_set(self, arguments: _Arguments) -> dict[str, Any]:
        node = self._find(arguments).node
        weight = arguments.get("weight")
        if weight is not None and (not isinstance(weight, int | float) or weight <= 0):
            raise Malformed("a weight is a number above 0; drain a node with node_state")
        placed = any(node.node_id in members for members in self._lists())
        if arguments.get("domain", node.domain) != node.domain and placed:
            raise Refused(f"{node.name} holds data: its failure domain can no longer change")
        port = arguments.get("port")
        await self._replica.propose(
            commands.SetNode(
                node_id=node.node_id,
                host=None if arguments.get("host") is None else _text(arguments, "host"),
                port=port if isinstance(port, int) else None,
                domain=None if arguments.get("domain") is None else _text(arguments, "domain"),
                weight=None if weight is None else float(weight),
            )
        )
        return {"node": node.node_id}

    # --- certificates and keys

    async def _certificate_list(self, _arguments: _Arguments) -> dict[str, Any]:
        return {
            "certificates": [
                {
                    "serial": f"{c.serial:x}",
                    "role": c.role,
                    "name": c.name,
                    "node": c.node_id,
                    "expires_ms": c.expires_ms,
                    "revoked": c.revoked,
                }
                for c in self._certificates()
            ]
        }

    async def _revoke(self, arguments: _Arguments) -> dict[str, Any]:
        if "serial" in arguments:
            serials: tuple[int, ...] = (int.from_bytes(_hex(arguments, "serial"), "big"),)
        else:
            node = self._find(arguments).node.node_id if "node" in arguments else 0
            name = "" if node else _text(arguments, "name")
            role = "" if node else _text(arguments, "role")
            serials = tuple(
                c.serial
                for c in self._certificates()
                if (c.node_id == node if node else (c.name, c.role) == (name, role))
            )
        if not serials:
            raise NotFound("no certificate in force is of that name; see certificate_list")
        revoked = await self._replica.propose(commands.RevokeCertificates(serials=serials))
        return {"revoked": revoked}

    async def _ca_rotate(self, _arguments: _Arguments) -> dict[str, Any]:
        """Make the next authority and have everybody trust it; the present one still issues."""
        present = self._vault.authority(self._replica.state)
        following = present.rotated(now_s=self._now_ms() // 1000)
        trusting = Authority(
            key=present.key,
            certificate=present.certificate,
            others=present.others + following.certificate,
        )
        return await self._set_authority(trusting, following)

    async def _ca_switch(self, _arguments: _Arguments) -> dict[str, Any]:
        return await self._set_authority(self._vault.next_authority(self._replica.state))

    async def _ca_retire(self, _arguments: _Arguments) -> dict[str, Any]:
        return await self._set_authority(self._vault.authority(self._replica.state).retired())

    async def _set_authority(
        self, authority: Authority, following: Authority | None = None
    ) -> dict[str, Any]:
        wrap = self._vault.wrap_authority
        version = await self._replica.propose(
            commands.RotateAuthority(
                version=self._replica.cluster().authority,
                blob=wrap(authority),
                ca_bundle=authority.bundle,
                next_blob=b"" if following is None else wrap(following, following=True),
            )
        )
        return {"version": version}

    async def _key_rotate(self, _arguments: _Arguments) -> dict[str, Any]:
        version = records.get_counters(self._replica.state).key_version + 1
        blob = self._vault.new_volume_key(version)
        await self._replica.propose(commands.AddVolumeKey(version=version, blob=blob))
        return {"version": version}

    # --- collection

    async def _round_list(self, _arguments: _Arguments) -> dict[str, Any]:
        return {
            "rounds": [
                {
                    "round": r.number,
                    "phase": r.phase.name.lower(),
                    "segments": len(r.segments),
                    "pending": list(r.pending),
                }
                for r in rounds.read_rounds(self._replica.state)
            ]
        }

    async def _collect(self, _arguments: _Arguments) -> dict[str, Any]:
        self._collect_now()
        return {}

    # --- finding

    def _find(self, arguments: _Arguments) -> NodeRecord:
        wanted = arguments.get("node")
        for record in self._replica.nodes():
            if wanted in (record.node.node_id, record.node.name):
                return record
        raise NotFound(f"there is no node {wanted!r}; see node_list")

    def _certificates(self) -> list[CertificateRecord]:
        state = self._replica.state
        return records.get_all(state, CertificateRecord, records.CERTIFICATE_PREFIX)

    def _lists(self) -> list[tuple[int, ...]]:
        state = self._replica.state
        found = records.get_all(state, records.PlacementRecord, records.PLACEMENT_PREFIX)
        return [record.members for record in found]

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _text(arguments: _Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise Malformed(f"{name} is missing")
    return value


def _hex(arguments: _Arguments, name: str) -> bytes:
    text = _text(arguments, name)
    try:
        return bytes.fromhex(text if len(text) % 2 == 0 else "0" + text)
    except ValueError:
        raise Malformed(f"{name} is not hexadecimal: {text!r}") from None
