"""Bounds of the cache while what it holds is in use."""

from __future__ import annotations

import pytest

from cfs.fs.client.cache import Cache
from tests.unit.fs.client.world import World, run


def test_nodes_in_use_are_not_looked_through_for_each_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 100,000 files open that would be 10,000,000,000 looks."""
    looks: list[int] = []
    plain = Cache._push_out_oldest
    monkeypatch.setattr(
        Cache, "_push_out_oldest", lambda cache: (looks.append(len(cache._nodes)), plain(cache))
    )

    async def scenario(world: World) -> None:
        looks.clear()
        cache = (await world.client("a", nodes=64)).client.cache
        for ino in range(1000, 2000):
            cache.node(ino).pins += 1
        assert all(cache.peek(ino) for ino in range(1000, 2000))
        assert len(looks) < 1000 // 8 + 10
        for ino in range(1000, 2000):
            cache.node(ino).pins -= 1
        for ino in range(2000, 2100):
            cache.node(ino)
        assert sum(cache.peek(ino) is not None for ino in range(1000, 2100)) <= 64

    run(scenario)
