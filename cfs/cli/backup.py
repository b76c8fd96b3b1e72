"""`cfs admin backup`: the metadata of a running cluster into a directory, incrementally.

    DEST/pieces/ab/NAME         records of one group, compressed (zstd); NAME: BLAKE2b-256 of them
    DEST/manifests/TIME.json    which pieces make up each group, in order, and its digest

Pieces are cut where the keys say so, not where the bytes fall, so what did not change since the
last backup gives the same pieces, and they are there already. A manifest is written last, durably,
and only after the digest of what was written matched the one the cluster keeps: a backup is whole
or it is not there. Memory: one piece. Each group is of one instant; the instants of the groups lie
milliseconds apart, so an operation across shards in between may be half in it: `cfs admin fsck`
after a restore says so. Object stores as DEST come with the S3 gateway.

What is in it is not encrypted: names, sizes, owners. File contents are not in it, nor the master
key, unless `--with-key` says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
import zstandard

from cfs.cli.jobs import ADMIN, Directory
from cfs.cli.process import Process
from cfs.core.api import root
from cfs.core.api.insight import ExportState
from cfs.core.errors import CfsError, Corrupt, DeadlineExceeded, Refused, Retryable
from cfs.fs.meta.group_record import record_hash
from cfs.fs.meta.snapshot import piece_of, read_header, records_of
from cfs.fs.root.directory import NodeDirectory

PIECE_BYTES_MIN = 64 << 10
PIECE_BYTES_MAX = 1 << 20
CUT_OF = 256
"""One key in so many may end a piece."""
ASK_S = 30.0
ATTEMPTS = 40
VERSION = 1
_MASK = (1 << 128) - 1

Records = list[tuple[bytes, bytes]]


def backup(
    dest: Annotated[Path, typer.Argument(help="A directory, kept from backup to backup.")],
    with_key: Annotated[
        Path | None,
        typer.Option("--with-key", help="A metadata node's directory: put its master key in, too."),
    ] = None,
    directory: Directory = ADMIN,
) -> None:
    """Back the metadata up, online; only what changed since the last time is written."""
    (dest / "manifests").mkdir(parents=True, exist_ok=True, mode=0o700)
    made = trio.run(_run, directory, dest)
    key_said = "the master key is not in it: keep it apart (cfs key split)"
    if with_key is not None:
        write_whole(dest / "master.key", NodeDirectory(with_key).master_key())
        key_said = f"the master key is in {dest}/master.key: guard it as you guard the cluster"
    typer.echo(
        f"{made['name']}: {made['records']} records of {made['groups']} groups in "
        f"{made['pieces']} pieces, {made['new']} of them new ({made['new_bytes']} bytes)"
    )
    typer.echo(key_said)


async def _run(directory: Path, dest: Path) -> dict[str, Any]:
    process = Process(directory)
    async with trio.open_nursery() as nursery:
        await nursery.start(process.pool.run)
        await process.view.refresh()
        made = await Backup(process, dest).make()
        await process.view.settle()
        nursery.cancel_scope.cancel()
    return made


class Backup:
    """One backup."""

    def __init__(self, process: Process, dest: Path) -> None:
        self._process = process
        self._dest = dest
        self._new = self._new_bytes = self._pieces = self._records = 0

    async def make(self) -> dict[str, Any]:
        """Make it; give what it came to. Raises the error tree, Corrupt when a digest differs."""
        known = self._process.view.map
        numbers = [*range(1, known.shard_count + 1), 0]  # the root last: its numbers only rise
        begun = {n: await self._begin(n) for n in numbers}
        groups: dict[str, Any] = {}
        for number in numbers:
            groups[str(number)] = await self._group(number, *begun[number])
            typer.echo(f"group {number}: {groups[str(number)]['records']} records", err=True)
        name = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f"-{time.time_ns() % 10**6:06d}"
        manifest = {
            "version": VERSION, "cluster": known.name, "cluster_id": known.cluster_id.hex(),
            "shards": known.shard_count, "made_ms": time.time_ns() // 1_000_000, "groups": groups,
        }  # fmt: skip
        data = json.dumps(manifest, indent=1).encode()
        write_whole(self._dest / "manifests" / f"{name}.json", data)
        return {
            "name": name, "groups": len(groups), "records": self._records,
            "pieces": self._pieces, "new": self._new, "new_bytes": self._new_bytes,
        }  # fmt: skip

    async def _begin(self, group: int) -> tuple[int, int, bytes]:
        """Begin a stream at the group's leader; give node, token and header."""
        error: CfsError = DeadlineExceeded(f"group {group} has no leader now")
        for _ in range(ATTEMPTS):
            for node in await self._leaders(group):
                try:
                    reply, _ = await self._process.pool.call(
                        node, "meta.export", ExportState(group=group), timeout_s=ASK_S
                    )
                except (Retryable, DeadlineExceeded) as other:
                    error = other
                    continue
                return node, reply.token, reply.header
            await trio.sleep(0.25)
        raise error

    async def _leaders(self, group: int) -> list[int]:
        status = await self._process.leader.ask("root.status", root.GetStatus(), timeout_s=ASK_S)
        return [
            n.node_id
            for n in status.nodes
            for load in (n.heartbeat.groups if n.heartbeat else ())
            if load.group == group and load.role == "leader"
        ]

    async def _group(self, group: int, node: int, token: int, header: bytes) -> dict[str, Any]:
        head = read_header(header)
        names: list[str] = []
        waiting: Records = []
        size = total = count = sequence = 0
        while True:
            request = ExportState(group=group, token=token, sequence=sequence)
            reply, piece = await self._process.pool.call(
                node, "meta.export", request, timeout_s=ASK_S
            )
            sequence += 1
            for key, value in records_of(bytes(piece)):
                waiting.append((key, value))
                size += len(key) + len(value) + 8
                total += record_hash(key, value)
                count += 1
                if ends_piece(key, size):
                    names.append(self._put(waiting))
                    waiting, size = [], 0
            if reply.end:
                break
        if waiting:
            names.append(self._put(waiting))
        digest = (total & _MASK).to_bytes(16, "little")
        if digest != head.digest:
            raise Corrupt(
                f"group {group}: what arrived has another digest than the cluster keeps: "
                "run cfs admin scrub --deep, then back up again"
            )
        self._records += count
        self._pieces += len(names)
        return {
            "index": head.meta.index, "term": head.meta.term, "digest": digest.hex(),
            "records": count, "pieces": names,
        }  # fmt: skip

    def _put(self, records: Records) -> str:
        data = piece_of(records)
        name = blake2b(data, digest_size=32).hexdigest()
        path = self._dest / "pieces" / name[:2] / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            packed = zstandard.ZstdCompressor(level=3).compress(data)
            write_whole(path, packed)
            self._new += 1
            self._new_bytes += len(packed)
        return name


def ends_piece(key: bytes, size: int) -> bool:
    """Tell whether a piece ends with this record: by its key, or because it is full."""
    chosen = blake2b(key, digest_size=2).digest()
    return size >= PIECE_BYTES_MAX or (
        size >= PIECE_BYTES_MIN and int.from_bytes(chosen, "big") % CUT_OF == 0
    )


def read_manifest(dest: Path, name: str = "") -> dict[str, Any]:
    """Read the newest manifest, or the one of that name. Raises Refused."""
    found = sorted((dest / "manifests").glob("*.json"))
    chosen = [p for p in found if not name or p.stem == name]
    if not chosen:
        raise Refused(f"{dest} holds no backup {name}: there are {[p.stem for p in found]}")
    manifest: dict[str, Any] = json.loads(chosen[-1].read_text(encoding="ascii"))
    if manifest["version"] != VERSION:
        raise Refused(f"{chosen[-1]} is of version {manifest['version']}: use a newer cfs")
    return manifest


def read_records(dest: Path, names: list[str]) -> Iterator[Records]:
    """Yield the records of pieces, checked. Raises Corrupt."""
    for name in names:
        path = dest / "pieces" / name[:2] / name
        try:
            data = zstandard.ZstdDecompressor().decompress(path.read_bytes())
        except (OSError, zstandard.ZstdError) as error:
            raise Corrupt(f"{path} cannot be read ({error}): restore from another copy") from error
        if blake2b(data, digest_size=32).hexdigest() != name:
            raise Corrupt(f"{path} is damaged: restore from another copy of the backup")
        yield list(records_of(data))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, readable by its owner alone, whole and durably or not at all."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
