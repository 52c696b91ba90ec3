"""The positions of waiting runs, published to their subscribers: at most once a second, and only changes.

Belongs to the serving loop.
"""

from strandline._clock import Clock
from strandline._engine.events import Reason, RunPosition, RunQueued, Why
from strandline._engine.queues import SessionQueues
from strandline._engine.reading.standings import Standings
from strandline._engine.streams import RunStream, Streams
from strandline._model import RunId


class Positions:
    """Publishes the positions and reasons that have changed since the last time."""

    def __init__(self, streams: Streams, queues: SessionQueues, standings: Standings, clock: Clock) -> None:
        self._streams = streams
        self._queues = queues
        self._standings = standings
        self._clock = clock
        self._seen: dict[RunId, tuple[int, Reason | None, float | None]] = {}
        """Position, reason, and until when its session waits for input, of each run that had a subscriber last time."""

    async def publish(self) -> None:
        """Publish the positions and reasons of waiting runs with subscribers. To be called every second."""
        before, self._seen = self._seen, {}
        for stream in self._streams.waiting():
            position = self._queues.sessions.position(stream.run_id)
            if position is None or not stream.readers:
                continue
            delayed_until = self._queues.sessions.not_before(stream.run_id)
            why = self._standings.reasons.of_waiting(stream.key, position, delayed_until)
            seen = (position, _code(why), self._queues.input_until(stream.key))
            self._seen[stream.run_id] = seen
            if before.get(stream.run_id) != seen:
                await self._publish(stream, position, why, delayed_until)

    async def _publish(self, stream: RunStream, position: int, why: Why | None, delayed_until: float | None) -> None:
        """Publish a run's standing, unless its position, its reason and its session's input requests are known."""
        last = stream.standing
        same = last is not None and position == last.position
        if same and why is None:
            return  # it is about to start
        at = await self._standings.of_waiting(stream.key, position, delayed_until)
        if same and last is not None and _reason_and_requests(at) == _reason_and_requests(last):
            return
        if self._streams.is_waiting(stream.run_id):  # otherwise it has begun meanwhile
            stream.standing = at
            stream.publish_transient(self._clock.now(), at)


def _code(why: Why | None) -> Reason | None:
    return None if why is None else why.code


def _reason_and_requests(at: RunPosition | RunQueued) -> tuple[Reason | None, list[str]]:
    """Return why a run waits, and the ids of its session's open input requests."""
    return _code(at.why), [each.id for each in at.input_requests]
