"""What all commands of the root group are: a tagged msgpack array; see `commands`."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, array_like=True, kw_only=True, tag=True):
    """Base of the commands."""
