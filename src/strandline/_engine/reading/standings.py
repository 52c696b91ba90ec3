"""A run's standing: its position, why and how long it waits, and its session's open input requests.

Open input requests are read from the journal on demand: they decide nothing, and may be answered by the time that a
client has read them.
"""

import logging

from msgspec.structs import replace

from strandline._engine.events import Reason, RunPosition, Why
from strandline._engine.queues import Estimates
from strandline._engine.reading.reasons import Reasons
from strandline._engine.streams import truncate_arguments
from strandline._journal.port import Journal, SessionQuery
from strandline._model import InputRequest, JoinState, RunId, RunSummary, SessionKey, SessionView
from strandline.errors import StrandlineError

_log = logging.getLogger("strandline.open_requests")


class Standings:
    """Belongs to the serving loop. A request whose reason takes more than `cut` bytes of JSON is shown without it."""

    def __init__(self, journal: Journal, estimates: Estimates, reasons: Reasons, *, cut: int) -> None:
        self.reasons = reasons
        self._journal = journal
        self._estimates = estimates
        self._cut = cut

    def wait_s(self, run: RunSummary) -> float | None:
        """Return how many seconds a run is likely to wait; 0 if it does not."""
        return self._estimates.wait_s(run.key, run.position or 0, run.delayed_until)

    async def of_waiting(self, key: SessionKey, position: int, delayed_until: float | None) -> RunPosition:
        """Return the standing of a run at a position, 1 for the next to start; it may be delayed."""
        return await self._of(key, position, self.reasons.of_waiting(key, position, delayed_until), delayed_until)

    def of_joining(self, host: RunId) -> RunPosition:
        """Return the standing of a run that is to join another: it has no position."""
        return RunPosition(0, None, self.reasons.of_joining(host))

    async def of_run(self, run: RunSummary) -> RunPosition:
        """Return the standing of a run that was read; at position 0 if it does not wait."""
        if run.join is JoinState.PENDING and run.joined is not None and run.outcome is None:
            return self.of_joining(run.joined)
        return await self._of(run.key, run.position or 0, self.reasons.of_run(run), run.delayed_until)

    async def _of(self, key: SessionKey, position: int, why: Why | None, delayed_until: float | None) -> RunPosition:
        requests = [] if why is None or why.code is not Reason.WAITS_FOR_INPUT else await self._open_requests(key)
        return RunPosition(position, self._estimates.wait_s(key, position, delayed_until), why, requests)

    async def _open_requests(self, key: SessionKey) -> list[InputRequest]:
        session = await self.asking(key)
        requests = [] if session is None else session.input_requests
        return [replace(each, reason=truncate_arguments(each.reason, self._cut)[0]) for each in requests]

    async def asking(self, key: SessionKey) -> SessionView | None:
        """Return a session that has open input requests; None if it cannot be read at this moment."""
        try:
            return await self._journal.read(SessionQuery(key))
        except StrandlineError as error:
            _log.warning("the open input requests of session %s cannot be read: %s", key.session_id, error)
            return None
