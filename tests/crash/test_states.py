"""Crash consistency in CI: all sequences of one operation, a seeded part of those of two.

Every persistence point of the first gets one kind of crash, drawn anew with each commit; those of
two are the same cases and points always. `make crash` runs every kind at every point, of both
lengths. mmap-write is in `tests/system/test_mapped.py`.
"""

import os
import subprocess
import sys

import pytest

from tests.crash.model import Refused
from tests.crash.table import Case, Op, fixed, sequences

SEED = int(os.environ.get("CFS_CRASH_SEED", "7"))


def seed():
    """Give a seed that depends on the commit alone."""
    shown = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return SEED or int(shown.stdout[:8] or "1", 16)


def crash(*arguments, finds=False):
    """Run crashes; give what was said. `finds`: something must be found."""
    command = [sys.executable, "-m", "tests.crash", "--seed", str(seed()), *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env=environment, check=False
    )
    assert done.returncode == int(finds), done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def test_all_sequences_of_one_operation():
    print(crash("--length", "1", "--one-kind"))


def test_a_part_of_the_sequences_of_two_operations():
    print(crash("--length", "2", "--cases", "0.02", "--share", "0.5", "--one-kind", "--seed", "11"))


@pytest.mark.parametrize(
    ("bug", "case"),
    [
        ("renamed_before_bytes", "near: append A/foo 200; rename A/foo A/new"),
        ("fsync_without_flush", "near: append A/foo 200; fsync A/foo"),
    ],
)
def test_seeded_bugs_are_found(bug, case):
    assert "FOUND" in crash("--bug", bug, "--case", case, "--kind", "all", finds=True)


def judged(text, seen_after, *, acked, begun, settled=False):
    """Judge the state that the first operations of a sequence lead to."""
    case = Case.parse(text)
    tree, found = fixed(), fixed()
    tree.begin()
    for number, op in enumerate(case.ops):
        tree.apply(number, op)
        if number < seen_after:
            found.apply(number, op)
    found.begin()
    paths = found.paths(0)
    data = {p: found.nodes[i].data for p, i in paths.items() if found.nodes[i].kind == "f"}
    return tree.judge(found.seen(paths), data, acked=acked, begun=begun, settled=settled)


def test_the_model_allows_prefixes_and_no_less_than_what_was_synced():
    text = "near: create A/new; append A/new 300; fsync A/new; unlink A/foo"
    assert judged(text, 0, acked=2, begun=3) is None
    assert judged(text, 2, acked=3, begun=4) is None
    assert judged(text, 4, acked=3, begun=4) is None
    assert "lacks" in judged(text, 0, acked=3, begun=4)
    assert "A/new has 0 bytes" in judged(text, 1, acked=3, begun=4)
    assert judged(text, 2, acked=4, begun=4, settled=True) is not None


def test_the_model_wants_a_files_data_before_its_new_name():
    text = "near: append A/foo 200; rename A/foo A/new"
    case = Case.parse(text)
    tree, found = fixed(), fixed()
    tree.begin()
    for number, op in enumerate(case.ops):
        tree.apply(number, op)
    found.apply(0, case.ops[1])  # the name alone
    found.begin()
    paths = found.paths(0)
    data = {p: found.nodes[i].data for p, i in paths.items() if found.nodes[i].kind == "f"}
    why = tree.judge(found.seen(paths), data, acked=2, begun=2, settled=False)
    assert "A/new has 3000 bytes" in why


def test_what_changes_nothing_is_folded():
    cases = list(sequences(2))
    assert len(cases) == len(set(cases))
    assert Case("near", (Op("mkdir", ("A/new",)), Op("rmdir", ("A/new",)))) in cases
    assert not any(c.ops[0] == c.ops[1] == Op("unlink", ("A/foo",)) for c in cases)
    for case in cases:
        assert Case.parse(str(case)) == case
    try:
        fixed().apply(0, Op("rmdir", ("A",)))
    except Refused:
        return
    raise AssertionError("a full directory was removed")
