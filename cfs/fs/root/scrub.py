"""The job `scrub`: all storage nodes verify what is at rest; *deep* also proves what must agree.

    spec    nodes (ids, empty: all), deep, repair, ino (of PATH, 0: everything)
    cursor  msgpack `Place`: the stage, how far each node is, the last segment proved

Stages: `rest` moves a cursor over each node's fragments (`store.verify`); `stripes` walks all
segment ids once, merging what storage nodes hold, what their dedupe entries name and what the
shards' extents refer to (`stripes`); `replicas` compares metadata replicas. A stage begins where it
was left; what was looked at already may be looked at again.

At the end, open findings that this look covered and did not meet again are closed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
import trio

from cfs.core.api.cluster import NodeState, Role
from cfs.core.api.scrub import Finding, VerifyFragments
from cfs.core.errors import DeadlineExceeded, Malformed, Retryable
from cfs.core.root import commands, findings
from cfs.fs.root.detector import Detector
from cfs.fs.root.jobs import Job, JobContext, JobKind
from cfs.fs.root.ports import Calls
from cfs.fs.root.replica import RootReplica
from cfs.fs.root.replicas import Replicas
from cfs.fs.root.stripes import Stripes
from cfs.fs.root.view import ClusterView
from cfs.net.ports import WallClock
from cfs.net.tasks import run_all

_LOG = structlog.get_logger()

RATE = 100 << 20
"""Bytes a second over all nodes, unless the operator says otherwise."""
STEP_BYTES = 16 << 20
VERIFY_S = 60.0
ATTEMPTS = 5
PAUSE_S = 0.5
_SERVING = (NodeState.IN, NodeState.DRAINING)


class Place(msgspec.Struct, array_like=True, kw_only=True):
    """How far a scrub is."""

    stage: str = "rest"
    nodes: dict[int, tuple[bytes, int, bool]] = {}
    """Node: last fragment, and whether it is through."""
    after: bytes = b""
    group: int = 0
    skipped: list[str] = []


class ScrubSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to scrub."""

    nodes: tuple[int, ...] = ()
    deep: bool = False
    repair: bool = True
    ino: int = 0
    path: str = ""


class ScrubJob:
    """Runs scrubs on the root leader."""

    def __init__(
        self,
        *,
        replica: RootReplica,
        view: ClusterView,
        calls: Calls,
        detector: Detector,
        clock: WallClock,
        stripes: Stripes,
        replicas: Replicas,
    ) -> None:
        self._replica = replica
        self._view = view
        self._calls = calls
        self._detector = detector
        self._clock = clock
        self._stripes = stripes
        self._replicas = replicas
        self.kind = JobKind(
            name="scrub", run=self.run, unit="bytes", rate=RATE, check=_check, key=_key
        )

    async def run(self, job: Job, context: JobContext) -> dict[str, Any]:
        """Run it from where it is; see `JobKind.run`."""
        spec = _spec(job.spec)
        place = msgspec.msgpack.decode(job.cursor, type=Place) if job.cursor else Place()
        storage = self._storage(spec)
        if not context.total:
            context.total = self._stored(storage) * (2 if spec.deep else 1)
        if spec.ino:
            await self._prove_path(spec, context)
            return {"findings": context.findings, "skipped": []}
        if place.stage == "rest":
            await self._at_rest(spec, storage, place, context)
            place.stage = "stripes"
        if spec.deep and place.stage == "stripes":
            await self._prove_all(spec, place, context)
            place.stage = "replicas"
        if spec.deep and not spec.nodes and place.stage == "replicas":
            await self._compare(spec, place, context)
            place.stage = "end"
        await self._close(job, spec, place, storage)
        if place.skipped:
            context.last_error = f"not looked at: {', '.join(place.skipped)}"
        return {"findings": context.findings, "skipped": place.skipped}

    # --- at rest

    async def _at_rest(
        self, spec: ScrubSpec, storage: list[int], place: Place, context: JobContext
    ) -> None:
        context.message = f"verifying what lies on {len(storage)} nodes"

        async def scrub(node: int) -> None:
            await self._node(spec, node, place, context)

        await run_all(scrub, storage)

    async def _node(self, spec: ScrubSpec, node: int, place: Place, context: JobContext) -> None:
        after, index, through = place.nodes.get(node, (b"", 0, False))
        attempts = 0
        while not through:
            await context.pace(STEP_BYTES)
            request = VerifyFragments(
                after=after, after_index=index, bytes_max=STEP_BYTES, repair=spec.repair
            )
            try:
                reply, _ = await self._calls.call(node, "store.verify", request, timeout_s=VERIFY_S)
            except (Retryable, DeadlineExceeded) as error:
                attempts += 1
                known = self._view.node(node)
                if attempts > ATTEMPTS and (known is None or known.state not in _SERVING):
                    name = known.name if known is not None else f"node {node}"
                    place.skipped.append(f"{name} ({error})")
                    break
                if attempts > 4 * ATTEMPTS:
                    raise
                await trio.sleep(PAUSE_S)
                continue
            attempts = 0
            after, index, through = reply.last, reply.last_index, reply.end
            place.nodes[node] = (after, index, through)
            context.findings += len(reply.findings)
            context.advance(reply.bytes_read, cursor=_cursor(place))

    # --- deep

    async def _prove_all(self, spec: ScrubSpec, place: Place, context: JobContext) -> None:
        context.message = "proving stripes, extents and dedupe entries"
        missing = [n.name for n in self._view.map.nodes
                   if n.role == Role.STORAGE and n.state not in _SERVING]  # fmt: skip
        place.skipped += [n for n in missing if not any(s.startswith(n) for s in place.skipped)]
        while True:
            await context.pace(STEP_BYTES)
            step = await self._stripes.step(place.after, repair=spec.repair)
            await self.note(step.findings, context)
            place.after = step.after
            context.advance(step.bytes_read, cursor=_cursor(place))
            if step.end:
                return

    async def _compare(self, spec: ScrubSpec, place: Place, context: JobContext) -> None:
        logs: set[int] = set()
        for group in self._view.map.groups:
            if group.group < place.group:
                continue
            name = "the root group" if group.group == 0 else f"shard {group.group - 1}"
            context.message = f"comparing the replicas of {name}"
            verdict = await self._replicas.compare(
                group, recount=True, log=not logs.issuperset(group.voters), repair=spec.repair
            )
            logs.update(group.voters)
            await self.note(verdict.findings, context)
            for node in verdict.silent:
                known = self._view.node(node)
                name = known.name if known is not None else f"node {node}"
                if name not in place.skipped:
                    place.skipped.append(name)
            place.group = group.group + 1
            context.advance(0, cursor=_cursor(place))

    async def _prove_path(self, spec: ScrubSpec, context: JobContext) -> None:
        context.message = f"proving the segments of {spec.path or spec.ino}"
        context.total = 0
        async for step in self._stripes.of_tree(spec.ino, repair=spec.repair):
            await context.pace(step.bytes_read)
            await self.note(step.findings, context)
            context.advance(step.bytes_read)

    async def note(self, found: list[Finding], context: JobContext) -> None:
        """Have the root group remember findings."""
        context.findings += len(found)
        for at in range(0, len(found), findings.BATCH_MAX):
            batch = tuple(found[at : at + findings.BATCH_MAX])
            await self._replica.propose(
                commands.NoteFindings(findings=batch, now_ms=self._now_ms())
            )

    # --- around

    async def _close(self, job: Job, spec: ScrubSpec, place: Place, storage: list[int]) -> None:
        if place.skipped:
            return
        named = [self._view.node(n) for n in storage] if spec.nodes else []
        kinds: tuple[str, ...] = ("fragment",)
        if spec.deep:
            kinds = ("fragment", "stripe", "extent", "dedupe")
            kinds += () if spec.nodes else ("replica", "log")
        await self._replica.propose(
            commands.CloseFindings(
                kinds=kinds,
                before_ms=job.started_ms,
                where=tuple(n.name for n in named if n is not None),
            )
        )

    def _storage(self, spec: ScrubSpec) -> list[int]:
        return [
            n.node_id
            for n in self._view.map.nodes
            if n.role == Role.STORAGE and (not spec.nodes or n.node_id in spec.nodes)
        ]

    def _stored(self, storage: list[int]) -> int:
        beats = (self._detector.beats.get(n) for n in storage)
        stores = (b.heartbeat.store for b in beats if b is not None)
        return sum(s.stored for s in stores if s is not None)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _cursor(place: Place) -> bytes:
    return msgspec.msgpack.encode(place)


def _spec(spec: dict[str, Any]) -> ScrubSpec:
    try:
        return msgspec.convert(spec, ScrubSpec)
    except msgspec.ValidationError as error:
        raise Malformed(f"scrub: {error}") from error


def _check(spec: dict[str, Any]) -> None:
    _spec(spec)


def _key(spec: dict[str, Any]) -> str:
    return "" if spec.get("ino") else "scrub"
