"""Where waiting runs stand, told to those who listen to them: at most once a second, and only if it has changed.

Nothing is asked of the journal for a run to which nobody listens. Belongs to the serving loop.
"""

import logging

from strandline.clock import Clock
from strandline.engine.estimates import Estimates
from strandline.engine.events import RunPosition
from strandline.engine.streams import Streams
from strandline.errors import StrandlineError
from strandline.journal.port import Journal, RunQuery
from strandline.model import RunId, SessionKey

_log = logging.getLogger("strandline.upkeep")


class Positions:
    """Knows in which sessions something has changed since it was last told."""

    def __init__(self, journal: Journal, streams: Streams, estimates: Estimates, clock: Clock) -> None:
        self._journal = journal
        self._streams = streams
        self._estimates = estimates
        self._clock = clock
        self._changed: set[SessionKey] = set()
        self._unheard: set[RunId] = set()
        """Runs that may stand elsewhere than was told last: nobody has listened since."""

    def changed(self, key: SessionKey) -> None:
        """Note that runs of a session may stand elsewhere now."""
        self._changed.add(key)

    async def tell(self) -> None:
        """Tell those who listen to runs that wait where these stand now. To be called every second."""
        changed, self._changed = self._changed, set()
        unheard, self._unheard = self._unheard, set()
        if not changed and not unheard:
            return
        for stream in self._streams.waiting():
            if stream.key not in changed and stream.run_id not in unheard:
                continue
            if not stream.is_heard:
                self._unheard.add(stream.run_id)
                continue
            try:
                run = await self._journal.read(RunQuery(stream.key.principal, stream.run_id))
            except StrandlineError as error:
                _log.warning("it cannot be told where run %s stands: %s", stream.run_id, error)
                return
            if not self._streams.is_waiting(stream.run_id):
                continue  # it has begun while it was looked up
            if run is not None and run.position and run.position != stream.place:
                stream.place = run.position
                wait_s = self._estimates.wait_s(stream.key, run.position)
                stream.tell_in_passing(self._clock.now(), RunPosition(run.position, wait_s))
