"""Whether the write-ahead log is on the disk as it was written: read at rest, while it is in use.

Reads whole segments, past the page cache where the disk allows it. Blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfs.core.errors import Corrupt
from cfs.fs.disk.port import Directory
from cfs.fs.meta.wal_format import SegmentReader


def log_damage(directory: Directory, sizes: Mapping[str, tuple[int, int]]) -> str:
    """Say what is wrong with segments `name: (sequence, bytes durable)`; empty when all is well."""
    for name, (sequence, size) in sizes.items():
        try:
            file = directory.open(name)
        except FileNotFoundError:
            continue  # reclaimed meanwhile
        try:
            forget: Any = getattr(file, "forget", None)
            if forget is not None:
                forget(0, size)
            segment = SegmentReader(file.pread, size, name=name, sequence=sequence)
            for _ in segment.batches():
                pass
        except OSError as error:
            return f"{name} cannot be read ({error})"
        except Corrupt as error:
            return str(error)
        finally:
            file.close()
        if segment.whole_bytes < size:
            return f"{name} is damaged at offset {segment.whole_bytes} of {size}"
    return ""
