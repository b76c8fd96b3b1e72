"""A node says in its log, once, that the root leader shut it out or is out of reach."""

import pytest
import structlog
import trio
import trio.testing

from cfs.core.errors import Unavailable
from cfs.fs.root.heartbeat import PERIOD_S, SILENCE_S, HeartbeatSender


class View:
    epoch = 3

    def on_epoch(self, epoch):
        self.epoch = epoch


class Leader:
    def __init__(self):
        self.error = None

    async def ask(self, method, request, **_limits):
        if self.error is not None:
            raise self.error
        return request


@pytest.mark.parametrize(
    ("error", "after_s", "event"),
    [
        (Unavailable("node 1: certificate ab is revoked", refused=True), PERIOD_S, "shut_out"),
        (Unavailable("no way there"), SILENCE_S, "root_out_of_reach"),
    ],
)
def test_trouble_is_told_once_and_its_end_too(error, after_s, event):
    leader = Leader()
    sender = HeartbeatSender(node_id=1, view=View(), leader=leader, started_ms=0, version="1")

    async def main():
        async with trio.open_nursery() as nursery:
            await nursery.start(sender.run)
            await trio.sleep(0.1)
            leader.error = error
            await trio.sleep(after_s - 0.2)
            assert logs == []
            await trio.sleep(10)
            leader.error = None
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    with structlog.testing.capture_logs() as logs:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [entry["event"] for entry in logs] == [event, "root_reached_again"]
