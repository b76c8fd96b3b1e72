"""Steps of a membership: learners, voters, leaving, handing over, one at a time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cfs.core.api.cluster import ShardPlacement
from cfs.core.raft.message import Config
from cfs.fs.root.members import Step, next_step


def _next(me: int, config: Config, wanted: tuple[int, ...], caught_up: set[int]) -> Step | None:
    return next_step(
        me=me,
        config=config,
        wanted=ShardPlacement(group=1, voters=wanted),
        caught_up=frozenset(caught_up),
        up=frozenset(range(1, 10)),
    )


def test_growing_from_one_to_three() -> None:
    assert _next(1, Config(voters=(1,)), (1, 2, 3), {1}) == Step(voters=(1,), learners=(2, 3))
    grown = Config(voters=(1,), learners=(2, 3))
    assert _next(1, grown, (1, 2, 3), {1}) is None
    assert _next(1, grown, (1, 2, 3), {1, 3}) == Step(voters=(1, 3), learners=(2,))
    assert _next(1, Config(voters=(1, 2, 3)), (1, 2, 3), {1, 2, 3}) is None


def test_nobody_leaves_before_the_new_one_votes() -> None:
    config = Config(voters=(1, 2, 3), learners=(4,))
    assert _next(1, config, (1, 2, 4), {1, 2, 3}) is None
    config = Config(voters=(1, 2, 3, 4))
    assert _next(1, config, (1, 2, 4), {1, 2, 4}) == Step(voters=(1, 2, 4))


def test_a_leader_that_leaves_hands_over() -> None:
    config = Config(voters=(1, 2, 3, 4))
    assert _next(1, config, (2, 3, 4), {1, 3}) == Step(transfer=3)
    assert _next(1, config, (2, 3, 4), {1}) is None


def test_leadership_goes_to_the_preferred_voter_when_it_can() -> None:
    config = Config(voters=(1, 2, 3))
    assert _next(1, config, (2, 1, 3), {1, 3}) is None
    assert _next(1, config, (2, 1, 3), {1, 2, 3}) == Step(transfer=2)
    assert _next(2, config, (2, 1, 3), {1, 2, 3}) is None


def test_joint_membership_is_left_alone() -> None:
    assert _next(1, Config(voters=(1, 2), outgoing=(1,)), (1, 2, 3), {1}) is None


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_every_membership_is_reached_and_never_empty(data: st.DataObject) -> None:
    nodes = st.sets(st.integers(1, 7), min_size=1, max_size=5)
    voters = data.draw(nodes)
    wanted = tuple(data.draw(nodes))
    leader = min(voters)
    config = Config(voters=tuple(sorted(voters)))
    for _ in range(20):
        step = _next(leader, config, wanted, set(range(1, 8)))
        if step is None:
            break
        if step.transfer:
            assert step.transfer in config.voters
            leader = step.transfer
            continue
        assert leader in step.voters
        assert len(set(step.voters) & set(config.voters)) > 0
        config = Config(voters=step.voters, learners=step.learners)
    assert set(config.voters) == set(wanted)
    assert config.learners == ()
    assert leader == wanted[0]
