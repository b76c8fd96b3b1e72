"""What an open directory of a pyfuse3 mount has fetched and not given yet."""

from __future__ import annotations

from cfs.fs.client.listing import Listed


class Listing:
    """Pages of entries, and how far they were given."""

    __slots__ = ("entries", "index", "ino")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.entries: list[Listed] = []
        self.index = 0

    def seek(self, cookie: int) -> bool:
        """Stand after `cookie` if that is inside what is here."""
        if not cookie:
            return False
        if self.index and self.entries[self.index - 1].cookie == cookie:
            return self.index < len(self.entries)
        for index, entry in enumerate(self.entries):
            if entry.cookie == cookie:
                self.index = index + 1
                return self.index < len(self.entries)
        return False
