"""`python -m tests.sim [--seed N] [--seeds A..B] [--minutes M] [--trace]`: run seeds, report.

Each seed runs in a process of its own, forked from one that has everything imported. The hash
seed of Python is part of the run, so the command starts itself again with a fixed one.
"""

from __future__ import annotations

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]],
              {**os.environ, "PYTHONHASHSEED": "0"})  # fmt: skip

from tests.sim.command import main

sys.exit(main(sys.argv[1:]))
