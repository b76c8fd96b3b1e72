"""What one batch changes in the counts of quotas: gathered by operation, written at its end.

A draft's part of `quota`. Changes are kept by who they count for, and spread over domains only when
somebody asks for one, or at last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from cfs.core.api.quota import Domain
from cfs.core.kv import Writer
from cfs.core.meta import keys, quota
from cfs.core.meta.records import USAGE, Inode, Usage

if TYPE_CHECKING:
    from cfs.core.meta.draft import Draft


class Ledger:
    """The counts of a batch."""

    def __init__(self, kv: Writer) -> None:
        self.enforced = False
        """The operation is refused when it would pass a quota."""
        self._kv = kv
        self._usages: dict[Domain, Usage] = {}
        self._uses: quota.Sums = {}
        self._promised: dict[Domain, int] = {}

    def look(self, draft: Draft, changed: Mapping[int, Inode | None]) -> quota.Sums:
        """Give what an operation changes. Raises EDQUOT if it is enforced and passes a cap."""
        uses = quota.count(draft, changed)
        if self.enforced and draft.state.limits and (uses or self._promised):
            quota.check(self.usage, uses, self._promised)
        return uses

    def take(self, uses: quota.Sums) -> None:
        """Count what an operation has changed, and the promises it made; it cannot fail any more.

        The next one begins.
        """
        sums = self._uses
        for owners, by in uses.items():
            there = sums.get(owners)
            if there is None:
                sums[owners] = by
            else:
                for at, number in enumerate(by):
                    there[at] += number
        self.enforced = False
        if self._promised:
            for domain, inodes in self._promised.items():
                there_is = self.usage(domain)
                promised = there_is.promised + inodes
                self._usages[domain] = replace(there_is, promised=promised)
            self._promised.clear()

    def forget(self) -> None:
        """Begin the next operation; this one did not happen."""
        self._promised.clear()
        self.enforced = False

    def usage(self, domain: Domain) -> Usage:
        """Give what a domain used before the operation."""
        self._spread()
        usage = self._usages.get(domain)
        if usage is None:
            usage = self._usages[domain] = quota.usage(self._kv, domain)
        return usage

    def set_usage(self, domain: Domain, usage: Usage) -> None:
        """Set what a domain uses or its caps, at once: nothing that follows may be refused."""
        self._spread()
        self._usages[domain] = usage

    def promise(self, domain: Domain, inodes: int) -> None:
        """Promise inodes to a transaction, or (negative) take the promise back."""
        self._promised[domain] = self._promised.get(domain, 0) + inodes

    def write(self, epoch: int) -> None:
        """Write what has changed; the batch is over."""
        self._spread()
        for domain, usage in self._usages.items():
            key = keys.usage(domain.kind, domain.id)
            if usage == Usage():
                self._kv.delete(key)
            else:
                self._kv.put(key, USAGE.encode(usage, epoch))
        self._usages.clear()

    def _spread(self) -> None:
        if self._uses:
            sums, self._uses = self._uses, {}
            for domain, by in quota.spread(sums).items():
                self._usages[domain] = quota.added(self.usage(domain), by)
