"""Programs that ask more of a file system than bytes: databases, and those that try to break it.

What is small runs in CI; PostgreSQL and stress-ng at full size, where they are installed.
"""

import contextlib
import os
import pwd
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.cluster import FULL, full, run

SQLITE_WRITER = """
import sqlite3, sys
path, mode, writer, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
db = sqlite3.connect(path, timeout=120, isolation_level=None)
db.execute("pragma busy_timeout=120000")
assert db.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
for number in range(times):
    db.execute("begin immediate")
    value = db.execute("select value from counter").fetchone()[0]
    db.execute("update counter set value=?", (value + 1,))
    db.execute("insert into rows values(?, ?, ?)", (writer, number, "x" * (number % 500)))
    db.execute("commit")
"""
STRESS_S = full(5, 1)
PGBENCH_S = full(60, 5)


@pytest.fixture(scope="module")
def pair(cluster):
    return cluster.mount, cluster.second_mount(cluster.mount.with_name("programs2"))


def write_together(paths, mode, times):
    """Have one writer a path count up the same row; every count must be there."""
    with contextlib.closing(sqlite3.connect(paths[0])) as database:
        database.execute(f"pragma journal_mode={mode}")
        database.execute("create table counter(value integer)")
        database.execute("insert into counter values(0)")
        database.execute("create table rows(writer integer, number integer, text text)")
        database.commit()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SQLITE_WRITER, path, mode, str(n), str(times)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n, path in enumerate(paths)
    ]
    try:
        said = [w.communicate(timeout=full(900, 120))[1] for w in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert said == [""] * len(paths)
    for path in paths:
        with contextlib.closing(sqlite3.connect(path)) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert database.execute("select value from counter").fetchone() == (len(paths) * times,)
            rows = database.execute("select writer, number from rows").fetchall()
        assert sorted(rows) == [(w, n) for w in range(len(paths)) for n in range(times)]


def test_sqlite_with_a_rollback_journal_from_two_mounts(pair):
    write_together([mount / "two.db" for mount in pair], "delete", full(500, 25))


def test_sqlite_with_a_write_ahead_log_from_several_processes(pair):
    write_together([pair[0] / "wal.db"] * 3, "wal", full(1000, 50))


def test_dbench(cluster):
    if not shutil.which("dbench"):
        pytest.skip("dbench is not installed")
    base = cluster.mount / "dbench"
    base.mkdir()
    words = ("dbench", "-t", full(60, 5), "-D", base, full(4, 2))
    done = run(*words, check=False, timeout=full(300, 120))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Throughput" in done.stdout
    said = done.stdout + done.stderr
    assert not re.search(r"ERROR|failed for handle|(open|rename|unlink) .* failed", said), said


def postgres_programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found or not FULL:
        pytest.skip("at full size, where postgresql is installed")
    return found[-1].parent


def test_postgresql(cluster, tmp_path):
    programs = postgres_programs()
    user = pwd.getpwnam("postgres")
    base = cluster.mount / "postgres"
    base.mkdir()
    os.chown(base, user.pw_uid, user.pw_gid)
    os.chown(tmp_path, user.pw_uid, user.pw_gid)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)

    def postgres(program, *words, timeout=300):
        environment = {**os.environ, "PGHOST": str(tmp_path), "PGPORT": "54399"}
        command = (programs / program, *words)
        return run(*command, user="postgres", env=environment, cwd="/", timeout=timeout)

    postgres("initdb", "-D", base / "data", "--data-checksums")
    options = f"-k {tmp_path} -p 54399 -h ''"
    postgres("pg_ctl", "-D", base / "data", "-w", "-l", tmp_path / "log", "-o", options, "start")
    try:
        postgres("createdb", "bench")
        postgres("pgbench", "-i", "-q", "-s", "2", "bench")
        said = postgres("pgbench", "-c", "4", "-T", PGBENCH_S, "bench", timeout=PGBENCH_S + 300)
        print(said.stdout)
        assert "number of failed transactions: 0 " in said.stdout
        sums = "select sum(abalance), (select sum(bbalance) from pgbench_branches) from {}"
        text = postgres("psql", "-At", "-c", sums.format("pgbench_accounts"), "bench").stdout
        accounts, branches = text.strip().split("|")
        assert accounts == branches
    finally:
        postgres("pg_ctl", "-D", base / "data", "-w", "-m", "fast", "stop")
    postgres("pg_checksums", "-D", base / "data", "--check")


def failing_stressors(directory):
    """Run every file system stressor; give those that fail, with what they say."""
    directory.mkdir()
    words = (
        "stress-ng", "--class", "filesystem", "--sequential", "1", "--timeout", f"{STRESS_S}s",
        "--temp-path", directory, "--verify", "--oomable",
    )  # fmt: skip
    done = run(*words, check=False, timeout=3600)
    failed = {}
    for line in (done.stdout + done.stderr).splitlines():
        found = re.search(r"stress-ng: fail: +\[\d+\] ([a-z-]+)[:(]", line)
        if found:
            failed.setdefault(found[1], line)
    return failed


def test_stress_finds_no_error_that_a_local_file_system_does_not_show(cluster, tmp_path):
    if not shutil.which("stress-ng") or not FULL:
        pytest.skip("at full size, where stress-ng is installed")
    local = failing_stressors(tmp_path / "stress")
    mounted = failing_stressors(cluster.mount / "stress")
    assert {name: line for name, line in mounted.items() if name not in local} == {}
