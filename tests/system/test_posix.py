"""The table of operation, condition and outcome; a local file system is the oracle."""

import json
import sys

import pytest

from tests.system.cluster import run

ORACLES = {"ext2/ext3"}
"""What a row that fails elsewhere may be blamed on is the file system there."""


def differing(directory):
    """Carry out all rows in a directory; give those whose outcome is not the expected one."""
    directory.mkdir()
    done = run(sys.executable, "-m", "tests.system.posix.runner", directory, timeout=300)
    said = json.loads(done.stdout)
    assert said["rows"] > 1500
    return [f"{row}, came {came}" for row, came in said["wrong"]]


def test_the_table_is_true_of_a_local_file_system(tmp_path):
    kind = run("stat", "-f", "-c", "%T", tmp_path).stdout.strip()
    if kind not in ORACLES:
        pytest.skip(f"{kind} is no oracle: {sorted(ORACLES)}")
    assert differing(tmp_path / "rows") == []


def test_every_operation_answers_as_the_table_says(cluster):
    assert differing(cluster.mount / "rows") == []
