"""Reading py-spy's raw stacks: which functions a process spent its samples in. Pure.

A raw line is `outermost;...;innermost count`. A function's self share is where it was innermost,
its inclusive share where it was anywhere on the stack, counted once.
"""

from __future__ import annotations

import re
from collections import Counter

_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^:()]*)(?::\d+)?\)$")


def parse(text):
    """Give (samples, self, inclusive) counters of functions; lines that are no stacks are left."""
    total, own, inclusive = 0, Counter(), Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        if not stack or not count.isdigit():
            continue
        frames = [frame_name(f) for f in stack.split(";")]
        number = int(count)
        total += number
        own[frames[-1]] += number
        for frame in set(frames):
            inclusive[frame] += number
    return total, own, inclusive


def frame_name(frame):
    """Shorten a frame to `name (cfs/where/file.py)`, or its last two parts outside CFS."""
    match = _FRAME.match(frame.strip())
    if match is None:
        return frame.strip()
    parts = match["file"].split("/")
    first = len(parts) - 1 - parts[::-1].index("cfs") if "cfs" in parts else -2
    return f"{match['name']} ({'/'.join(parts[first:])})"


def top(counter, total, count, keep=lambda _name: True):
    """Give the `count` highest of those kept, as (share, name)."""
    kept = [(n / total, name) for name, n in counter.most_common() if keep(name)]
    return kept[:count] if total else []


def is_ours(name):
    """Tell a function of CFS, by its shortened frame; what merely starts a process is not told."""
    return "(cfs/" in name and "(cfs/cli/" not in name
