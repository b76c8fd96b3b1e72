"""How a peer is fed: probing, the bounds of the pipeline, losses, snapshots."""

from __future__ import annotations

from cfs.core.raft.progress import Progress, ProgressState


def _replicating(match: int = 10) -> Progress:
    progress = Progress(match + 1, 0)
    progress.accepted(match)
    assert progress.state is ProgressState.REPLICATE
    return progress


def test_one_probe_at_a_time():
    progress = Progress(11, 0)
    assert progress.may_send(4, 1000)
    progress.sent(12, 50)
    assert not progress.may_send(4, 1000)
    assert progress.next_index == 11
    progress.rejected(6)
    assert progress.next_index == 7
    assert progress.may_send(4, 1000)


def test_pipeline_is_bounded_in_number_and_bytes():
    progress = _replicating()
    progress.sent(11, 10)
    progress.sent(12, 10)
    assert not progress.may_send(2, 1000)
    assert not progress.may_send(9, 20)
    assert progress.may_send(3, 21)
    assert progress.next_index == 13
    assert progress.accepted(11)
    assert (progress.inflight_count, progress.inflight_bytes) == (1, 10)
    assert not progress.accepted(11)
    progress.accepted(12)
    assert (progress.inflight_count, progress.inflight_bytes, progress.next_index) == (0, 0, 13)


def test_only_the_first_rejection_of_a_lost_pipeline_counts():
    progress = _replicating()
    for index in range(11, 15):
        progress.sent(index, 10)
    progress.rejected(10)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 11)
    progress.sent(14, 40)
    progress.rejected(10)
    assert progress.probing, "the probe under way stands"
    progress.accepted(14)
    assert (progress.state, progress.match_index) == (ProgressState.REPLICATE, 14)


def test_match_falls_when_the_peer_lost_its_tail():
    progress = _replicating(10)
    progress.sent(11, 10)
    progress.rejected(7)
    assert (progress.match_index, progress.next_index) == (7, 8)


def test_two_silent_heartbeats_repeat_what_was_lost():
    progress = _replicating()
    assert not progress.beat_answered(), "nothing is awaited"
    progress.sent(11, 10)
    assert not progress.beat_answered()
    assert progress.beat_answered()
    assert not progress.beat_answered()
    progress.accepted(11)
    assert not progress.beat_answered()


def test_snapshot_state_sends_nothing_until_the_stream_ended():
    progress = Progress(5, 0)
    progress.snapshot_started(20)
    assert not progress.may_send(9, 1000)
    assert progress.needs_after() == 20
    progress.rejected(3)
    assert progress.state is ProgressState.SNAPSHOT
    progress.snapshot_ended(ok=True)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 21)
    assert not progress.may_send(9, 1000), "the peer's word, or two heartbeats, come first"
    progress.accepted(25)
    assert (progress.state, progress.next_index) == (ProgressState.REPLICATE, 26)


def test_failed_snapshot_starts_over_after_two_heartbeats():
    progress = Progress(5, 0)
    progress.snapshot_started(20)
    progress.snapshot_ended(ok=False)
    assert progress.next_index == 1
    assert not progress.beat_answered()
    assert progress.beat_answered()
    assert progress.may_send(9, 1000)


def test_old_acknowledgement_does_not_end_a_snapshot():
    progress = Progress(5, 0)
    progress.snapshot_started(20)
    progress.accepted(4)
    assert progress.state is ProgressState.SNAPSHOT
    progress.accepted(20)
    assert progress.state is ProgressState.REPLICATE
