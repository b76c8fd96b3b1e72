"""Decides which fragments a node lacks, and where a fragment that lies on the wrong node belongs.

Rules of a placement group with an ordered list of members:

    coded k+m     fragment i belongs to the member at position i
    replicated    any m + 1 members hold a copy each, under distinct indexes 0..m

Pure: what is held where comes from listings, what is to be done goes back as values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cfs.core.api.moving import Fetch, Held

Holders = Mapping[int, Held]


class Copies(msgspec.Struct, kw_only=True):
    """Who holds what of one segment: `(node, fragment)` in the order they were listed."""

    held: list[tuple[int, Held]]

    def sound(self, node: int, index: int) -> Held | None:
        """Give a fragment that a node holds on a sound disk."""
        for holder, row in self.held:
            if holder == node and row.index == index and row.sound:
                return row
        return None


def lacking(
    copies: Copies, members: Sequence[int], position: int, source: int, *, source_answers: bool
) -> list[int]:
    """Give the indexes that the member at `position` should hold and does not.

    `members` names the target there already; `source` is who was there before. What the source
    holds is to be held by the target, too. When it does not answer, what it must have held is
    derived: the fragment of this position, or a copy while there are too few.
    """
    target = members[position]
    form = copies.held[0][1]
    if form.data > 1:
        if position >= form.data + form.parity or copies.sound(target, position):
            return []
        return [position]
    if source_answers:
        kept = [row.index for node, row in copies.held if node == source]
        return [i for i in kept if copies.sound(target, i) is None]
    having = {node: row.index for node, row in copies.held if row.sound and node in members}
    if len(having) > form.parity or target in having:
        return []
    free = [i for i in range(form.parity + 1) if i not in having.values()]
    return free[:1]


def owner_of(copies: Copies, index: int, members: Sequence[int], stranger: int) -> tuple[int, int]:
    """Give `(member, index)` that must be proven before fragment `index` of `stranger` is dropped.

    `(0, 0)`: no member can hold it, so it stays.
    """
    form = copies.held[0][1]
    if form.data > 1:
        return (members[index], index) if index < len(members) else (0, 0)
    having = [(n, row.index) for n, row in copies.held if n in members and row.sound]
    for node, kept in having:
        if kept == index:
            return node, kept
    if len({node for node, _ in having}) > form.parity:
        return having[0]
    holding = {node for node, _ in having}
    for node in members:
        if node not in holding and node != stranger:
            return node, index
    return (0, 0)


def is_hopeless(copies: Copies, index: int) -> bool:
    """Tell whether fragment `index` can neither be copied nor rebuilt from what was listed."""
    form = copies.held[0][1]
    indexes = {row.index for _, row in copies.held}
    return form.data > 1 and index not in indexes and len(indexes) < form.data


def fetch_of(copies: Copies, index: int) -> Fetch:
    """Make the request for a fragment: exact copies first, sound ones before others."""
    form = copies.held[0][1]
    ordered = sorted(copies.held, key=lambda pair: (pair[1].index != index, not pair[1].sound))
    return Fetch(
        segment=form.segment,
        index=index,
        data=form.data,
        parity=form.parity,
        segment_length=form.segment_length,
        raw_bytes=form.raw_bytes,
        sealed_bytes=form.sealed_bytes,
        holders=tuple((node, row.index) for node, row in ordered),
    )
