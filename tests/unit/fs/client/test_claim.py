"""Who may have the file system: all together, or one alone."""

from __future__ import annotations

import errno

import pytest
import trio

from cfs.core.errors import FsError, Unavailable
from cfs.fs.client.claim import Claim
from tests.unit.fs.client.world import World, run


async def busy(claim: Claim) -> str:
    with pytest.raises(FsError) as refused:
        await claim.take()
    assert refused.value.errno == errno.EBUSY
    return str(refused.value)


def test_one_alone_or_all_together() -> None:
    async def scenario(world: World) -> None:
        a, b, c = [await world.client(name) for name in "abc"]
        for files in (a, b):
            await Claim(files.client, exclusive=False).take()
        alone = Claim(c.client, exclusive=True)
        said = await busy(alone)
        assert "a has it mounted" in said or "b has it mounted" in said
        await a.close()
        assert "b has it mounted" in await busy(alone)
        await b.close()
        await alone.take()
        await alone.take()  # as after a remount
        other = await world.client("d")
        assert "c has it mounted for itself alone" in await busy(
            Claim(other.client, exclusive=False)
        )

    run(scenario)


def test_a_shared_claim_is_taken_again_and_an_exclusive_one_is_not() -> None:
    async def scenario(world: World) -> None:
        files = await world.client("a")
        shared = Claim(files.client, exclusive=False)
        await shared.take()
        world.nursery.start_soon(shared.keep)
        mutations = world.calls("meta.mutate", "a")
        files.client.expired(0)
        for _ in range(1000):
            if world.calls("meta.mutate", "a") > mutations:
                break
            await trio.sleep(0.001)
        else:
            pytest.fail("the claim is not taken again")
        alone = Claim(files.client, exclusive=True)
        files.client.expired(0)
        with pytest.raises(Unavailable):
            await alone.keep()

    run(scenario)
