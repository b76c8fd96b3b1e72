"""Where log lines go: structlog, one event a line, `noun_verb` and fields.

To standard error for systemd and terminals, or to a file that rotates by size.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

import structlog

from cfs.cli.configuration import LogSection


def configure(section: LogSection, directory: Path | None = None) -> None:
    """Send structlog's events where `section` says; a relative file lies in `directory`."""
    handler: logging.Handler
    if section.file:
        path = Path(section.file)
        if directory and not path.is_absolute():
            path = directory / path
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=section.rotate_bytes, backupCount=section.keep
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = logging.getLevelNamesMapping().get(section.level.upper(), logging.INFO)
    root.setLevel(level)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
