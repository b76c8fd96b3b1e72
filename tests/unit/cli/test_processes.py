import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cfs.cli import processes

SLEEPER = "import sys, time; time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, "serve", "--dir", str(tmp_path)])
    _wait_for_words(process.pid)
    yield process
    process.kill()
    process.wait()


def _wait_for_words(pid):
    """Wait for a new process's command line: exec answers before the kernel shows it."""
    deadline = time.monotonic() + 10
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, f"process {pid} shows no command line"
        time.sleep(0.001)


def test_nobody_runs_where_nothing_was_claimed(tmp_path, sleeper):
    assert processes.running(tmp_path) is None


def test_a_claim_is_good_while_its_process_lives(tmp_path):
    processes.claim(tmp_path)
    assert processes.running(tmp_path) == os.getpid()


def test_a_reused_process_id_is_not_taken_for_it(tmp_path, sleeper):
    (tmp_path / processes.PID_FILE).write_text(f"{sleeper.pid} 1\n")
    assert processes.running(tmp_path) is None


def test_an_unreadable_claim_is_looked_for_by_command_line(tmp_path, sleeper):
    (tmp_path / processes.PID_FILE).write_text("")
    assert processes.running(tmp_path) == sleeper.pid
    assert processes.stop(tmp_path, patience_s=5)
