"""What a member of a placement group lacks, and where what lies elsewhere belongs."""

from __future__ import annotations

from cfs.core.api.moving import Held
from cfs.core.place.repair import Copies, fetch_of, is_hopeless, lacking, owner_of


def row(index: int, *, data: int = 2, parity: int = 1, sound: bool = True) -> Held:
    return Held(
        segment=b"s" * 16, index=index, data=data, parity=parity, segment_length=10, length=5,
        raw_bytes=1, sealed_bytes=1, digest=b"d", sound=sound,
    )  # fmt: skip


def test_a_coded_fragment_belongs_to_its_position() -> None:
    copies = Copies(held=[(1, row(0)), (2, row(1)), (3, row(2))])
    assert lacking(copies, (9, 2, 3), 0, 1, source_answers=True) == [0]
    assert lacking(copies, (1, 2, 3), 0, 7, source_answers=False) == []
    copies.held[0] = (1, row(0, sound=False))
    assert lacking(copies, (1, 2, 3), 0, 0, source_answers=False) == [0], "its disk fails"
    assert owner_of(copies, 1, (1, 9, 3), 2) == (9, 1)
    longer = Copies(held=[(1, row(0))])
    assert lacking(longer, (1, 2, 3, 4), 3, 0, source_answers=False) == [], "an earlier profile"


def test_copies_follow_the_source_or_are_made_while_too_few() -> None:
    copies = Copies(held=[(1, row(0, data=1)), (3, row(1, data=1))])
    assert lacking(copies, (9, 2, 3), 0, 1, source_answers=True) == [0]
    assert lacking(copies, (1, 9, 3), 1, 2, source_answers=True) == [], "the source has none"
    left = Copies(held=[(3, row(1, data=1))])
    assert lacking(left, (9, 2, 3), 0, 1, source_answers=False) == [0]
    assert lacking(copies, (1, 9, 3), 1, 2, source_answers=False) == [], "there are enough"


def test_a_strange_copy_is_proven_at_its_twin_or_a_new_holder() -> None:
    copies = Copies(held=[(1, row(0, data=1)), (3, row(1, data=1)), (7, row(0, data=1))])
    assert owner_of(copies, 0, (1, 2, 3), 7) == (1, 0)
    few = Copies(held=[(3, row(1, data=1)), (7, row(0, data=1))])
    assert owner_of(few, 0, (1, 2, 3), 7) == (1, 0)
    enough = Copies(held=[(1, row(0, data=1)), (3, row(1, data=1)), (7, row(5, data=1))])
    assert owner_of(enough, 5, (1, 2, 3), 7) == (1, 0)


def test_what_cannot_be_rebuilt_is_told_before_anybody_is_asked() -> None:
    assert is_hopeless(Copies(held=[(2, row(1))]), 0)
    assert not is_hopeless(Copies(held=[(2, row(1))]), 1)
    assert not is_hopeless(Copies(held=[(2, row(1)), (3, row(2))]), 0)


def test_a_request_names_exact_and_sound_holders_first() -> None:
    copies = Copies(held=[(3, row(2)), (1, row(0, sound=False)), (2, row(1)), (4, row(0))])
    assert fetch_of(copies, 0).holders == ((4, 0), (1, 0), (3, 2), (2, 1))
