"""A filter of names forgets none, and takes few for others."""

from cfs.core.meta.name_filter import NameFilter


def test_every_name_is_found_and_few_others():
    names = NameFilter()
    for number in range(60_000):
        names.add(b"file-%d" % number)
    assert all(b"file-%d" % n in names for n in range(0, 60_000, 7))
    wrong = sum(b"other-%d" % n in names for n in range(20_000))
    assert wrong < 20_000 / 100
    assert b"file" not in NameFilter()
