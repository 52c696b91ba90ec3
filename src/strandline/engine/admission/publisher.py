"""What is published of runs as they begin and end: to their streams, and to all that follow every run."""

import logging

from strandline.clock import Clock
from strandline.engine.admission.subscribers import Subscribers
from strandline.engine.observers import Observer, Projection, Tracing
from strandline.engine.queues import Estimates
from strandline.engine.streams import Streams
from strandline.errors import StrandlineError
from strandline.journal.port import Journal, RunQuery
from strandline.model import Claim, Outcome, RunId, SessionKey

_log = logging.getLogger("strandline.service")


class Publisher:
    """The listener of `execution.Claims`. Belongs to the serving loop."""

    def __init__(
        self,
        journal: Journal,
        streams: Streams,
        subscribers: Subscribers,
        estimates: Estimates,
        clock: Clock,
        *,
        observer: Observer,
        tracing: Tracing,
        projection: Projection,
    ) -> None:
        self._journal = journal
        self._streams = streams
        self._subscribers = subscribers
        self._estimates = estimates
        self._clock = clock
        self._observer = observer
        self._tracing = tracing
        self._projection = projection

    def run_claimed(self, claim: Claim) -> None:
        """Publish that a run begins, or goes on."""
        if not claim.goes_on:
            self._observer.started(max(0.0, self._clock.now() - claim.run.created_at))
        self._streams.claimed(claim)

    def run_ended(self, run_id: RunId, key: SessionKey, outcome: Outcome | None, duration_s: float | None) -> None:
        """Publish the outcome of a run (None: it goes on later), and how long it executed in s (None: never)."""
        self._subscribers.forget(run_id)
        if duration_s is not None:
            self._estimates.ended(key, duration_s)
        if outcome is None:
            self._streams.later(run_id)
            return
        self._streams.ended(run_id, key, outcome)
        self._projection.changed(key)
        self._observer.ended(outcome, duration_s)

    async def trace(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        """Have a run traced that has ended while it waited; only the journal knows of it."""
        if not self._tracing.active:
            return
        try:
            run = await self._journal.read(RunQuery(key.principal, run_id))
        except StrandlineError as error:
            _log.warning("run %s cannot be traced: %s", run_id, error)
            return
        if run is not None:
            self._tracing.ended(run, outcome, self._clock.now())
