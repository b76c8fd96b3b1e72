"""One suite for every implementation of the disk port, and what only the memory twin can do."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cfs.core.errors import Refused
from cfs.fs.disk.memory import BLOCK, MemoryDirectory
from cfs.fs.disk.port import Directory, File
from cfs.fs.disk.real import IOV_MAX, RealDirectory, RealFile


@pytest.fixture(params=["real", "memory"])
def directory(request, tmp_path: Path):
    made = RealDirectory(tmp_path / "a" / "b") if request.param == "real" else MemoryDirectory()
    yield made
    made.close()


def test_implementations_match_the_port(tmp_path: Path):
    real: Directory = RealDirectory(tmp_path)
    memory: Directory = MemoryDirectory()
    files: list[File] = [real.open("x", create=True), memory.open("x", create=True)]
    assert [f.size() for f in files] == [0, 0]


def test_append_gives_the_offset_and_reads_back(directory):
    file = directory.open("log", create=True)
    assert file.append([b"abc", memoryview(b"defg")]) == 0
    assert file.append([b"hi"]) == 7
    assert file.append([]) == 9
    assert file.pread(2, 4) == b"cdef"
    assert file.pread(7, 100) == b"hi"
    assert file.pread(9, 1) == b""
    assert file.size() == 9
    again = directory.open("log")
    assert again.append([b"!"]) == 9
    assert file.pread(8, 2) == b"i!"


def test_append_takes_more_parts_than_one_writev(directory):
    file = directory.open("log", create=True)
    parts = [bytes([n % 251]) * (n % 7) for n in range(2 * IOV_MAX + 3)]
    file.append(parts)
    assert file.pread(0, 1 << 20) == b"".join(parts)


def test_a_missing_file_is_an_error(directory):
    for call in (directory.open, directory.remove):
        with pytest.raises(FileNotFoundError):
            call("none")
    with pytest.raises(FileNotFoundError):
        directory.rename("none", "other")


def test_names_remove_rename_replace(directory):
    for name in ("b", "a", "c"):
        file = directory.open(name, create=True)
        file.append([name.encode()])
        file.close()
    assert directory.names() == ["a", "b", "c"]
    directory.rename("a", "b")
    directory.remove("c")
    directory.sync()
    assert directory.names() == ["b"]
    assert directory.open("b").pread(0, 9) == b"a"


def test_write_whole_replaces(directory):
    directory.write_whole("id", b"one")
    directory.write_whole("id", b"number two")
    assert directory.names() == ["id"]
    assert directory.open("id").pread(0, 99) == b"number two"


def test_truncate_cuts_and_appends_follow(directory):
    file = directory.open("log", create=True)
    file.append([b"0123456789"])
    file.truncate(4)
    assert file.size() == 4
    assert file.append([b"x"]) == 4
    assert file.pread(0, 10) == b"0123x"


def test_punch_frees_whole_blocks_and_reads_zeroes(directory):
    file = directory.open("log", create=True)
    file.append([b"\xff" * (10 * BLOCK)])
    file.sync()
    before = file.allocated()
    file.punch(BLOCK - 1, 3 * BLOCK + 2)
    assert file.size() == 10 * BLOCK
    assert file.pread(0, 10 * BLOCK) == (
        b"\xff" * (BLOCK - 1) + bytes(3 * BLOCK + 2) + b"\xff" * (6 * BLOCK - 1)
    )
    file.sync()
    assert before - file.allocated() == 3 * BLOCK
    file.punch(0, 100 * BLOCK)
    file.sync()
    assert file.size() == 10 * BLOCK
    assert file.allocated() == 0


def test_usage_is_sane(directory):
    total, free = directory.usage()
    assert 0 < free <= total


def test_closing_twice_is_harmless(directory):
    file = directory.open("log", create=True)
    file.close()
    file.close()
    with pytest.raises(OSError):
        file.size()


def test_real_directory_is_locked_for_one_process(tmp_path: Path):
    first = RealDirectory(tmp_path)
    script = (
        "import sys\nfrom cfs.fs.disk.real import RealDirectory\n"
        "from cfs.core.errors import Refused\n"
        "try: RealDirectory(sys.argv[1])\n"
        "except Refused as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[2]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=root)
    assert "in use by another process" in said.stdout
    with pytest.raises(Refused):
        RealDirectory(tmp_path)
    first.close()
    RealDirectory(tmp_path).close()


def test_real_directory_removes_unfinished_files_and_hides_directories(tmp_path: Path):
    (tmp_path / ".cfs-tmp-id").write_bytes(b"half")
    (tmp_path / "index").mkdir()
    directory = RealDirectory(tmp_path)
    assert directory.names() == []
    assert not (tmp_path / ".cfs-tmp-id").exists()


def test_real_append_goes_on_after_short_writes(tmp_path: Path, monkeypatch):
    file = RealDirectory(tmp_path).open("log", create=True)
    assert isinstance(file, RealFile)
    whole = os.writev

    def short(descriptor, parts):
        joined = b"".join(parts)
        return whole(descriptor, [joined[: max(1, len(joined) // 2)]])

    monkeypatch.setattr(os, "writev", short)
    file.append([b"abc", b"", b"defghij", memoryview(b"klm")])
    assert file.pread(0, 99) == b"abcdefghijklm"


def test_real_files_read_at_once_what_is_cached(tmp_path: Path):
    file = RealDirectory(tmp_path).open("log", create=True)
    file.append([b"x" * 9000])
    file.sync()
    assert file.pread_now(5, 100) == b"x" * 100
    assert file.pread_now(8990, 100) is None
    file.forget(0, 9000)
    assert file.pread_now(5, 100) in (None, b"x" * 100)
    assert file.pread(5, 100) == b"x" * 100


# --- the memory twin's faults ------------------------------------------------------------------


def test_crash_loses_unsynced_bytes_and_names():
    directory = MemoryDirectory()
    kept = directory.open("kept", create=True)
    kept.append([b"safe"])
    kept.sync()
    directory.sync()
    kept.append([b"lost"])
    kept.truncate(2)
    nameless = directory.open("nameless", create=True)
    nameless.append([b"x"])
    nameless.sync()
    directory.crash()
    assert directory.names() == ["kept"]
    assert directory.open("kept").pread(0, 99) == b"safe"
    with pytest.raises(OSError):
        kept.size()


def test_crash_brings_back_a_name_whose_removal_was_not_synced():
    directory = MemoryDirectory()
    directory.write_whole("id", b"one")
    directory.remove("id")
    directory.crash()
    assert directory.open("id").pread(0, 9) == b"one"


def test_torn_crashes_keep_synced_bytes_and_differ():
    lengths = set()
    for seed in range(50):
        directory = MemoryDirectory()
        file = directory.open("log", create=True)
        file.append([b"safe"])
        file.sync()
        directory.sync()
        file.append([b"a" * 9000])
        directory.crash(random.Random(seed).randrange)
        data = directory.open("log").pread(0, 99999)
        assert data[:4] == b"safe"
        assert set(data[4:]) <= set(b"a\0")
        lengths.add(len(data))
    assert len(lengths) > 10


def test_fail_raises_once_or_for_ever():
    directory = MemoryDirectory()
    file = directory.open("log", create=True)
    directory.fail(2, errno.EIO)
    file.append([b"x"])
    with pytest.raises(OSError, match="Input/output") as caught:
        file.sync()
    assert caught.value.errno == errno.EIO
    file.sync()
    directory.fail(1, errno.EIO, for_ever=True)
    for _ in range(3):
        with pytest.raises(OSError):
            file.sync()
    directory.heal()
    file.sync()


def test_a_full_directory_takes_what_fits_then_raises():
    directory = MemoryDirectory(capacity=3 * BLOCK)
    file = directory.open("log", create=True)
    file.append([b"x" * 2 * BLOCK])
    with pytest.raises(OSError) as caught:
        file.append([b"y" * 2 * BLOCK])
    assert caught.value.errno == errno.ENOSPC
    assert file.size() == 3 * BLOCK
    assert directory.usage() == (3 * BLOCK, 0)
    file.truncate(2 * BLOCK)
    file.punch(0, BLOCK)
    assert directory.usage() == (3 * BLOCK, 2 * BLOCK)


def test_flip_damages_one_bit_for_good():
    directory = MemoryDirectory()
    directory.write_whole("id", b"\0\0")
    directory.flip("id", 1, 0x80)
    directory.crash()
    assert directory.open("id").pread(0, 2) == b"\0\x80"
