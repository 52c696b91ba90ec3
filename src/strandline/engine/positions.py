"""Where waiting runs stand, told to those who listen to them: at most once a second, if it has changed, or why.

Nothing is asked of the journal for a run to which nobody listens. Belongs to the serving loop.
"""

import logging

from strandline.clock import Clock
from strandline.engine.estimates import Estimates
from strandline.engine.events import RunPosition
from strandline.engine.open_requests import OpenRequests, ids_of
from strandline.engine.reasons import Reasons
from strandline.engine.stream import RunStream
from strandline.engine.streams import Streams
from strandline.errors import StrandlineError
from strandline.journal.port import Journal, RunQuery
from strandline.model import RunId, SessionKey

_log = logging.getLogger("strandline.upkeep")


class Positions:
    """Knows in which sessions something has changed since it was last told."""

    def __init__(
        self,
        journal: Journal,
        streams: Streams,
        estimates: Estimates,
        reasons: Reasons,
        open_requests: OpenRequests,
        clock: Clock,
    ) -> None:
        self._journal = journal
        self._open_requests = open_requests
        self._streams = streams
        self._estimates = estimates
        self._reasons = reasons
        self._clock = clock
        self._changed: set[SessionKey] = set()
        self._unheard: set[RunId] = set()
        """Runs that may stand elsewhere than was told last: nobody has listened since."""

    def changed(self, key: SessionKey) -> None:
        """Note that runs of a session may stand elsewhere now."""
        self._changed.add(key)

    async def tell(self) -> None:
        """Tell those who listen to runs that wait where these stand now, and why. To be called every second."""
        changed, self._changed = self._changed, set()
        unheard, self._unheard = self._unheard, set()
        for stream in self._streams.waiting():
            moved = stream.key in changed or stream.run_id in unheard
            if not stream.is_heard:
                if moved:
                    self._unheard.add(stream.run_id)
                continue
            position = stream.place
            if moved:
                try:
                    run = await self._journal.read(RunQuery(stream.key.principal, stream.run_id))
                except StrandlineError as error:
                    _log.warning("it cannot be told where run %s stands: %s", stream.run_id, error)
                    return
                if not self._streams.is_waiting(stream.run_id):
                    continue  # it has begun while it was looked up
                position = None if run is None else run.position
            if position:
                await self._tell(stream, position, moved=moved)

    async def _tell(self, stream: RunStream, position: int, *, moved: bool) -> None:
        """Tell where a run stands, if that is not known: at another place, or for another reason or answer."""
        why = self._reasons.of_waiting(stream.key, position)
        is_new = why is not None and (stream.why is None or stream.why.code is not why.code)
        if why is None and moved:
            self._unheard.add(stream.run_id)  # it is about to start, or to wait for something of which nobody knows yet
        if position == stream.place and not is_new and (why is None or not moved):
            return
        requests = await self._open_requests.of(stream.key, why)
        asked = ids_of(requests)
        if position == stream.place and not is_new and asked == stream.asked:
            return
        if self._streams.is_waiting(stream.run_id):  # else it has begun while that was looked up
            stream.place, stream.why, stream.asked = position, why, asked
            wait_s = self._estimates.wait_s(stream.key, position)
            stream.tell_in_passing(self._clock.now(), RunPosition(position, wait_s, why, requests))
