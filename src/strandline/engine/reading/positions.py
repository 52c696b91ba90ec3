"""Where waiting runs stand, published to their subscribers: at most once a second, if it has changed, or why.

The journal is not asked for a run that has no subscriber. Belongs to the serving loop.
"""

import logging
from collections.abc import Sequence

from strandline.clock import Clock
from strandline.engine.events import Reason, Why
from strandline.engine.queues import SessionQueues
from strandline.engine.reading.standings import Standings
from strandline.engine.streams import RunStream, Streams
from strandline.errors import StrandlineError
from strandline.journal.port import Journal, RunQuery
from strandline.model import InputRequest, RunId

_log = logging.getLogger("strandline.upkeep")


class Positions:
    """Publishes where something has changed in the queues since it last did."""

    def __init__(
        self, journal: Journal, streams: Streams, queues: SessionQueues, standings: Standings, clock: Clock
    ) -> None:
        self._journal = journal
        self._streams = streams
        self._queues = queues
        self._standings = standings
        self._clock = clock
        self._published = 0
        """The number of the last change in the queues when positions were published."""
        self._unread: set[RunId] = set()
        """Runs that may stand elsewhere than was published last: they have had no subscriber since."""

    async def publish(self) -> None:
        """Publish where the runs that wait and have subscribers stand now, and why. To be called every second."""
        since, self._published = self._published, self._queues.changes
        unheard, self._unread = self._unread, set()
        for stream in self._streams.waiting():
            moved = self._queues.has_changed(stream.key, since) or stream.run_id in unheard
            if not stream.readers:
                if moved:
                    self._unread.add(stream.run_id)
                continue
            position = None if stream.standing is None else stream.standing.position
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
                await self._publish(stream, position, moved=moved)

    async def _publish(self, stream: RunStream, position: int, *, moved: bool) -> None:
        """Publish where a run stands, if that is not known: at another place, or for another reason or answer."""
        why, last = self._standings.reasons.of_waiting(stream.key, position), stream.standing
        if why is None and moved:
            self._unread.add(stream.run_id)  # it is about to start, or to wait for something of which nobody knows yet
        same = last is not None and position == last.position and (why is None or _code(why) is _code(last.why))
        if same and (why is None or not moved):
            return
        at = await self._standings.of_waiting(stream.key, position)
        if same and last is not None and _ids(at.input_requests) == _ids(last.input_requests):
            return
        if self._streams.is_waiting(stream.run_id):  # else it has begun while that was looked up
            stream.standing = at
            stream.publish_transient(self._clock.now(), at)


def _code(why: Why | None) -> Reason | None:
    return None if why is None else why.code


def _ids(requests: Sequence[InputRequest]) -> list[str]:
    return [each.id for each in requests]
