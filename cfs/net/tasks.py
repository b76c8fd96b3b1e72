"""Tasks that work together on one thing: what one of them raises is what the caller sees.

A trio nursery wraps whatever its tasks raise in an ExceptionGroup, which `except CfsError` does not
catch: a refusal that a client could wait out would turn into a bug of the server. So whoever fans
out within an operation does it here; a nursery itself is for what runs until it is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from cfs.core.errors import CfsError, Retryable


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
