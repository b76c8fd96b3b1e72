"""Two mounts of one cluster: what one has finished, the other sees at once."""

import os
import random
import stat
import subprocess
import sys

import pytest

from tests.system import racer
from tests.system.cluster import full

ROUNDS = full(1000, 80)


@pytest.fixture(scope="module")
def pair(cluster):
    return cluster.mount, cluster.second_mount(cluster.mount.with_name("mnt2"))


def test_what_one_closes_the_other_reads_at_once(pair):
    """Every step of a round is done on the one mount and looked at on the other; they swap."""
    chance = random.Random(4)
    for mount in pair:
        (mount / f"round-{mount.name}").mkdir()
    for number in range(ROUNDS):
        one, other = pair if number % 2 else reversed(pair)
        where = f"round-{chance.choice(pair).name}"
        content = chance.randbytes(chance.choice((0, 1, 100, 5000, 20_000, 200_000)))
        _round(one / where, other / where, f"f{number}", content)


def _round(one, other, name, content):
    assert not (other / name).exists()
    (one / name).write_bytes(content)
    assert (other / name).read_bytes() == content
    assert other / name in other.iterdir()
    assert racer.attributes(one / name) == racer.attributes(other / name)
    (other / name).rename(other / f"{name}-new")
    assert not (one / name).exists()
    assert (one / f"{name}-new").stat().st_size == len(content)
    name = f"{name}-new"
    with (one / name).open("ab") as file:
        file.write(b"appended")
    content += b"appended"
    assert (other / name).stat().st_size == len(content)
    assert (other / name).read_bytes() == content
    os.truncate(other / name, 5)
    assert (one / name).read_bytes() == content[:5]
    (one / name).chmod(0o640)
    assert stat.S_IMODE((other / name).stat().st_mode) == 0o640
    os.utime(other / name, ns=(1, 2))
    assert (one / name).stat().st_mtime_ns == 2
    os.setxattr(one / name, "user.round", name.encode())
    assert os.getxattr(other / name, "user.round") == name.encode()
    os.link(other / name, other / f"{name}-link")
    assert (one / f"{name}-link").read_bytes() == content[:5]
    assert (one / name).stat().st_nlink == 2
    (one / name).unlink()
    assert not (other / name).exists()
    assert (other / f"{name}-link").stat().st_nlink == 1
    (other / f"{name}-link").unlink()
    assert one / f"{name}-link" not in one.iterdir()
    (one / name).mkdir()
    (other / name / "inside").symlink_to("x")
    assert (one / name / "inside").readlink().name == "x"
    with pytest.raises(OSError, match="not empty"):
        (one / name).rmdir()
    (one / name / "inside").unlink()
    (other / name).rmdir()
    assert not (one / name).exists()


def test_what_one_wrote_through_an_open_file_the_other_reads(pair):
    """Without a close: write and read through descriptors that stay open on both."""
    one, other = (mount / "open" for mount in pair)
    one.touch()
    with one.open("r+b", buffering=0) as first, other.open("r+b", buffering=0) as second:
        ends = [first.fileno(), second.fileno()]
        for number in range(ROUNDS):
            writer, reader = ends[number % 2], ends[1 - number % 2]
            text = b"%08d" % number
            assert os.pwrite(writer, text, number * 8) == 8
            assert os.fstat(reader).st_size == number * 8 + 8
            assert os.pread(reader, 8, number * 8) == text


def test_a_file_of_many_names_is_listed_while_the_other_mount_writes_it(pair):
    one, other = (mount / "names" for mount in pair)
    one.mkdir()
    with (one / "a").open("wb", buffering=0) as file:
        for name in ("b", "c"):
            os.link(one / "a", one / name)
        for size in range(1, 20):
            file.write(b"x")
            assert {(e.name, e.stat().st_size) for e in os.scandir(other)} == {
                (name, size) for name in "abc"
            }


def test_an_unlinked_file_stays_readable_through_the_other_mount(pair):
    one, other = (mount / "kept" for mount in pair)
    one.write_bytes(b"kept" * 50_000)
    with other.open("rb") as file:
        one.unlink()
        assert not other.exists()
        assert file.read() == b"kept" * 50_000


def _both(pair, *words):
    """Run the racer on both mounts at once; every one must end well."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.system.racer", words[0], str(mount), str(n), *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n, mount in enumerate(pair)
    ]
    try:
        said = [r.communicate(timeout=full(600, 90))[0] for r in racers]
    finally:
        for r in racers:
            r.kill()
            r.wait()
    assert [r.returncode for r in racers] == [0, 0], said
    return said


def test_appends_from_both_lose_nothing(pair):
    count = full(2000, 200)
    _both(pair, "append", str(count))
    lines = (pair[0] / "appended").read_text().splitlines()
    assert sorted(lines) == sorted(racer.line(n, i) for n in (0, 1) for i in range(count))
    for n in (0, 1):
        mine = [text for text in lines if text.startswith(f"{n} ")]
        assert mine == [racer.line(n, i) for i in range(count)], "a writer's lines keep their order"
    assert (pair[1] / "appended").read_text().splitlines() == lines


def test_an_exclusive_create_has_one_winner(pair):
    count = full(1000, 100)
    won = [set(said.split()) for said in _both(pair, "create", str(count))]
    assert not won[0] & won[1]
    assert len(won[0] | won[1]) == count
    for n in (0, 1):
        for name in won[n]:
            assert (pair[1 - n] / "exclusive" / name).read_text() == str(n)


def test_chaos_in_one_directory_leaves_both_with_the_same(pair):
    _both(pair, "chaos", str(full(60, 8)))
    trees = [racer.tree(mount / "chaos") for mount in pair]
    assert trees[0] == trees[1]
    assert trees[0]
