"""Promises of one machine to its host that a cluster under chance would show only rarely."""

from __future__ import annotations

import pytest

from cfs.core.errors import Corrupt, Malformed
from cfs.core.raft import message as m
from cfs.core.raft.machine import Machine
from cfs.core.raft.membership import decode_config, encode_config
from cfs.core.raft.settings import Settings

THREE = m.Config(voters=(1, 2, 3))


def _machine(node: int = 1, *, config: m.Config = THREE, **changes) -> Machine:
    arguments = {
        "state": m.HardState(),
        "snapshot": m.SnapshotMeta(index=0, term=0, config=config),
        "entries": [],
        "applied": 0,
        "settings": Settings(),
        "seed": node,
    } | changes
    return Machine(group=7, node=node, **arguments)


def _command(index: int, term: int, data: bytes = b"x") -> m.Entry:
    return m.Entry(index, term, m.EntryKind.COMMAND, data)


def _got(message: m.AnyMessage) -> m.Received:
    return m.Received(message=message)


def _of(effects: list[m.Effect], kind: type):
    return [effect for effect in effects if isinstance(effect, kind)]


def _sent(effects: list[m.Effect], kind: type):
    return [e for e in effects if isinstance(e, m.Send) and isinstance(e.message, kind)]


def _elect(machine: Machine, now_ms: int = 10_000) -> list[m.Effect]:
    machine.step(m.Tick(now_ms=0))
    machine.step(m.Tick(now_ms=now_ms))
    address = {"group": 7, "sender": 2, "receiver": 1}
    term = machine.term + 1
    effects = machine.step(_got(m.PreVoteReply(**address, term=term, granted=True)))
    effects += machine.step(_got(m.VoteReply(**address, term=term, granted=True)))
    assert machine.role == "candidate", "its own vote is not durable yet"
    return effects + machine.step(m.Saved(number=_of(effects, m.Save)[-1].number))


def _append(previous: tuple[int, int], *entries: m.Entry, term: int = 1, commit: int = 0):
    return _got(
        m.Append(
            group=7,
            sender=1,
            receiver=2,
            term=term,
            previous_index=previous[0],
            previous_term=previous[1],
            entries=entries,
            commit=commit,
        )
    )


def test_own_vote_counts_only_once_durable():
    machine = _machine()
    effects = _elect(machine)
    assert machine.role == "leader"
    assert [s.after_save for s in _sent(effects, m.Vote)] == [False, False]
    assert _sent(effects, m.Append), "the empty entry goes out at once"


def test_single_voter_commits_after_its_own_save():
    machine = _machine(config=m.Config(voters=(1,)))
    machine.step(m.Tick(now_ms=0))
    save = _of(machine.step(m.Tick(now_ms=5000)), m.Save)[0]
    effects = machine.step_many([m.Saved(number=save.number), m.Propose(token=5, data=b"a")])
    assert machine.commit == 0
    number = _of(effects, m.Save)[0].number
    effects = machine.step_many([m.Read(token=6), m.Saved(number=number)])
    assert [e.index for e in _of(effects, m.Apply)[0].entries] == [1, 2]
    assert _of(effects, m.ReadReady) == [m.ReadReady(token=6, index=2)]


def test_many_proposals_make_one_save_and_one_append_per_peer():
    machine = _machine()
    _elect(machine)
    address = {"group": 7, "receiver": 1, "term": 1}
    machine.step_many(
        [m.Saved(number=2)]
        + [_got(m.AppendReply(**address, sender=peer, index=1)) for peer in (2, 3)]
    )
    effects = machine.step_many([m.Propose(token=t, data=b"d") for t in range(10)])
    assert len(_of(effects, m.Proposed)) == 10
    assert [len(save.entries) for save in _of(effects, m.Save)] == [10]
    appends = _sent(effects, m.Append)
    assert sorted((s.message.receiver, len(s.message.entries)) for s in appends) == [
        (2, 10),
        (3, 10),
    ]
    assert max(map(effects.index, appends)) < effects.index(_of(effects, m.Save)[0])


def test_follower_acknowledges_and_applies_only_what_is_durable():
    machine = _machine(2)
    effects = machine.step_many(
        [
            _append((0, 0), _command(1, 1), commit=1),
            _append((1, 1), _command(2, 1), _command(3, 1), commit=3),
        ]
    )
    save = _of(effects, m.Save)[0]
    reply = _sent(effects, m.AppendReply)
    assert [(s.message.index, s.after_save) for s in reply] == [(3, True)]
    assert effects.index(reply[0]) > effects.index(save)
    assert not _of(effects, m.Apply)
    effects = machine.step(m.Saved(number=save.number))
    assert [e.index for e in _of(effects, m.Apply)[0].entries] == [1, 2, 3]


def test_a_save_of_entries_cut_since_does_not_count():
    machine = _machine(2)
    first = _of(machine.step(_append((0, 0), _command(1, 1), _command(2, 1))), m.Save)[0]
    second = _of(machine.step(_append((1, 1), _command(2, 2), term=2)), m.Save)[0]
    assert (second.truncate_from, [e.index for e in second.entries]) == (2, [2])
    machine.step(m.Saved(number=first.number))
    assert machine.durable == 1
    machine.step(m.Saved(number=second.number))
    assert machine.durable == 2


def test_votes_once_a_term_also_after_a_restart():
    def ask(machine: Machine, sender: int):
        vote = m.Vote(group=7, sender=sender, receiver=1, term=4, last_index=0, last_term=0)
        effects = machine.step_many([m.Tick(now_ms=9000), _got(vote)])
        return effects, _sent(effects, m.VoteReply)[0]

    machine = _machine()
    machine.step(m.Tick(now_ms=0))
    effects, reply = ask(machine, 2)
    assert reply.message.granted
    assert reply.after_save
    saved = _of(effects, m.Save)[0].state
    assert (saved.term, saved.vote) == (4, 2)
    machine = _machine(state=saved)
    machine.step(m.Tick(now_ms=0))
    assert not ask(machine, 3)[1].message.granted
    assert ask(machine, 2)[1].message.granted


def test_a_restart_keeps_the_promise_of_the_lease():
    machine = _machine()
    machine.step(m.Tick(now_ms=0))
    vote = m.Vote(group=7, sender=2, receiver=1, term=4, last_index=0, last_term=0)
    assert machine.step_many([m.Tick(now_ms=999), _got(vote)]) == []
    forced = m.Vote(group=7, sender=2, receiver=1, term=4, last_index=0, last_term=0, transfer=True)
    assert _sent(machine.step(_got(forced)), m.VoteReply)[0].message.granted


def test_heard_while_the_clock_stood_still_counts_from_the_next_tick():
    machine = _machine(2)
    machine.step(m.Tick(now_ms=0))
    machine.step(m.Tick(now_ms=5000))
    machine.step(_append((0, 0), term=3))
    machine.step(m.Tick(now_ms=9000))
    vote = m.Vote(group=7, sender=3, receiver=2, term=4, last_index=9, last_term=9)
    assert machine.step_many([m.Tick(now_ms=9900), _got(vote)]) == []


def test_an_empty_configuration_waits():
    machine = _machine(2, config=m.Config())
    for now_ms in range(0, 20_000, 500):
        assert not _of(machine.step(m.Tick(now_ms=now_ms)), m.Send)
    assert machine.role == "learner"
    config = m.Entry(1, 1, m.EntryKind.CONFIG, encode_config(THREE))
    effects = machine.step(_append((0, 0), config))
    assert m.ConfigChanged(config=THREE) in effects
    assert machine.role == "follower"
    machine.step(_append((0, 0), _command(1, 2), term=2))
    assert machine.config == m.Config(), "the truncated configuration is out of force"


def test_a_doubt_ends_with_a_commit_of_the_present_term():
    machine = _machine(2, entries=[_command(1, 1)], doubtful=True, state=m.HardState(term=1))
    leap = machine.term
    assert leap > 1 + (1 << 20), "beyond every term the tail can have told of"
    old = _sent(machine.step(_append((1, 1), _command(2, 1), commit=2)), m.AppendReply)[0].message
    assert (old.rejected, old.term) == (True, leap), "its leader counts what was lost"
    machine.step(_append((1, 1), _command(2, 1), term=leap + 1, commit=1))
    assert machine.doubtful, "a new leader's commit index is old"
    machine.step(_append((2, 1), _command(3, leap + 1), term=leap + 1, commit=2))
    assert machine.doubtful
    beat = m.Beat(group=7, sender=1, receiver=2, term=leap + 1, commit=3, round=1)
    machine.step(_got(beat))
    assert not machine.doubtful


def _ask(*nodes: int, pre: bool, term: int, doubtful: bool = False, granted: bool = True):
    kind = m.PreVoteReply if pre else m.VoteReply
    address = {"group": 7, "receiver": 1, "term": term, "granted": granted, "doubtful": doubtful}
    return [_got(kind(sender=node, **address)) for node in nodes]


FIVE = m.Config(voters=(1, 2, 3, 4, 5))


@pytest.mark.parametrize("own_doubt", [False, True])
@pytest.mark.parametrize("outgoing", [(), (1, 6, 7)])
def test_with_a_doubtful_grant_every_voter_is_needed(own_doubt, outgoing):
    config = m.Config(voters=FIVE.voters, outgoing=outgoing)
    machine = _machine(config=config, doubtful=own_doubt)
    machine.step(m.Tick(now_ms=0))
    machine.step(m.Tick(now_ms=10_000))
    everyone = sorted({*FIVE.voters, *outgoing} - {1})
    for pre in (True, False):
        term = machine.term + pre
        machine.step_many(_ask(2, 3, pre=pre, term=term, doubtful=True))
        machine.step_many(_ask(*everyone[2:-1], pre=pre, term=term, doubtful=not own_doubt))
        machine.step(m.Saved(number=machine.term))
        assert machine.waits_for == (everyone[-1],)
        assert machine.role == "candidate"
        effects = machine.step_many(_ask(everyone[-1], pre=pre, term=term, doubtful=True))
    machine.step(m.Saved(number=2))
    assert not effects or machine.role == "leader"
    assert machine.doubtful == own_doubt, "until it commits"


@pytest.mark.parametrize(
    ("silent_ms", "over_ms"),
    [(1400, 10_000 - 650), (700, 10_000), (0, 10_000), (99_999, 10_000 - 9_250)],
)
def test_a_leader_knows_when_earlier_leases_were_over(silent_ms, over_ms):
    machine = _machine()
    machine.step(m.Tick(now_ms=0))
    machine.step(m.Tick(now_ms=10_000))
    address = {"group": 7, "sender": 2, "receiver": 1, "term": 1, "granted": True}
    machine.step(_got(m.PreVoteReply(**address)))
    machine.step_many([_got(m.VoteReply(**address, silent_ms=silent_ms)), m.Saved(number=1)])
    assert machine.role == "leader"
    assert machine.others_over_ms == over_ms, "the latest word of any voter, and the lease"


def test_a_deposed_leader_was_not_silent():
    machine = _leading()
    machine.step(m.Tick(now_ms=10_400))
    beat = m.BeatReply(group=7, sender=2, receiver=1, term=3, round=1)
    machine.step(_got(beat))
    assert machine.role == "follower"
    ask = {"group": 7, "sender": 2, "receiver": 1, "term": 4, "last_index": 9, "last_term": 3}
    machine.step(m.Tick(now_ms=10_500))
    reply = _sent(machine.step(_got(m.Vote(**ask))), m.VoteReply)[0].message
    assert (reply.granted, reply.silent_ms) == (True, 100)


def test_sure_grants_need_a_quorum_only_and_one_refusal_ends_unanimity():
    machine = _machine(config=FIVE, doubtful=True)
    machine.step(m.Tick(now_ms=0))
    machine.step(m.Tick(now_ms=10_000))
    term = machine.term + 1
    refused = _ask(2, pre=True, term=machine.term, granted=False)
    machine.step_many(refused)
    assert machine.role == "candidate"
    machine.step_many(_ask(3, pre=True, term=term, doubtful=True))
    assert machine.role == "follower", "three sure grants are out of reach"
    machine.step(m.Tick(now_ms=20_000))
    machine.step_many(_ask(2, 3, 4, pre=True, term=term))
    assert machine.term == term, "three sure ones were enough, its own apart"


def test_a_snapshot_keeps_entries_that_agree_with_it():
    machine = _machine(2)
    machine.step(_append((0, 0), *(_command(i, 1) for i in range(1, 6)), commit=2))
    meta = m.SnapshotMeta(index=3, term=1, config=THREE)
    assert not machine.accepts_snapshot(meta), "the log has it"
    effects = machine.step(m.SnapshotRestored(meta=meta, sender=1, term=1))
    assert [e.index for e in _of(effects, m.Save)[0].entries] == [4, 5]
    assert (machine.commit, machine.applied, machine.first_index, machine.last_index) == (
        3,
        3,
        4,
        5,
    )
    other = m.SnapshotMeta(index=9, term=2, config=THREE)
    assert machine.accepts_snapshot(other)
    effects = machine.step(m.SnapshotRestored(meta=other, sender=1, term=2))
    assert (machine.first_index, machine.last_index, machine.base) == (10, 9, other)
    assert _sent(effects, m.AppendReply)[0].message.index == 9


def test_log_and_state_that_do_not_belong_together_are_refused():
    with pytest.raises(Corrupt, match="group 7: the log after 0 has a gap"):
        _machine(entries=[_command(2, 1)])
    with pytest.raises(Corrupt, match="applied up to 3"):
        _machine(entries=[_command(1, 1)], applied=3)


def test_messages_of_other_groups_and_receivers_are_ignored():
    machine = _machine(3)
    assert not machine.step(_append((0, 0), _command(1, 1)))[2:]
    assert machine.last_index == 0


def test_configuration_entries_are_versioned():
    config = m.Config(voters=(1, 2), learners=(3,), outgoing=(1,))
    assert encode_config(config) == b"\x01\x93\x92\x01\x02\x91\x03\x91\x01"
    assert decode_config(encode_config(config)) == config
    for data in (b"", b"\x02\x90", b"\x01\xff"):
        with pytest.raises(Malformed):
            decode_config(data)


def test_reads_and_uncommitted_proposals_are_bounded():
    machine = _machine(settings=Settings(reads_max=2, uncommitted_bytes_max=100))
    _elect(machine)
    effects = machine.step_many([m.Read(token=t) for t in range(3)])
    assert _of(effects, m.ReadFailed) == [m.ReadFailed(token=2, leader=1)]
    effects = machine.step_many([m.Propose(token=t, data=bytes(60)) for t in range(3)])
    assert _of(effects, m.Dropped) == [m.Dropped(token=t, leader=1) for t in (1, 2)]


def test_no_lease_after_the_leader_ordered_an_election():
    machine = _machine()
    _elect(machine)
    address = {"group": 7, "receiver": 1, "term": 1}
    machine.step_many(
        [m.Saved(number=2)]
        + [_got(m.AppendReply(**address, sender=peer, index=1)) for peer in (2, 3)]
        + [_got(m.BeatReply(**address, sender=peer, round=1)) for peer in (2, 3)]
    )
    assert machine.lease_holds
    assert _of(machine.step(m.Read(token=1)), m.ReadReady)
    assert _sent(machine.step(m.Transfer(peer=2)), m.TimeoutNow)
    effects = machine.step_many([m.Read(token=2), m.Propose(token=3, data=b"")])
    assert not _of(effects, m.ReadReady)
    assert _of(effects, m.Dropped)
    machine.step(m.Tick(now_ms=11_500))
    assert _of(machine.step(m.Propose(token=4, data=b"")), m.Proposed), "the transfer is over"
    assert not machine.lease_holds, "the order may still arrive"


def test_a_vote_in_a_term_already_saved_is_saved_too():
    machine = _machine(2)
    machine.step(m.Tick(now_ms=0))
    later = m.AppendReply(group=7, sender=1, receiver=2, term=4, index=0, rejected=True)
    first = _of(machine.step_many([m.Tick(now_ms=9000), _got(later)]), m.Save)[0]
    assert (first.state.term, first.state.vote) == (4, 0)
    vote = m.Vote(group=7, sender=3, receiver=2, term=4, last_index=0, last_term=0)
    effects = machine.step(_got(vote))
    assert _of(effects, m.Save)[0].state.vote == 3
    assert effects.index(_of(effects, m.Save)[0]) < effects.index(_sent(effects, m.VoteReply)[0])


def test_no_vote_for_a_log_that_lacks_something():
    for last_index, last_term, granted in (
        (1, 2, True),
        (9, 1, False),
        (0, 2, False),
        (0, 3, True),
    ):
        machine = _machine(2, entries=[_command(1, 2)], state=m.HardState(term=2))
        machine.step(m.Tick(now_ms=0))
        vote = m.Vote(
            group=7, sender=3, receiver=2, term=5, last_index=last_index, last_term=last_term
        )
        effects = machine.step_many([m.Tick(now_ms=9000), _got(vote)])
        assert _sent(effects, m.VoteReply)[0].message.granted is granted


def test_entries_of_earlier_terms_are_not_committed_by_counting():
    machine = _machine(entries=[_command(1, 1), _command(2, 1)], state=m.HardState(term=1))
    effects = _elect(machine)
    number = _of(effects, m.Save)[-1].number
    address = {"group": 7, "sender": 2, "receiver": 1, "term": 2}
    machine.step_many([m.Saved(number=number), _got(m.AppendReply(**address, index=2))])
    assert machine.match(2) == 2
    assert machine.commit == 0
    machine.step(_got(m.AppendReply(**address, index=3)))
    assert machine.commit == 3


def test_a_follower_commits_only_what_the_append_covered():
    machine = _machine(2, entries=[_command(i, 1) for i in (1, 2, 3)], state=m.HardState(term=1))
    machine.step(_append((1, 1), term=2, commit=3))
    assert machine.commit == 1, "its entries 2 and 3 may not be the leader's"


def _leading(**changes) -> Machine:
    """Give a leader of nodes 1, 2, 3 whose empty entry, index 1, is committed everywhere."""
    machine = _machine(**changes)
    _elect(machine)
    address = {"group": 7, "receiver": 1, "term": 1}
    machine.step_many(
        [m.Saved(number=2)]
        + [_got(m.AppendReply(**address, sender=peer, index=1)) for peer in (2, 3)]
    )
    assert machine.commit == 1
    return machine


def test_a_joint_configuration_is_left_only_once_both_halves_hold_it():
    machine = _leading()
    effects = machine.step_many(
        [m.ProposeConfig(token=1, voters=(1, 4, 5)), m.Propose(token=2, data=b"later")]
    )
    joint = machine.config
    assert joint == m.Config(voters=(1, 4, 5), outgoing=(1, 2, 3))
    address = {"group": 7, "receiver": 1, "term": 1}
    machine.step_many(
        [
            m.Saved(number=_of(effects, m.Save)[0].number),
            _got(m.AppendReply(**address, sender=2, index=3)),
            _got(m.AppendReply(**address, sender=4, index=1)),
        ]
    )
    assert (machine.commit, machine.config) == (1, joint)
    machine.step(_got(m.AppendReply(**address, sender=4, index=2)))
    assert (machine.commit, machine.config) == (2, m.Config(voters=(1, 4, 5)))


def test_an_earlier_commit_does_not_end_a_joint_configuration():
    machine = _leading()
    effects = machine.step_many(
        [m.Propose(token=1, data=b"a"), m.ProposeConfig(token=2, voters=(1, 2, 4, 5))]
    )
    joint = machine.config
    address = {"group": 7, "receiver": 1, "term": 1}
    replies = [_got(m.AppendReply(**address, sender=peer, index=2)) for peer in (2, 4)]
    machine.step_many([m.Saved(number=_of(effects, m.Save)[0].number), *replies])
    assert (machine.commit, machine.config) == (2, joint)


def test_the_lease_counts_from_when_the_heartbeat_was_sent():
    machine = _leading()
    effects = machine.step(m.Tick(now_ms=11_000))
    sent = _sent(effects, m.Beat)[0].message
    reply = m.BeatReply(group=7, sender=2, receiver=1, term=1, round=sent.round)
    machine.step_many([m.Tick(now_ms=11_700), _got(reply)])
    assert machine.lease_holds
    effects = machine.step_many([m.Tick(now_ms=11_760), m.Read(token=1)])
    assert not _of(effects, m.ReadReady)


def test_a_read_waits_for_a_round_that_started_after_it():
    machine = _leading(settings=Settings(lease_reads=False))
    first = _sent(machine.step(m.Tick(now_ms=10_500)), m.Beat)[0].message.round
    second = _sent(machine.step(m.Read(token=1)), m.Beat)[0].message.round
    assert second == first + 1
    address = {"group": 7, "sender": 2, "receiver": 1, "term": 1}
    assert not _of(machine.step(_got(m.BeatReply(**address, round=first))), m.ReadReady)
    assert _of(machine.step(_got(m.BeatReply(**address, round=second))), m.ReadReady)


def test_no_read_before_an_own_entry_is_committed():
    machine = _machine()
    number = _of(_elect(machine), m.Save)[-1].number
    address = {"group": 7, "sender": 2, "receiver": 1, "term": 1}
    beat = _got(m.BeatReply(**address, round=1))
    assert not _of(machine.step_many([beat, m.Read(token=1)]), m.ReadReady)
    append = _got(m.AppendReply(**address, index=1))
    effects = machine.step_many([m.Saved(number=number), append])
    assert _of(effects, m.ReadReady) == [m.ReadReady(token=1, index=1)]


def test_replies_of_other_terms_change_nothing_or_end_the_term():
    machine = _machine(entries=[_command(1, 1)], state=m.HardState(term=1))
    _elect(machine)
    stale = {"group": 7, "sender": 2, "receiver": 1, "term": 1}
    machine.step(_got(m.AppendReply(**stale, index=1)))
    assert machine.match(2) == 0
    later = m.AppendReply(group=7, sender=2, receiver=1, term=9, index=0, rejected=True)
    effects = machine.step_many([m.Read(token=3), _got(later)])
    assert (machine.role, machine.term) == ("follower", 9)
    assert _of(effects, m.ReadFailed) == [m.ReadFailed(token=3, leader=None)]


def test_beats_never_commit_past_the_match():
    machine = _leading()
    effects = machine.step(m.Propose(token=1, data=b"a"))
    address = {"group": 7, "receiver": 1, "term": 1}
    reply = _got(m.AppendReply(**address, sender=2, index=2))
    machine.step_many([m.Saved(number=_of(effects, m.Save)[0].number), reply])
    assert machine.commit == 2
    beats = _sent(machine.step(m.Tick(now_ms=10_500)), m.Beat)
    assert {s.message.receiver: s.message.commit for s in beats} == {2: 2, 3: 1}


def test_a_leader_of_an_earlier_term_is_told():
    machine = _machine(2, state=m.HardState(term=5))
    reply = _sent(machine.step(_append((0, 0), term=3)), m.AppendReply)[0].message
    assert (reply.term, reply.rejected) == (5, True)


def test_after_a_lost_tail_votes_say_so():
    machine = _machine(2, doubtful=True)
    machine.step(m.Tick(now_ms=0))
    ask = {"group": 7, "sender": 3, "receiver": 2, "last_index": 9, "last_term": 3}
    early = _got(m.Vote(**ask, term=machine.term - 1, transfer=True))
    assert not _sent(machine.step(early), m.VoteReply)[0].message.granted
    ask["term"] = machine.term + 1
    effects = machine.step_many([m.Tick(now_ms=1100), _got(m.PreVote(**ask))])
    reply = _sent(effects, m.PreVoteReply)[0].message
    assert (reply.granted, reply.doubtful) == (True, True)
    reply = _sent(machine.step(_got(m.Vote(**ask))), m.VoteReply)[0]
    assert (reply.message.granted, reply.message.doubtful, reply.after_save) == (True, True, True)


def test_the_log_is_kept_for_a_slow_follower_within_the_bound():
    machine = _leading(settings=Settings(log_bytes_max=4000))
    effects = machine.step_many([m.Propose(token=t, data=bytes(68)) for t in range(100)])
    reply = m.AppendReply(group=7, sender=2, receiver=1, term=1, index=101)
    slow = m.AppendReply(group=7, sender=3, receiver=1, term=1, index=80)
    machine.step_many(
        [m.Saved(number=_of(effects, m.Save)[0].number), _got(reply), _got(slow)],
    )
    assert machine.applied == 101
    machine.step(m.Compact(index=101))
    assert machine.first_index == 81, "what node 3 lacks"
    assert machine.base == m.SnapshotMeta(index=80, term=1, config=THREE)
    machine.step_many(
        [
            *(m.Propose(token=t, data=bytes(68)) for t in range(30)),
            m.Saved(number=_of(effects, m.Save)[0].number + 1),
        ]
    )
    last = m.AppendReply(group=7, sender=2, receiver=1, term=1, index=131)
    machine.step(_got(last))
    machine.step(m.Saved(number=4))
    machine.step(m.Compact(index=machine.applied))
    assert machine.first_index == 92, "forty entries of 100 bytes, and no more"
