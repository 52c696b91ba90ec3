"""Where a run stands: its position, why it waits and for how long, and what its session asks meanwhile."""

from strandline.engine.events import RunPosition
from strandline.engine.queues import Estimates
from strandline.engine.reading.open_requests import OpenRequests
from strandline.engine.reading.reasons import Reasons
from strandline.model import Run, SessionKey


class Standings:
    """Belongs to the serving loop."""

    def __init__(self, estimates: Estimates, reasons: Reasons, open_requests: OpenRequests) -> None:
        self._estimates = estimates
        self._reasons = reasons
        self._open_requests = open_requests

    def wait_s(self, key: SessionKey, position: int) -> float | None:
        """Return how long a run at a position is likely to wait."""
        return self._estimates.wait_s(key, position)

    async def of_waiting(self, key: SessionKey, position: int) -> RunPosition:
        """Return how a run stands that waits at a position, 1 for the next to start."""
        why = self._reasons.of_waiting(key, position)
        requests = await self._open_requests.of(key, why)
        return RunPosition(position, self._estimates.wait_s(key, position), why, requests)

    async def of_run(self, run: Run) -> RunPosition:
        """Return how a run stands that was read; at position 0 if it does not wait."""
        position = run.position or 0
        wait_s, why = self._estimates.wait_s(run.key, position), self._reasons.of_run(run)
        return RunPosition(position, wait_s, why, await self._open_requests.of(run.key, why))
