"""The port between a replicated log and what it drives: a deterministic state machine.

Every replica applies the same commands in the same order to the same keys and must reach the same
state: no clock, no chance, no iteration over unordered containers.
"""

from __future__ import annotations

from typing import Any, Protocol

from cfs.core.kv import Writer


class StateMachine(Protocol):
    """A root group or a shard."""

    def apply(self, kv: Writer, index: int, command: bytes) -> Any:
        """Apply one committed command and give its result (used only where it was proposed).

        Must not raise for anything a command can contain: a refused command changes nothing and
        its result says why. `kv` is scoped to the group.
        """
        ...
