"""Chance is seeded: Hypothesis draws the same examples every time, and never judges by the clock.

`HYPOTHESIS_SEARCH=1` lets it look further, for a developer who hunts.
"""

import os

from hypothesis import settings

settings.register_profile("seeded", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("search" if os.environ.get("HYPOTHESIS_SEARCH") else "seeded")
