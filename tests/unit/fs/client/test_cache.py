"""Bounds of the cache while what it holds is in use."""

from __future__ import annotations

import os

import pytest

from cfs.fs.client.cache import Cache
from cfs.fs.client.ownership import Ownership
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


def test_closing_one_of_many_open_files_does_not_look_through_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    plain = Ownership._release_oldest
    monkeypatch.setattr(
        Ownership, "_release_oldest", lambda it: (looks.append(len(it.files)), plain(it))
    )

    async def scenario(world: World) -> None:
        looks.clear()
        a = await world.client("a", writable=64)
        made = [await a.create_file(1, b"%d" % n, 0o644, os.O_RDWR) for n in range(400)]
        for fh, _ in made:
            await a.release(fh)
        assert 0 < len(looks) <= 400 // 8
        await a.sync()
        assert len(a.client.writeback.files) <= 64 + 8

    run(scenario)
