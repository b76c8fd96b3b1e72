"""Snapshots of a shard against frozen copies of a POSIX tree: what was, stays, whatever comes."""

from __future__ import annotations

import copy

import pytest

from cfs.core.api.store import ChunkRef
from cfs.core.errors import FsError, Refused
from cfs.core.ids import ROOT_INO
from cfs.core.meta import history, read, trimming, versions
from cfs.core.meta.commands import DropSnapshot, Relocate, TakeSnapshot
from tests.model.shard_world import check
from tests.model.test_shard import Machine


class Frozen(Machine):
    """A machine that is compared with a snapshot and never changes."""

    def __init__(self, live: Past, epoch: int) -> None:  # not the base's: nothing is made
        self.random = live.random
        self.world = live.world
        self.epoch = epoch
        named = [n for n in live.nodes if n.links]
        self.nodes = copy.deepcopy(named)
        inos = [live.ino(n) for n in named]
        self.inos = {id(n): ino for n, ino in zip(self.nodes, inos, strict=True)}

    @property
    def kv(self):
        return history.past(self.world.kvs[0], self.epoch)


class Past(Machine):
    """A machine that takes and deletes snapshots."""

    def __init__(self, seed: int, *, dirs: int) -> None:
        super().__init__(seed, dirs=dirs)
        self.epoch = 0
        self.frozen: list[Frozen] = []

    def snapshot(self) -> None:
        self.epoch += self.random.choice([1, 1, 2])
        if self.random.random() < 0.2:  # another shard failed: the snapshot is abandoned
            self.world.one(0, DropSnapshot(epoch=self.epoch))
            with pytest.raises(Refused):
                self.world.one(0, TakeSnapshot(epoch=self.epoch))
            return
        self.world.one(0, TakeSnapshot(epoch=self.epoch))
        self.frozen.append(Frozen(self, self.epoch))

    def relocate(self) -> None:
        """Move every chunk of a segment to another, in the present and in every snapshot."""
        segments = sorted({key[1:17] for key, _ in self.kv.scan(b"r", b"s")})
        if not segments:
            return
        old = self.random.choice(segments)
        self.label += 1
        new = (8).to_bytes(8, "big") + self.label.to_bytes(8, "big")
        refs = {
            e.chunk_id: ChunkRef(
                chunk_id=e.chunk_id, segment=new, data=4, parity=2, segment_length=1 << 22,
                at=e.at, stored=e.stored, raw=e.raw, key_version=e.key_version,
            )
            for _, e in read.referrers(self.kv, old)
        }  # fmt: skip
        after = b""
        while True:
            done = self.world.one(0, Relocate(segment=old, refs=tuple(refs.values()), after=after))
            after = done.after
            if not after:
                break

    def drop(self) -> None:
        if self.frozen:
            gone = self.frozen.pop(self.random.randrange(len(self.frozen)))
            self.world.one(0, DropSnapshot(epoch=gone.epoch))
            with pytest.raises(FsError):
                read.attr(gone.kv, ROOT_INO)

    def compare(self) -> None:
        super().compare()
        for frozen in self.frozen:
            frozen.compare()

    def run(self, steps: int, weights: dict[str, int]) -> None:
        super().run(steps, weights)
        while self.frozen:
            self.drop()
            self.settle()
            self.compare()
            check(self.world)
        self.settle()
        check(self.world)
        assert read.totals(self.kv).versions == 0

    def settle(self) -> None:
        for _ in range(10_000):
            if not read.totals(self.kv).trims:
                return
            self.world.apply(0)
        raise AssertionError("trimming does not end")


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "STEP_VERSIONS", 3)
    monkeypatch.setattr(trimming, "LAZY_PAGES_MIN", 2)
    monkeypatch.setattr(trimming, "STEP_PAGES", 1)


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_shows_the_names_of_its_time(seed: int) -> None:
    weights = {"create": 6, "unlink": 3, "rmdir": 3, "link": 4, "rename": 8, "attributes": 2,
               "xattr": 3, "reclaim": 1, "unnamed": 1, "snapshot": 1, "drop": 1}  # fmt: skip
    Past(seed, dirs=12).run(500, weights)


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_shows_the_bytes_of_its_time(seed: int) -> None:
    weights = {"create": 1, "unlink": 1, "write": 10, "resize": 4, "pack": 3, "reclaim": 1,
               "copy": 3, "punch": 2, "link": 1, "snapshot": 2, "drop": 1,
               "relocate": 2}  # fmt: skip
    Past(seed, dirs=2).run(250, weights)
