"""The simulator in CI: kept seeds, fresh ones for a bounded time, and that it bites.

Fresh seeds begin where the commit says, so that a failure is named by its seed and every commit
looks elsewhere. `CFS_SIM_MINUTES` gives them more time.
"""

import os
import subprocess
import sys

import pytest

MINUTES = float(os.environ.get("CFS_SIM_MINUTES", "1"))
BITES = ("recall_dropped", "link_not_counted", "apply_not_deterministic")


def sim(*arguments):
    """Run the simulator; give what it said."""
    command = [sys.executable, "-m", "tests.sim", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1800, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def first_seed():
    """Give a seed that depends on the commit alone."""
    shown = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return int(shown.stdout[:8] or "1", 16)


def test_kept_seeds():
    sim("--kept")


def test_same_seed_same_trace():
    assert "traces that differ: 0" in sim("--seed", "3", "--repeat", "3")


OPEN = "seed 365004158: a name looked up while the own rename across shards is under way"


@pytest.mark.xfail(reason=f"{OPEN}; docs/reliability.md", strict=False)
def test_fresh_seeds():
    first = first_seed()
    print(sim("--seeds", f"{first}..{first + 10_000}", "--minutes", str(MINUTES), "--jobs", "2"))


def test_seeded_bugs_are_found():
    sim("--bugs", *BITES, "--seeds", "1..10")
