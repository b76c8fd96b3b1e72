"""Signals while the cluster does not answer: nobody gets EINTR from a file, and nobody is kept."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.system.cluster import until

WITH_TIMER = """
import os, signal, sys
os.chdir(sys.argv[1])
fd = os.open("f", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x" * 20000, 0)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
print("ready", flush=True)
sys.stdin.readline()
os.posix_fallocate(fd, 0, 300000)
os.fsync(fd)
os.mkdir("made")
os.rename("made", "moved")
os.rmdir("moved")
print("done", flush=True)
"""
WAITING = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
os.listdir(sys.argv[1] + "/never listed")
"""


def started(script, place):
    process = subprocess.Popen(
        [sys.executable, "-c", script, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def stopped(cluster):
    """Stop every metadata node, once the body calls for it."""
    pids = [cluster.pid(name) for name in cluster.nodes("meta")]

    def stop():
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

    def go():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    yield stop, go
    go()


def test_a_timer_interrupts_no_operation_on_a_file(cluster, stopped):
    stop, go = stopped
    process = started(WITH_TIMER, cluster.mount)
    try:
        stop()
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(4)  # twice the patience with callers that are killed
        assert process.poll() is None
        go()
        assert process.communicate(timeout=60)[0] == "done\n"
    finally:
        process.kill()
        process.wait()


def test_who_is_killed_is_not_kept_by_a_cluster_that_is_gone(cluster, stopped):
    stop, _ = stopped
    (cluster.mount / "never listed").mkdir()
    process = started(WAITING, cluster.mount)
    stop()
    process.stdin.write("go\n")
    process.stdin.flush()
    until(lambda: _waits(process.pid), seconds=20, what="it waits for the cluster")
    process.kill()
    process.wait(timeout=20)


def _waits(pid):
    where = Path(f"/proc/{pid}/wchan").read_text()
    return "fuse" in where or where == "request_wait_answer"
