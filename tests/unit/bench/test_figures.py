"""The comparison's arithmetic: medians, floors, verdicts, tables."""

import pytest

from bench import figures


def test_rows_come_with_what_they_build_on_in_the_order_they_run():
    assert figures.with_needs(["unlink", "seq_read"]) == [
        "seq_write",
        "seq_read",
        "create",
        "rename",
        "unlink",
    ]


def test_every_need_is_a_row_that_runs_earlier():
    for row, needs in figures.NEEDS.items():
        for need in needs:
            assert figures.ROWS.index(need) < figures.ROWS.index(row)


def test_a_median_leaves_failed_runs_out_and_says_when_none_is_left():
    runs = [{"create": 3}, {"create": "error: OSError"}, {"create": 1}, {"create": 9}]
    assert figures.medians(runs) == {"create": 3}
    assert figures.medians([{"create": "error"}]) == {"create": None}


@pytest.mark.parametrize(
    ("row", "cfs", "gluster", "bare", "said"),
    [
        ("seq_write", 200, 200, 500, "meets = gluster"),
        ("seq_write", 199, 200, 500, "**below = gluster**"),
        ("create", 100, 300, 50, "meets gluster / 3"),
        ("create", 99, 300, 500, "**below gluster / 3**"),
        ("create", 60, 300, 80, "below gluster / 3; so is the pass-through"),
        ("create", None, 300, 80, "failed"),
        ("create", 60, None, 80, "no peer"),
    ],
)
def test_verdict(row, cfs, gluster, bare, said):
    found = {"cfs": {row: cfs}, "gluster": {row: gluster}, "pass": {row: bare}}
    assert figures.verdict(row, found) == said


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (270, "meets gluster / 3; meets 0.9 MooseFS"),
        (269, "meets gluster / 3; **below 0.9 MooseFS**"),
        (90, "**below gluster / 3**; **below 0.9 MooseFS**"),
    ],
)
def test_a_row_of_metadata_is_held_against_the_better_replicating_peer(rate, said):
    found = {
        "cfs": {"create": rate, "create_par8": rate},
        "gluster": {"create": 300},
        "gluster-replica": {"create": 200, "create_par8": 900},
        "moosefs2": {"create": 300, "create_par8": 900},
    }
    assert figures.verdict("create", found) == said
    assert figures.verdict("create_par8", found) == "no peer"


def test_the_worst_rows_are_those_farthest_below_their_floor():
    cfs = {"seq_write": 100, "create": 100, "ls_l": 100, "untar": None}
    gluster = {"seq_write": 200, "create": 900, "ls_l": 100, "untar": 3}
    worst = figures.worst({"cfs": cfs, "gluster": gluster}, 3)
    assert worst == ["untar", "create", "seq_write"]
    bare = {"ls_l": 50, "create": 200}
    assert figures.worst({"cfs": cfs, "pass": bare}, 1) == ["create"]


def test_ratio_of_nothing_is_nothing():
    assert figures.ratio(None, 3) is None
    assert figures.ratio(3, None) is None
    assert figures.ratio(3, 0) is None
    assert figures.ratio(3, 2) == 1.5


def test_the_table_has_a_line_a_row_and_both_ratios():
    runs = {
        "cfs": [{"seq_write": 100.0, "create": 50.0}],
        "pass": [{"seq_write": 400.0, "create": 25.0}],
        "gluster": [{"seq_write": 200.0, "create": 100.0}],
    }
    labels = {"cfs": "CFS", "pass": "bare", "gluster": "gluster"}
    lines = figures.figures_table(runs, labels).splitlines()
    assert lines[2] == (
        "| seq_write (MB/s) | 100 | 400 | 200 | 0.25 | 0.50 | **below = gluster** |"
    )
    assert lines[3] == "| create (/s) | 50.0 | 25.0 | 100 | 2.00 | 0.50 | meets gluster / 3 |"


def test_a_spread_names_what_failed():
    runs = [{"untar": 3.0}, {"untar": "error: EIO"}, {"untar": 120.0}]
    assert figures.spread(runs, "untar") == "3.00 to 120; error: EIO"
    assert figures.spread([{}], "untar") == "-"


def test_only_what_stands_between_the_marks_is_replaced():
    once = figures.between("# Title\n", "<a>", "<b>", "one\n")
    assert once == "# Title\n\n<a>\none\n<b>\n"
    assert figures.between(once + "after\n", "<a>", "<b>", "two\n") == (
        "# Title\n\n<a>\ntwo\n<b>\nafter\n"
    )
