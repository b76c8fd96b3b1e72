"""Numbers as people write them: bytes and bytes a second."""

from __future__ import annotations

import re

from cfs.cli.configuration import ConfigurationError

_SCALE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_rate(text: str) -> int:
    """Read `50M`, `1.5GiB/s`, `0` or `none` as bytes a second (0: no bound).

    Raises ConfigurationError.
    """
    if text.strip().lower() == "none":
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?(?:/s)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigurationError(f"'{text}' is no rate; write 50M, 1.5G, 800K or none (a second)")
    return int(float(match[1]) * _SCALE[match[2].upper()])


def rate_text(rate: int) -> str:
    """Write a rate the way people read it."""
    if rate == 0:
        return "none"
    for unit in ("", "K", "M", "G", "T"):
        if rate < 1024 * _SCALE[unit] or unit == "T":
            return f"{rate / _SCALE[unit]:.4g}{unit or 'B'}/s"
    raise AssertionError
