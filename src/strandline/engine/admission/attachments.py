"""Tickets of runs that were accepted before: a request whose idempotency key is known is answered by its run."""

from strandline.engine.admission.ticket import Ticket
from strandline.engine.maintenance import Readiness
from strandline.engine.reading import Standings
from strandline.engine.streams import RunStream, Streams
from strandline.errors import NotFound
from strandline.journal.port import Journal, RunQuery
from strandline.model import Run, RunId, SessionKey


class Attachments:
    """Belongs to the serving loop."""

    def __init__(self, journal: Journal, streams: Streams, readiness: Readiness, standings: Standings) -> None:
        self._journal = journal
        self._streams = streams
        self._readiness = readiness
        self._standings = standings

    async def ticket(self, key: SessionKey, run_id: RunId) -> Ticket:
        """Return the ticket of a run, whether it has ended or not. Raises `NotFound`."""
        run = await self._kept(key, run_id)
        if run.outcome is None and not self._streams.is_expected(run_id):
            run = await self._kept(key, run_id)  # it has ended since it was read, or ends in a later process only
        stream = self._stream(run)
        standing = await self._standings.of_run(run)
        self._streams.waits(run, standing.estimated_wait_s, standing.why, standing.input_requests)
        return Ticket(
            run_id=run_id,
            key=key,
            position=standing.position,
            estimated_wait_s=standing.estimated_wait_s,
            stream=stream,
            attached=True,
            replayed=run.outcome is not None,
            heeds=run.outcome is None,
        )

    def _stream(self, run: Run) -> RunStream:
        """Return the stream of a run, as it was when that was read."""
        if run.outcome is not None:
            return self._streams.ended_before(run, run.outcome)
        if self._readiness.draining and run.run_id not in self._streams:
            return self._streams.postponed(run.run_id, run.key)
        return self._streams.of(run.run_id, run.key) or self._streams.postponed(run.run_id, run.key)

    async def _kept(self, key: SessionKey, run_id: RunId) -> Run:
        run = await self._journal.read(RunQuery(key.principal, run_id))
        if run is None:
            raise NotFound(f"run {run_id} is not there any more")
        return run
