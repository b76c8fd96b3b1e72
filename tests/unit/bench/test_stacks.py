"""Reading raw stacks: shares of functions."""

from bench import stacks

RAW = """\
main (cfs/cli/main.py:35);run (trio/_core/_run.py:2424);step (/a/cfs/core/raft/machine.py:9) 6
main (cfs/cli/main.py:35);run (trio/_core/_run.py:2424);get_events (trio/_core/_io_epoll.py:238) 3
step (/a/cfs/core/raft/machine.py:9);step (/a/cfs/core/raft/machine.py:9) 1
not a stack
"""


def test_self_and_inclusive_samples_are_counted_once_a_stack():
    total, own, inclusive = stacks.parse(RAW)
    assert total == 10
    assert own["step (cfs/core/raft/machine.py)"] == 7
    assert inclusive["step (cfs/core/raft/machine.py)"] == 7
    assert inclusive["main (cfs/cli/main.py)"] == 9


def test_the_top_is_a_share_of_all_samples_and_may_be_ours_only():
    total, own, inclusive = stacks.parse(RAW)
    assert stacks.top(own, total, 1) == [(0.7, "step (cfs/core/raft/machine.py)")]
    ours = [name for _, name in stacks.top(inclusive, total, 9, stacks.is_ours)]
    assert ours == ["step (cfs/core/raft/machine.py)"]


def test_no_samples_have_no_top():
    total, own, _ = stacks.parse("")
    assert stacks.top(own, total, 3) == []


def test_a_frame_without_a_file_is_left_as_it_is():
    assert stacks.frame_name("<native>") == "<native>"
    assert stacks.frame_name("f (<frozen runpy>:88)") == "f (<frozen runpy>)"
