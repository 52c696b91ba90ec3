"""The caller's record of an accepted run."""

from msgspec import Struct

from strandline._engine.reading import RunView
from strandline._engine.streams import Later, RunStream
from strandline._journal.port import Superseded
from strandline._model import GoBack, JoinState, NewRun, Outcome, RunId, RunStatus, RunSummary, SessionKey


class Ticket(Struct, frozen=True, kw_only=True):
    """An accepted run: durable from here on. `position` is 0 if it executes, else 1 for the next to start.

    `attached`: it was accepted before, under the same key; `replayed`: it has also ended, and `stream` has its end.
    `counts_clients`: disconnects of its clients matter to the run; see `Service.joined`. `stopped`: the runs that it
    has interrupted. `new`: the run as requested, unless `attached`.
    """

    run_id: RunId
    key: SessionKey
    created_at: float
    """When it was accepted, in seconds since the epoch."""
    position: int
    estimated_wait_s: float | None
    stream: RunStream
    attached: bool = False
    replayed: bool = False
    counts_clients: bool = False
    stopped: tuple[RunId, ...] = ()
    joined: RunId | None = None
    """The run that it is to join."""
    back: GoBack | None = None
    superseded: Superseded | None = None
    """Where it goes back to, and what it supersedes thereby, if its request listed the conversation."""
    new: NewRun | None = None

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run. `Later`: it resumes after a restart. Cancelling the wait does not affect the
        run."""
        return await self.stream.outcome()

    def view(self, end: Outcome | Later) -> RunView | None:
        """Return the run as it was accepted, ended if `end` says how; None if `attached`.

        For when the journal cannot be read: an accepted run must not be answered as if it had been refused.
        """
        if (new := self.new) is None:
            return None
        outcome = end if isinstance(end, Outcome) else None
        waits = outcome is None and (self.position > 0 or self.joined is not None)
        unended = RunStatus.QUEUED if waits else RunStatus.RUNNING
        run = RunSummary(
            run_id=new.run_id,
            key=new.key,
            lane=new.lane,
            priority=new.priority,
            resumable=new.resumable,
            metadata=new.metadata,
            sequence=0,  # (never shown)
            status=unended if outcome is None else outcome.status,
            attempt=0 if waits else 1,
            created_at=new.created_at,
            position=(self.position or None) if waits else None,
            outcome=outcome,
            if_busy=new.if_busy,
            not_before=new.not_before,
            back=new.back,
            joined=self.joined,
            join=None if self.joined is None else JoinState.PENDING,
        )
        phase = "waiting" if waits else None if outcome else "model"
        return RunView(run=run, phase=phase, estimated_wait_s=self.estimated_wait_s if waits else None)
