"""The session table: the one set of rules for every session and run.

Deterministic and synchronous: it knows no clock, event loop or SQL. Each operation reads what it needs (`records.py`),
decides, changes the cached state, and adds the rows to write and the claims that it made; `drain` returns them as a
batch. An operation that raises has changed nothing. Batches must be stored in their order, before the answers that rest
on them are sent or their claims delivered; meanwhile more may be decided. If a batch cannot be stored, `undo` returns
the sessions to reset to their stored state. `now` is in seconds since the epoch.
"""

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from strandline._encoding import encode_messages
from strandline._journal.accepting import Accepting
from strandline._journal.changes import AddCheckpoint, Change, EncodedCompletion, StoreAgent
from strandline._journal.changing import Changing
from strandline._journal.live import DUE_AGAIN_S
from strandline._journal.numbers import Numbers
from strandline._journal.owning import Owning
from strandline._journal.port import AsRead, ClaimResult
from strandline._journal.records import DiskSpace, Records
from strandline._journal.rules import check_cancel, check_end
from strandline._journal.state import SessionState
from strandline._model import (
    Claim,
    FencingToken,
    JoinedInput,
    Message,
    Principal,
    RunId,
    RunsJoined,
    RunStatus,
    SessionKey,
)


class Batch(Struct, gc=False):
    """Decisions to store together: rows in their order, and the claims to deliver afterwards."""

    changes: list[Change]
    claims: list[Claim]
    sessions: list[SessionState]
    """The changed ones."""
    coming: list[tuple[Principal, int]]
    """The bytes of new runs, by principal, where these are bounded."""
    dropped: list[SessionKey]
    """Sessions that are deleted."""
    to_send: int = 0
    """How many events to send it has."""
    ceded: dict[int, int] = {}
    """Partitions that are ours no more, each with how many owners it has had."""


class SessionTable(Accepting, Changing, Owning):
    """The sessions with waiting or claimed runs, and those that were used last."""

    @classmethod
    def of(
        cls,
        records: Records,
        *,
        max_attempts: int,
        numbers: Numbers,
        room: DiskSpace | None = None,
    ) -> "SessionTable":
        """Return a table of the stored sessions, all in one partition. `numbers` continues after theirs.

        What is not cached is read from `records` at once, until its `records` are set to None.
        """
        table = cls(records, room, max_attempts=max_attempts, numbers=numbers)
        table.install(records.busy_sessions())
        return table

    # -- what was decided -----------------------------------------------------------------------------

    def drain(self) -> Batch:
        """Return what was decided since the last drain."""
        changes, self._changes = self._changes, []
        claims, self._claims = self._claims, []
        sessions, self._changed = self._changed, []
        for session in sessions:
            session.is_changed = False
            session.in_flight += 1
        coming, self._coming = self._coming, []
        dropped, self._dropped = self._dropped, []
        ceded, self._ceded = self._ceded, {}
        to_send, self._to_send = self._to_send, 0
        return Batch(changes, claims, sessions, coming, dropped, to_send, ceded)

    @property
    def decided(self) -> int:
        """How many rows were decided since the last drain."""
        return len(self._changes)

    def durable(self, batch: Batch, stored: Mapping[Principal, int]) -> None:
        """Note that a batch is durable. `stored` are the bytes now stored for each of its `principals`."""
        for session in batch.sessions:
            session.in_flight -= 1
        for principal, size in batch.coming:
            self._bytes_in_flight[principal] -= size
        for key in batch.dropped:
            self._drops_in_flight[key] -= 1
            if not self._drops_in_flight[key]:
                del self._drops_in_flight[key]
        self._stored_of.update(stored)
        if batch.to_send and self._on_send is not None:
            self._on_send()

    def watch_deliveries(self, stored: Callable[[], object]) -> None:
        """Call `stored` whenever events to send are durable."""
        self._on_send = stored

    def principals(self, batch: Batch) -> set[Principal]:
        """Return the principals of a batch whose stored bytes the table needs."""
        return (
            {session.key.principal for session in batch.sessions} & self._stored_of.keys() if self._stored_of else set()
        )

    def forget_stored(self) -> None:
        """Note that the stored bytes of principals changed by something that was not decided here."""
        self._stored_of.clear()

    def undo(self, batches: Iterable[Batch]) -> set[SessionKey]:
        """Drop all decisions since the last drain, as `batches` could not be stored; return the sessions to
        `put_back`."""
        batches = list(batches)
        sessions = [*self._changed, *(session for batch in batches for session in batch.sessions)]
        for ceded in (self._ceded, *(batch.ceded for batch in batches)):
            self._epochs.update(ceded)
        self._ceded.clear()
        self._changes.clear()
        self._claims.clear()
        self._to_send = 0
        self._changed.clear()
        self._coming.clear()
        self._dropped.clear()
        self._stored_of.clear()
        self._bytes_in_flight.clear()
        self._drops_in_flight.clear()
        return {session.key for session in sessions}

    def put_back(self, sessions: Mapping[SessionKey, SessionState | None]) -> None:
        """Replace sessions by their stored state; None: the session does not exist."""
        for key, session in sessions.items():
            self._forget(key)
            if session is not None and self.owns(self.partition(key)):
                # A run whose end could not be stored is not due again at once.
                self._install(session, self._now + DUE_AGAIN_S)

    def session_of(self, run_id: RunId | None) -> SessionKey | None:
        """Return the session of a waiting or claimed run; None for any other."""
        run = None if run_id is None else self._runs.get(run_id)
        return None if run is None else run.session.key

    # -- runs -----------------------------------------------------------------------------------------
    def claim_next(self, key: SessionKey, *, now: float) -> ClaimResult:
        """Claim the session's next run, counting an attempt."""
        self._now = now
        session = self._find(key)
        if session is None:
            return ClaimResult.NOTHING
        self._look_ahead(session)
        return self._claim_next(session)

    def checkpoint(self, token: FencingToken, checkpoint: bytes) -> None:
        """Store what a running run has done so far."""
        run = self._executing(token)
        self._note(run.session, AddCheckpoint(run.seq, run.checkpoints, checkpoint))
        run.checkpoints += 1

    def apply_joins(
        self,
        token: FencingToken,
        messages: list[Message],
        as_read: AsRead,
        *,
        now: float,
        first: Callable[[], object] = lambda: None,
    ) -> list[JoinedInput]:
        """Have the runs reach their host that wait for that, by a checkpoint; return them. One that cannot be read
        waits on, and so do all once the host's cancel was accepted.

        `first` stores what goes before; it is called once nothing is missing."""
        host = self._executing(token)
        session, self._now = host.session, now
        if host.cancel_requested:
            return []
        pending = [(run, self._stored(run)) for run in session.pending if run.host is host]
        readable = [(run, found.run) for run, found in pending if found.error is None]
        joined = [JoinedInput(run.run_id, as_read(found.input, found.sender), found.sender) for run, found in readable]
        first()
        if joined:
            self.checkpoint(token, encode_messages(RunsJoined(messages, joined)))
        for run, _ in readable:
            self._apply(run)
        return joined

    def finish(
        self,
        token: FencingToken,
        completion: EncodedCompletion,
        *,
        hold: bool,
        claim_next: bool,
        now: float,
        first: Callable[[], object] | None = None,
    ) -> ClaimResult:
        """End a run: outcome, messages, window and state. With `hold`, keep its claim; else claim the next.

        `first` as in `apply_joins`."""
        check_end(RunStatus.RUNNING, completion.status)
        run = self._executing(token)
        check_cancel(run, completion.status, discarded=completion.discarded)
        self._now = now
        session = run.session
        closed = (completion.length > 0 and not completion.discarded) or completion.question is not None
        if not closed and session.answered_by(run) is not None:
            self._question(session)
        if claim_next and not hold:
            self._look_ahead(session, completion.joined)
        if first is not None:
            first()
        unresolved = completion.unresolved and run.checkpoints > 0
        self._end(
            run,
            completion.status,
            completion.outcome,
            discarded=completion.discarded,
            hold=hold,
            unresolved=unresolved,
        )
        changed = completion.window is not None or completion.state is not None
        agent = run.seq if changed else None
        self._append(
            session, run.seq, completion.messages, completion.length, discarded=completion.discarded, agent=agent
        )
        if session.joining:
            outcome, discarded = completion.joined_outcome, completion.discarded
            self._end_joins(run, completion.status, outcome, completion.joined, discarded=discarded)
        if unresolved:
            self._leave_unresolved(run)
        self._close_round_of(run, closed=closed, begun=completion.discarded)
        if completion.question is not None:
            self._ask(session, run.seq, completion.question, now + completion.answer_within_s, hold=hold)
        if changed:
            self._note(session, StoreAgent(session.ref, run.seq, completion.window, completion.state))
        return self._claim_next(session) if claim_next and not hold else ClaimResult.NOTHING

    def release(self, token: FencingToken, *, counted: bool, now: float) -> None:
        """Requeue a running run at the head of its queue, with `counted` False without its attempt; or end a hold."""
        run = self._claimed(token)
        if run.held_since is None:
            check_cancel(run, RunStatus.QUEUED, discarded=False)
            self._now = now
            self._requeue(run, run.attempt - (not counted))
        else:
            self._now = now
            self._end_hold(run)
