"""A short one of the scenarios of `make chaos`: real processes in namespaces, several faults.

In a process of its own, which ends what it made when it is ended. What only one of two runs shows
is told loudly and kept in `build/`, but does not stop unrelated work, as with fresh seeds of the
simulator (docs/decisions/0501): the faults' timing is the machine's, so a run cannot be repeated.
"""

import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from tests.system.cluster import full

SECONDS = full(60, 14)
PATIENCE_S = SECONDS + 150
ROOT = Path(__file__).parents[2]
TOLD = ROOT / "build" / "chaos-failed.txt"


def chaos(seed):
    """Run one scenario; give whether all was explained, and what was said."""
    words = ["mixed", "--seconds", str(SECONDS), "--seed", str(seed)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=30)
        return False, f"{said}\nseed {seed} did not end within {PATIENCE_S} s"
    answered = re.search(r"(\d+) of \d+ ", said)
    return process.returncode == 0 and answered is not None and int(answered[1]) > 100, said


def test_histories_are_explained_while_machines_fail():
    told = ""
    for seed in (5, 6):
        explained, said = chaos(seed)
        print(said)
        if explained:
            break
        told += said
    if told:
        TOLD.parent.mkdir(exist_ok=True)
        TOLD.write_text(told)
        warnings.warn(f"CHAOS: a run of `mixed` FAILED; see {TOLD}", stacklevel=1)
    assert explained, told
