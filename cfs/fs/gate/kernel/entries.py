"""How long the kernel may keep names, and their end.

A name has a lifetime in the kernel while this client holds a lease on its directory, so a path's
directories are not looked up again for every file below them. Before such a lease is given back
every name with life left is *expired*: INVAL_ENTRY with EXPIRE_ONLY, after which the kernel asks
again but throws nothing away (a full INVAL_ENTRY would leave working directories "(deleted)").

INVAL_ENTRY takes the directory's lock. A request that changes the directory holds it until it is
answered, and that may take what the other client wants to do first: two clients would wait for each
other. So lifetimes are short, and a lease is given back at the latest when they are over by
themselves. A directory where that happened is left without lifetimes for a while, longer each time.

A LOOKUP that refreshes a name the kernel has is the one answer taken in without that lock: it may
be taken in after the name was expired. What was so answered within `RACE_S` is expired once more
after it. A name that is moved takes its lifetime with it (`moved`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog
import trio

_LOG = structlog.get_logger()

ENTRY_S = 1.0
"""The longest lifetime: a recall waits no longer for a directory that is locked."""
MARGIN_S = 0.1
"""The kernel counts in ticks, from when the caller takes the answer in."""
RACE_S = 0.05
"""Within this time a caller has taken its answer in."""
PAUSE_S, PAUSE_MAX_S = 2.0, 64.0
"""A directory recalled has no lifetimes for so long; twice, four times... if again."""
NAMES_MAX = 65_536
"""Names remembered; more get no lifetime."""
PAUSES_MAX = 16_384
THREADS = 8

Expire = Callable[[int, Collection[bytes]], None]
"""End the lifetimes of names in a directory; may wait for its lock."""


class Entries:
    """The names the kernel may use without asking, by directory."""

    def __init__(self, expire: Expire) -> None:
        self.enabled = False
        """The kernel can expire names without dropping them."""
        self._expire = expire
        self._limiter = trio.CapacityLimiter(THREADS)
        self._given: dict[int, dict[bytes, float]] = {}
        self._count = 0
        self._raced: dict[int, dict[bytes, float]] = {}
        self._pauses: dict[int, tuple[float, float]] = {}

    def give(self, parent: int, name: bytes, left_s: float, *, raced: bool) -> float:
        """Give a lifetime, seconds, at most `left_s`: the time the lease is sure to last."""
        now = trio.current_time()
        if left_s <= 0 or not self.enabled or now < self._pauses.get(parent, (0.0, 0.0))[0]:
            return 0.0
        if self._count >= NAMES_MAX:
            self._sweep(now)
            if self._count >= NAMES_MAX:
                return 0.0
        life = min(ENTRY_S, left_s)
        names = self._given.setdefault(parent, {})
        self._count += name not in names
        names[name] = now + life + MARGIN_S
        if raced:
            self._raced.setdefault(parent, {})[name] = now
        return life

    def moved(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> float:
        """Note that a name moved, with its lifetime; give what is left of it, seconds."""
        until = self._given.get(parent, {}).get(name, 0.0)
        left = until - trio.current_time()
        if left <= 0:
            return 0.0
        names = self._given.setdefault(new_parent, {})
        self._count += new_name not in names
        names[new_name] = max(until, names.get(new_name, 0.0))
        return left

    async def end(self, parent: int) -> None:
        """Return when no name given in a directory before this call counts any more."""
        now = trio.current_time()
        given = {n: u for n, u in self._given.get(parent, {}).items() if u > now}
        if not given:
            self._drop(parent, dict(self._given.get(parent, {})))
            return
        self._pause(parent, now)
        with trio.move_on_at(max(given.values())):
            await self._tell(parent, given)
            raced = self._raced.pop(parent, {})
            late = [n for n, at in raced.items() if at + RACE_S > now]
            if late:
                await trio.sleep_until(max(raced.values()) + RACE_S)
                await self._tell(parent, late)
        self._drop(parent, given)

    async def over(self) -> None:
        """Return when no name given before this call counts any more."""
        untils = [until for names in self._given.values() for until in names.values()]
        await trio.sleep_until(max(untils, default=0.0))

    async def _tell(self, parent: int, names: Collection[bytes]) -> None:
        try:
            await trio.to_thread.run_sync(
                self._expire, parent, names, limiter=self._limiter, abandon_on_cancel=True
            )
        except OSError as error:
            _LOG.warning("expire_failed", ino=parent, error=str(error))
            await trio.sleep_forever()  # until they are over by themselves

    def _pause(self, parent: int, now: float) -> None:
        until, pause_s = self._pauses.pop(parent, (0.0, 0.0))
        again = pause_s and now - until < 4 * pause_s
        pause_s = min(2 * pause_s, PAUSE_MAX_S) if again else PAUSE_S
        self._pauses[parent] = now + pause_s, pause_s
        if len(self._pauses) > PAUSES_MAX:
            del self._pauses[next(iter(self._pauses))]

    def _drop(self, parent: int, given: dict[bytes, float]) -> None:
        """Forget names, unless they were given again."""
        names = self._given.get(parent)
        if names is None:
            return
        for name, until in given.items():
            if names.get(name) == until:
                del names[name]
                self._count -= 1
        if not names:
            del self._given[parent]

    def _sweep(self, now: float) -> None:
        for parent in list(self._given):
            over = {n: u for n, u in self._given[parent].items() if u <= now}
            self._drop(parent, over)
            raced = self._raced.get(parent, {})
            if not any(at + RACE_S > now for at in raced.values()):
                self._raced.pop(parent, None)
