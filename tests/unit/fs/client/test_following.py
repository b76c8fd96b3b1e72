"""What comes next in a large directory: the same guesses while it changes, at a bounded cost."""

from __future__ import annotations

import random
import stat

from cfs.fs.client.following import NAMES_A_MISS, Following
from cfs.fs.client.nodes import COOKIE, Name, Node


def names(count: int) -> list[Name]:
    rng = random.Random(count)
    cookies = rng.sample(range(1, 1 << 58), count)
    return [Name(b"n%d" % n, n + 1, stat.S_IFREG, c, 0) for n, c in enumerate(cookies)]


def test_what_follows_is_in_the_order_of_who_goes_through() -> None:
    listed = names(500)
    following = Following(listed)
    assert following.after(listed[3], listed[5], 10) == listed[6:16]
    by_cookie = sorted(listed, key=COOKIE)
    assert following.after(by_cookie[3], by_cookie[5], 10) == by_cookie[6:16]
    assert following.after(listed[-2], listed[-1], 10) == []


def test_it_is_sorted_again_when_as_much_was_missed_as_that_costs() -> None:
    small, large = Following(names(10)), Following(names(4 * NAMES_A_MISS))
    small.missed()
    assert small.worn
    for _ in range(4):
        large.missed()
        assert not large.worn
    large.missed()
    assert large.worn


def test_a_listing_stays_sorted_while_names_go() -> None:
    """Not sorted again, and never different from what sorting would give."""
    rng = random.Random(1)
    node = Node(1)
    spare = names(300)
    kept = 0
    for _ in range(2000):
        new = rng.choice(spare)
        if rng.random() < 0.7:
            new = Name(new.name, 0, 0, 0, 0)
        before = node.listing
        old = node.entries.pop(new.name, None)
        node.entries[new.name] = new
        node.relist(old, new)
        expected = sorted((n for n in node.entries.values() if n.ino), key=COOKIE)
        if node.listing is None:
            assert new.ino or before is None
            node.listing = expected
        kept += node.listing is before
        assert node.listing == expected
    assert kept > 1000
