"""The master key in shares: any enough of them give it back, fewer or wrong ones are refused."""

import itertools

import pytest

from cfs.cli.key import combine_key, split_key
from cfs.core.errors import CfsError

KEY = bytes(range(32))


def test_any_three_of_five_give_the_key():
    shares = split_key(KEY, 5, 3)
    for chosen in itertools.permutations(shares, 3):
        assert combine_key(list(chosen)) == KEY
    assert combine_key(shares) == KEY
    assert KEY.hex()[:16] not in "".join(shares)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_are_refused(count):
    shares = split_key(KEY, 5, 3)[:count]
    with pytest.raises(CfsError, match="needed"):
        combine_key([*shares, shares[0]])


def test_changed_and_foreign_shares_are_refused():
    shares = split_key(KEY, 3, 2)
    changed = shares[0][:-12] + ("0" if shares[0][-12] != "0" else "1") + shares[0][-11:]
    with pytest.raises(CfsError, match="changed"):
        combine_key([changed, shares[1]])
    other = split_key(KEY[::-1], 3, 2)
    with pytest.raises(CfsError, match="different keys"):
        combine_key([shares[0], other[1]])
    with pytest.raises(CfsError):
        split_key(KEY, 3, 4)
