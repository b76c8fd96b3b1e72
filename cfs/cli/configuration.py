"""The configuration file of a node or client: TOML in, one frozen value out.

A node's file is `cfs.toml` in its directory, written by `cfs cluster init` or `cfs node join` and
edited by operators. Unknown sections, unknown keys and values of the wrong type are refused, with
the nearest known name. Nothing else reads configuration, and only `cfs.cli` reads the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfs.core.errors import CfsError

FILE_NAME = "cfs.toml"


class ConfigurationError(CfsError):
    """The file is not there or says what it may not; the message names file, key and remedy."""

    exit_code = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSection:
    """`[node]`: who this process is and where it listens."""

    name: str = ""
    role: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    domain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSection:
    """`[storage]`: the disks of a storage node."""

    disks: tuple[str, ...] = ()
    """Directories, each on a device of its own; relative ones are inside the node directory."""
    reserve_bytes: int = 0
    """Kept free for deletes and repair; 0: the larger of 64 MiB and 1 % of the disk."""
    scrub_days: float = 14.0
    """Everything stored is read and verified at least once in so many days."""
    scrub_bytes_per_s: int = 0
    """What that may take of the disks at most; 0: what is needed to be in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaSection:
    """`[meta]`: a metadata node."""

    pack_after_s: float = 20.0
    """Age at which small files move from the metadata store into segments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSection:
    """`[client]`: a mount."""

    dirty_bytes: int = 64 << 20
    """Written but not yet stored data a mount may hold."""
    cache_bytes: int = 64 << 20
    """Plain chunks kept for reading."""
    flush_s: float = 1.0
    """Dirty data is stored after this time at the latest."""
    binding: str = "kernel"
    """How to speak with the kernel: `kernel` (its own protocol) or `pyfuse3`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSection:
    """`[log]`: where the process writes what happened."""

    level: str = "info"
    file: str = ""
    """Empty: standard error, as systemd wants it. Otherwise rotated by size."""
    rotate_bytes: int = 16 << 20
    keep: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Everything a process is told."""

    node: NodeSection = field(default_factory=NodeSection)
    storage: StorageSection = field(default_factory=StorageSection)
    meta: MetaSection = field(default_factory=MetaSection)
    client: ClientSection = field(default_factory=ClientSection)
    log: LogSection = field(default_factory=LogSection)


def load(path: Path) -> Configuration:
    """Read a configuration file. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        message = f"{path} is not there; run 'cfs cluster init' or 'cfs node join' first"
        raise ConfigurationError(message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    sections = {f.name: f for f in dataclasses.fields(Configuration)}
    values: dict[str, Any] = {}
    for name, content in tree.items():
        if name not in sections:
            raise ConfigurationError(f"{path}: unknown section [{name}]{_nearest(name, sections)}")
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: '{name}' must be a section: [{name}]")
        section = sections[name].default_factory
        assert isinstance(section, type)
        values[name] = _section(path, name, section, content)
    return Configuration(**values)


def dump(configuration: Configuration) -> str:
    """Give the TOML text of a configuration; only what differs from the defaults, and `[node]`."""
    lines: list[str] = []
    for section in dataclasses.fields(configuration):
        value = getattr(configuration, section.name)
        pairs = [
            f"{f.name} = {_toml(getattr(value, f.name))}"
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != f.default
        ]
        if pairs:
            lines += [f"[{section.name}]", *pairs, ""]
    return "\n".join(lines)


def _section(path: Path, name: str, section: type, content: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(section)
    known = {f.name for f in dataclasses.fields(section)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise ConfigurationError(
                f"{path}: unknown key '{key}' in [{name}]{_nearest(key, known)}"
            )
        values[key] = _typed(path, f"{name}.{key}", hints[key], value)
    return section(**values)


def _typed(path: Path, key: str, hint: Any, value: Any) -> Any:
    if isinstance(hint, types.GenericAlias):
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        raise ConfigurationError(f"{path}: {key} must be a list of strings")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigurationError(f"{path}: {key} must be {hint.__name__}, not {value!r}")
    return value


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
