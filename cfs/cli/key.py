"""`cfs key`: the master key in shares that several people keep; a new volume key.

The master key (32 bytes) opens everything the root group keeps: the volume keys and the authority.
It is split by Shamir's scheme over GF(2^128), each half on its own, as pycryptodome has it: any
`threshold` shares give it back, fewer tell nothing. A share is one line of text, checked by a
CRC-32C, naming the split it is of:

    cfs-share-1 THRESHOLD INDEX SPLIT HALVES CRC       numbers decimal, the rest hexadecimal

`SPLIT` is the first 4 bytes of the key's BLAKE2b: shares of different keys are not mixed, and a
key that comes out wrong is noticed.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import typer
from crc32c import crc32c
from Crypto.Protocol.SecretSharing import Shamir

from cfs.cli.jobs import ADMIN, Directory, ask_admin
from cfs.core.errors import Malformed, Refused
from cfs.fs.root.directory import NodeDirectory
from cfs.net.wrapping import MASTER_KEY_BYTES

_TAG = "cfs-share-1"
_HALF = MASTER_KEY_BYTES // 2
KEEPERS_MAX = 255

app = typer.Typer(help="Split, combine and turn keys.", no_args_is_help=True)


@app.command()
def split(
    directory: Annotated[Path, typer.Option("--dir", help="A metadata node's directory.")],
    keepers: Annotated[int, typer.Option(help="How many shares to make.")] = 5,
    threshold: Annotated[int, typer.Option(help="How many of them give the key back.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Directory for one file a share.")] = None,
) -> None:
    """Split the master key into shares for several keepers."""
    shares = split_key(NodeDirectory(directory).master_key(), keepers, threshold)
    for number, share in enumerate(shares, 1):
        if out is None:
            typer.echo(share)
            continue
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(out / f"share-{number}-of-{keepers}", share + "\n")
    if out is not None:
        typer.echo(f"{keepers} shares in {out}: give each to another keeper, keep none together")


@app.command()
def combine(
    shares: Annotated[list[Path], typer.Argument(help="Files with a share each.")],
    out: Annotated[Path, typer.Option(help="Where to write the master key.")],
) -> None:
    """Give the master key back from enough shares."""
    if out.exists():
        raise Refused(f"{out} exists already: it is not replaced")
    key = combine_key([path.read_text(encoding="ascii").strip() for path in shares])
    _write_private(out, key)
    typer.echo(f"the master key is in {out}: a metadata node keeps it as master.key")


@app.command()
def rotate(directory: Directory = ADMIN) -> None:
    """Make a new volume key: what is written from now on is sealed with it."""
    version = ask_admin(directory, "key_rotate")["version"]
    typer.echo(
        f"new chunks are sealed with volume key {version}; mounts use it when they mount again, "
        "and old chunks keep the key they name"
    )


def split_key(key: bytes, keepers: int, threshold: int) -> list[str]:
    """Give `keepers` shares of which any `threshold` give the key back. Raises Malformed."""
    if len(key) != MASTER_KEY_BYTES:
        raise Malformed(f"a master key has {MASTER_KEY_BYTES} bytes, not {len(key)}")
    if not 2 <= threshold <= keepers <= KEEPERS_MAX:
        raise Malformed("choose 2 to the number of keepers as threshold, 255 keepers at most")
    halves = [Shamir.split(threshold, keepers, key[:_HALF]),
              Shamir.split(threshold, keepers, key[_HALF:])]  # fmt: skip
    name = _name(key)
    shares = []
    for (index, first), (_, second) in zip(*halves, strict=True):
        body = f"{_TAG} {threshold} {index} {name} {(first + second).hex()}"
        shares.append(f"{body} {crc32c(body.encode()):08x}")
    return shares


def combine_key(shares: list[str]) -> bytes:
    """Give the key of enough shares. Raises Malformed, Refused."""
    parts: dict[int, bytes] = {}
    names: set[str] = set()
    needed = 0
    for share in shares:
        words = share.split()
        body, _, crc = share.rpartition(" ")
        if len(words) != 6 or words[0] != _TAG or f"{crc32c(body.encode()):08x}" != crc:
            raise Malformed(f"'{share[:30]}...' is no share, or was changed")
        needed = int(words[1])
        names.add(words[3])
        parts[int(words[2])] = bytes.fromhex(words[4])
    if len(names) != 1:
        raise Refused("these are shares of different keys")
    if len(parts) < needed:
        raise Refused(f"{len(parts)} different shares where {needed} are needed")
    chosen = list(parts.items())[:needed]
    key = b"".join(
        Shamir.combine([(index, part[at : at + _HALF]) for index, part in chosen])
        for at in (0, _HALF)
    )
    if _name(key) != names.pop():
        raise Refused("the shares do not give the key they are of: one of them is wrong")
    return key


def _name(key: bytes) -> str:
    return blake2b(key, digest_size=4).hexdigest()


def _write_private(path: Path, content: str | bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(descriptor)
