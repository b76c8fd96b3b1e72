"""What a background job shows of itself: name, state, progress, last error."""

from __future__ import annotations

from cfs.core.api.root import WorkerStatus


class Worker:
    """A job's face; the job itself sets the fields."""

    def __init__(self, name: str, node: str) -> None:
        self.name = name
        self.node = node
        self.state = "idle"
        self.progress = ""
        self.last_error = ""

    def status(self) -> WorkerStatus:
        """Give what to show."""
        return WorkerStatus(
            name=self.name,
            node=self.node,
            state=self.state,
            progress=self.progress,
            last_error=self.last_error,
        )
