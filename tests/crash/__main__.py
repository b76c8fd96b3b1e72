"""`python -m tests.crash`: see `tests.crash.command`. The hash seed of Python is part of a run."""

from __future__ import annotations

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, "-m", "tests.crash", *sys.argv[1:]],
              {**os.environ, "PYTHONHASHSEED": "0"})  # fmt: skip

from tests.crash.command import main

sys.exit(main(sys.argv[1:]))
