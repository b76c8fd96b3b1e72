"""The view: never older, refreshed when a newer epoch is heard of, kept on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from cfs.core.api import root
from cfs.core.api.cluster import ClusterMap, Node, NodeState, Profile, Role, ShardPlacement
from cfs.core.errors import Unavailable
from cfs.fs.root.directory import NodeDirectory
from cfs.fs.root.view import ClusterView
from tests.unit.fs.root.fakes import FakeCalls


def _map(epoch: int, *, revoked: tuple[int, ...] = ()) -> ClusterMap:
    nodes = tuple(
        Node(node_id=n, name=f"m{n}", role=Role.META, host="h", port=n, domain=f"d{n}",
             state=NodeState.IN)
        for n in (1, 2, 3)
    )  # fmt: skip
    return ClusterMap(
        epoch=epoch, cluster_id=b"c", name="t", site=0, shard_count=1, profile=Profile(2, 1),
        key_version=1, nodes=nodes, groups=(ShardPlacement(group=0, voters=(2,)),), placement=(),
        revoked=revoked,
    )  # fmt: skip


def _serve(calls: FakeCalls, node: int, newest: list[ClusterMap]) -> None:
    def answer(_context: Any, request: root.GetMap, _payload: Any) -> root.GetMapReply:
        known = newest[0] if newest[0].epoch > request.have_epoch else None
        return root.GetMapReply(map=known, root_leader=2)

    calls.handlers[node] = {"root.map": answer}


def test_offers_only_go_forward() -> None:
    view = ClusterView(_map(5))
    seen: list[int] = []
    view.watch(lambda m: seen.append(m.epoch))
    assert not view.offer(_map(5))
    assert not view.offer(_map(4))
    assert not view.offer(msgspec.structs.replace(_map(9), cluster_id=b"other"))
    assert view.offer(_map(6, revoked=(7,)), leader=3)
    assert (view.epoch, seen, view.root_leader) == (6, [6], 3)
    assert view.refused(7)
    assert view.resolve(3) == ("h", 3)
    assert view.resolve(9) is None
    assert view.name_of(1) == "m1"
    assert view.meta_nodes() == [2, 1, 3]


def test_refresh_asks_until_one_answers() -> None:
    async def main() -> None:
        view, calls, newest = ClusterView(_map(1)), FakeCalls(), [_map(4)]
        with pytest.raises(Unavailable):
            await view.refresh()
        view.attach(calls)
        with pytest.raises(Unavailable):
            await view.refresh()
        _serve(calls, 3, newest)
        await view.refresh()
        assert view.epoch == 4
        # Ten at once share one question.
        calls.log.clear()
        newest[0] = _map(5)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(view.refresh)
        assert view.epoch == 5
        assert len(calls.log) <= 3

    trio.run(main)


def test_a_short_command_keeps_what_it_heard_of(tmp_path: Path) -> None:
    async def main() -> None:
        home = NodeDirectory(tmp_path)
        calls = FakeCalls()
        view = ClusterView(_map(1), save=home.save_map)
        view.attach(calls)
        await view.settle()
        assert home.load_map() is None
        view.on_epoch(2)
        await view.settle()  # nobody answers
        _serve(calls, 1, [_map(2)])
        await view.settle()
        assert home.load_map() == _map(2)

    trio.run(main)


def test_a_newer_epoch_is_fetched_and_kept(tmp_path: Path) -> None:
    async def main() -> None:
        home = NodeDirectory(tmp_path)
        calls, newest = FakeCalls(), [_map(1)]
        view = ClusterView(_map(1), save=home.save_map)
        view.attach(calls)
        async with trio.open_nursery() as nursery:
            await nursery.start(view.run)
            view.on_epoch(3)
            await trio.sleep(0.5)  # nobody answers yet
            assert view.epoch == 1
            newest[0] = _map(3)
            _serve(calls, 1, newest)
            await trio.sleep(3)
            assert view.epoch == 3
            kept = home.load_map()
            assert kept == _map(3)
            asked = len(calls.log)
            view.on_epoch(3)
            await trio.sleep(10)
            assert len(calls.log) == asked
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_holding_an_epoch_waits_for_who_has_it_and_has_it_on_disk(tmp_path: Path) -> None:
    """What a storage node answers a seal with: true even after a restart."""
    home = NodeDirectory(tmp_path)

    async def main() -> None:
        calls, newest = FakeCalls(), [_map(4)]
        view = ClusterView(_map(1), save=home.save_map)
        view.attach(calls)
        _serve(calls, 2, newest)

        async def apply_later() -> None:
            await trio.sleep(0.25)
            newest[0] = _map(7)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(apply_later)
            await view.hold(7)
            kept = home.load_map()
            assert kept is not None
            assert kept.epoch == 7
        with pytest.raises(Unavailable, match="epoch 8"):
            await view.hold(8)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
