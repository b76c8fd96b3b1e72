"""Tells callers that are being killed from callers that only got a signal.

The kernel says INTERRUPT for any signal. On a local file system operations go on then: programs
with timers or children do not expect EINTR from them. Only who is being killed must not be kept.
"""

from __future__ import annotations

from pathlib import Path

_SIGKILL_BIT = 1 << 8
_PENDING = ("SigPnd:", "ShdPnd:")


def is_killed(task: int) -> bool:
    """Tell whether a thread is being killed, or is gone, or cannot be seen from here (0).

    Any fatal signal becomes a pending SIGKILL of each thread (`complete_signal` in the kernel).
    """
    if not task:
        return True
    try:
        status = Path(f"/proc/{task}/status").read_text()
    except OSError:
        return True
    words = [line.split() for line in status.splitlines() if line.startswith(_PENDING)]
    return any(int(mask, 16) & _SIGKILL_BIT for _, mask in words)
