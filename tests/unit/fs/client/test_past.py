"""What a snapshot shows is the same however many read it at once."""

import trio

from cfs.core.api import meta
from cfs.core.api.snapshots import GetSnapshotsReply, Snapshot
from cfs.fs.client.numbers import seen_in
from cfs.fs.client.past import Past, PastFile

PIECE = 100
SIZE = 5000


class Shards:
    """Answers for one file of a snapshot, a piece at a time, as slowly as it likes."""

    def __init__(self):
        self.asked = 0

    def site(self):
        return 0

    async def ask(self, _group, method, request, *, deadline):
        del deadline
        if method == "root.snapshots":
            one = Snapshot(epoch=1, name="one", scope=1, path="/", created_ms=0, schedule="")
            return GetSnapshotsReply(snapshots=(one,))
        self.asked += 1
        await trio.sleep(0.001 * (1 + request.offset % 7))
        start = request.offset - request.offset % PIECE
        extents = tuple(
            meta.Extent(offset=at, length=PIECE)
            for at in range(start, min(SIZE, start + 3 * PIECE), PIECE)
        )
        end = extents[-1].offset + PIECE
        return meta.LayoutReply(at=1, attr=None, extents=extents, end=end, lease=0)


def test_readers_of_one_file_at_once_each_get_all_of_their_range():
    shards = Shards()
    past = Past(shards, lambda: trio.current_time() + 10)
    file = PastFile(seen_in(1, 77))
    wrong = []

    async def read(offset, stop):
        at = offset - offset % PIECE
        for tile in await past.tiles(file, offset, stop):
            if tile.offset != at:
                wrong.append((offset, stop))
            at = tile.offset + tile.length
        if at < stop:
            wrong.append((offset, stop))

    async def main():
        async with trio.open_nursery() as nursery:
            for start in (4900, 0, 1300, 2600, 0, 3333):
                nursery.start_soon(read, start, min(SIZE, start + 1024))

    trio.run(main)
    assert not wrong
