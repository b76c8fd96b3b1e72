"""Tasks that work together on one thing: what one of them raises is what the caller sees.

A trio nursery wraps whatever its tasks raise in an ExceptionGroup, which `except CfsError` does not
catch: a refusal that a client could wait out would turn into a bug of the server. So whoever fans
out within an operation does it here; a nursery itself is for what runs until it is cancelled.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from cfs.core.errors import CfsError, Retryable

_Item = TypeVar("_Item")


async def run_all(
    function: Callable[[_Item], Awaitable[object]], items: Iterable[_Item], *,
    at_once: float = math.inf,
) -> None:  # fmt: skip
    """Call a function on every item, together; raise the first CfsError once all have ended."""
    failures: list[CfsError] = []
    limiter = trio.CapacityLimiter(at_once)

    async def one(item: _Item) -> None:
        async with limiter:
            try:
                await function(item)
            except CfsError as error:
                failures.append(error)

    async with open_tasks() as tasks:
        for item in items:
            tasks.start_soon(one, item)
    if failures:
        raise failures[0]


@asynccontextmanager
async def open_tasks() -> AsyncIterator[trio.Nursery]:
    """Give a nursery that raises the one failure that matters, not a group.

    A final error comes before a `Retryable` one. Anything but a CfsError is a
    bug and stays a group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        raise _telling(group) from None


def _telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    leaves = list(_leaves(group))
    cancelled = group.subgroup(trio.Cancelled)
    errors = [leaf for leaf in leaves if isinstance(leaf, CfsError)]
    others = [leaf for leaf in leaves if not isinstance(leaf, CfsError | trio.Cancelled)]
    if others:
        return group
    if cancelled is not None:
        return cancelled
    return next((error for error in errors if not isinstance(error, Retryable)), errors[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
