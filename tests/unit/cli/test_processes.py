import os
import subprocess
import sys

import pytest

from cfs.cli import processes

SLEEPER = "import sys, time; time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, "serve", "--dir", str(tmp_path)])
    yield process
    process.kill()
    process.wait()


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
