"""Proves segments: reads every fragment, wherever it is, and says what does not agree.

Fragments whose own checksums are right can still be wrong together. The segment itself decides:
its table and every chunk carry checksums (`core.segment.container`), so of all choices of `k`
fragments the one whose segment is whole is right, and every fragment that differs from its coding
is wrong. Then what extents and dedupe entries say of the segment is compared with its table.

Memory: the fragments of one segment at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import msgspec
import structlog

from cfs.core.api.cluster import Profile
from cfs.core.api.scrub import Chunk, Finding, Stripe
from cfs.core.api.store import PutFragment
from cfs.core.code import erasure
from cfs.core.errors import CfsError, Corrupt, NotFound
from cfs.core.segment import container
from cfs.fs.store.peers import Peers
from cfs.net.ports import Threads

_LOG = structlog.get_logger()

Place = tuple[int, int]
"""(node, fragment index)"""


class Proof(msgspec.Struct, kw_only=True):
    """What proving one segment came to."""

    bytes_read: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    rows: list[container.Row]
    fragments: list[erasure.Bytes]


class Prover:
    """Proves and repairs; runs on any storage node."""

    def __init__(self, *, peers: Peers, threads: Threads) -> None:
        self._peers = peers
        self._threads = threads

    async def prove(self, stripe: Stripe, *, repair: bool) -> Proof:
        """Check one segment; raises nothing but what makes asking again worthwhile."""
        proof = Proof()
        profile = Profile(stripe.data, stripe.parity)
        length = erasure.fragment_length(stripe.segment_length, profile)
        good: dict[Place, bytes] = {}
        bad: dict[Place, str] = {}
        unknown: set[Place] = set()
        for place in self._places(stripe, profile):
            await self._read(stripe, place, length, good, bad, unknown)
        proof.bytes_read = sum(map(len, good.values()))
        columns: dict[int, bytes] = {}
        for (_, index), fragment in good.items():
            columns.setdefault(index, fragment)
        if len(columns) < (1 if profile.data == 1 else profile.data):
            await self._lost(stripe, profile, columns, bad, unknown, proof)
            return proof
        choice = await self._threads.run(choose, stripe, profile, good)
        if choice is None:
            proof.findings.append(
                self._finding(stripe, "stripe", -1, "", "no choice of its fragments gives a whole"
                              " segment: its bytes are lost")
            )  # fmt: skip
            return proof
        for place, fragment in good.items():
            if bytes(choice.fragments[place[1]]) != fragment:
                bad[place] = "its bytes disagree with the other fragments of its stripe"
        await self._mend(stripe, profile, choice, good, bad, unknown, proof, repair=repair)
        await self._compare(stripe, choice.rows, proof, repair=repair)
        return proof

    async def _read(
        self, stripe: Stripe, place: Place, length: int,
        good: dict[Place, bytes], bad: dict[Place, str], unknown: set[Place],
    ) -> None:  # fmt: skip
        try:
            fragment = await self._peers.get(place[0], stripe.segment, place[1])
        except NotFound:
            return
        except Corrupt as error:
            bad[place] = str(error)
        except CfsError:
            unknown.add(place)
        else:
            if len(fragment) == length:
                good[place] = fragment
            else:
                bad[place] = f"it has {len(fragment)} bytes, not {length}"

    def _places(self, stripe: Stripe, profile: Profile) -> list[Place]:
        """Give everywhere a fragment is known or meant to be, each once."""
        places = dict.fromkeys(stripe.holders)
        if profile.data > 1:
            members = self._peers.members(stripe.segment)
            for index, node in enumerate(members[: profile.total]):
                if not any(held == index for _, held in places):
                    places[node, index] = None
        return list(places)

    async def _lost(
        self, stripe: Stripe, profile: Profile, columns: Mapping[int, bytes],
        bad: Mapping[Place, str], unknown: set[Place], proof: Proof,
    ) -> None:  # fmt: skip
        if unknown:
            return  # nodes that do not answer may hold the rest
        said = "; ".join(f"fragment {p[1]} on {self._peers.name_of(p[0])}: {w}"
                         for p, w in bad.items())  # fmt: skip
        proof.findings.append(
            self._finding(
                stripe, "stripe", -1, "",
                f"{len(columns)} good fragments are left where {profile.data} are needed: its bytes"
                f" are lost {said}",
            )
        )  # fmt: skip

    async def _mend(
        self, stripe: Stripe, profile: Profile, choice: _Choice, good: Mapping[Place, bytes],
        bad: Mapping[Place, str], unknown: set[Place], proof: Proof, *, repair: bool,
    ) -> None:  # fmt: skip
        for place, said in bad.items():
            await self._write(stripe, choice, place, said, proof, repair=repair)
        have = {index for _, index in (*good, *bad)}
        serving = self._peers.serving()
        members = self._peers.members(stripe.segment)
        taken = {node for node, _ in (*good, *bad, *unknown)}
        for index in range(profile.total):
            if index in have or any(index == i for _, i in unknown):
                continue
            if profile.data > 1:
                node = members[index] if index < len(members) else 0
            else:
                node = next((n for n in members if n in serving and n not in taken), 0)
            if node not in serving:
                continue  # its home is away: repair's business, and nothing is wrong at rest
            taken.add(node)
            said = "it is missing from its stripe"
            await self._write(stripe, choice, (node, index), said, proof, repair=repair)

    async def _write(
        self, stripe: Stripe, choice: _Choice, place: Place, said: str, proof: Proof,
        *, repair: bool,
    ) -> None:  # fmt: skip
        node, index = place
        repaired = False
        if repair:
            request = PutFragment(
                segment=stripe.segment,
                index=index,
                data=stripe.data,
                parity=stripe.parity,
                segment_length=stripe.segment_length,
                raw_bytes=sum(row.raw for row in choice.rows),
                sealed_bytes=sum(row.stored for row in choice.rows),
                repair=True,
                replace=True,
            )
            try:
                await self._peers.put(node, request, choice.fragments[index])
                repaired = True
                said += "; written anew"
            except CfsError as error:
                said += f"; cannot be repaired now: {error}"
        where = self._peers.name_of(node)
        key = f"fragment {stripe.segment.hex()}.{index} {node}"
        proof.findings.append(
            Finding(kind="fragment", key=key, where=where, detail=said, repaired=repaired,
                    segment=stripe.segment, index=index)
        )  # fmt: skip

    async def _compare(
        self, stripe: Stripe, rows: list[container.Row], proof: Proof, *, repair: bool
    ) -> None:
        held = {(r.chunk_id, r.at, r.stored, r.raw, r.key_version) for r in rows}
        for chunk in stripe.extents:
            if _as_row(chunk) not in held:
                said = (f"an extent names chunk {chunk.chunk_id.hex()[:16]} at {chunk.at}, and the"
                        " segment does not hold it there")  # fmt: skip
                proof.findings.append(self._finding(stripe, "extent", chunk.at, "", said))
        if all(_as_row(chunk) in held for chunk in stripe.entries):
            return
        if repair:
            await self._peers.forget_entries(stripe.segment)
        proof.findings.append(
            msgspec.structs.replace(
                self._finding(stripe, "dedupe", -1, "", "dedupe entries name chunks that the"
                              " segment does not hold there" + "; dropped" * repair),
                repaired=repair,
            )
        )  # fmt: skip

    def _finding(self, stripe: Stripe, kind: str, number: int, where: str, said: str) -> Finding:
        name = f"{kind} {stripe.segment.hex()}" + (f" {number}" if number >= 0 else "")
        return Finding(kind=kind, key=name, where=where, detail=said, segment=stripe.segment)


def choose(stripe: Stripe, profile: Profile, good: Mapping[Place, bytes]) -> _Choice | None:
    """Find fragments whose segment is whole; give its table and its coding. Blocks."""
    if profile.data == 1:
        candidates: Iterable[bytes] = dict.fromkeys(good.values())
    else:
        columns: dict[int, list[bytes]] = {}
        for (_, index), fragment in good.items():
            if fragment not in columns.setdefault(index, []):
                columns[index].append(fragment)
        candidates = (
            erasure.decode(dict(zip(indexes, parts, strict=True)), profile, stripe.segment_length)
            for indexes in itertools.combinations(sorted(columns), profile.data)
            for parts in itertools.product(*(columns[i] for i in indexes))
        )
    for segment in candidates:
        rows = whole(segment, stripe.segment_length)
        if rows is not None:
            return _Choice(rows=rows, fragments=erasure.encode(segment, profile))
    return None


def whole(segment: bytes, length: int) -> list[container.Row] | None:
    """Give a segment's table if every byte of it matches its checksums."""
    try:
        rows = container.parse_table(segment)
        for row in rows:
            container.extract(segment, row)
    except Corrupt:
        return None
    end = rows[-1].at + rows[-1].stored
    return rows if end == len(segment) == length else None


def _as_row(chunk: Chunk) -> tuple[bytes, int, int, int, int]:
    return chunk.chunk_id, chunk.at, chunk.stored, chunk.raw, chunk.key_version
