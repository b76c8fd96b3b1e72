"""Mixed sizes over TLS, both ways at once, through sockets that are full most of the time."""

import random

import pytest
import trio
from networld import HOST, World, running, statfs, tls_make

from cfs.core.api.store import PutFragment
from cfs.net.pool import Pool


@pytest.mark.parametrize("seed", [1, 2])
def test_every_byte_arrives_whatever_waits_in_between(seed):
    chance = random.Random(seed)
    sizes = [chance.choice((0, 10, 300, 5_000, 16_384, 40_000, 131_000, 300_000, 2_000_000))
             for _ in range(300)]  # fmt: skip

    async def one(pool, n, size):
        payload = bytes([n % 251]) * size
        if n % 2:
            put = PutFragment(segment=b"s", index=0, data=1, parity=1, segment_length=1)
            _, back = await pool.call(1, "store.put", put, payload, timeout_s=30)
        else:
            reply, back = await pool.call(1, "meta.statfs", statfs(n), payload, timeout_s=30)
            assert reply.inodes == n
        assert back == payload

    async def main():
        make, world = tls_make(), World()
        with trio.fail_after(30):
            async with running(make, world) as (server, pool):
                other = Pool(
                    transport=make("gateway", "g"),
                    resolve=lambda _node: (HOST, server.port),
                    epoch=lambda: 1,
                    on_epoch=lambda _epoch: None,
                )
                async with trio.open_nursery() as nursery:
                    await nursery.start(other.run)
                    async with trio.open_nursery() as callers:
                        for n, size in enumerate(sizes):
                            callers.start_soon(one, (pool, other)[n % 3 == 0], n, size)
                    nursery.cancel_scope.cancel()
                assert not server.counters.snapshot()
                assert not pool.counters.snapshot()

    trio.run(main)
