"""Why a run waits, as text and as a code: from the engine's present state, without reading the journal.

It decides nothing and owns nothing. Belongs to the serving loop.
"""

from datetime import UTC, datetime
from typing import Final

from strandline._clock import Clock
from strandline._engine.events import Reason, Why
from strandline._engine.execution import Hold, Holds
from strandline._engine.maintenance import Readiness
from strandline._engine.options import Options
from strandline._engine.queues import Obstacle, SessionQueues
from strandline._model import RunId, RunStatus, RunSummary, SessionKey, SessionView
from strandline.errors import JournalUnavailable, NoWorker

_TEXTS: Final = {
    Reason.SERVER_STOPPING: "the server is stopping; waiting runs resume after its restart",
    Reason.PAUSED: "the session is paused",
    Reason.HELD: "a tool of an ended run is still executing and locks the session",
    Reason.WAITS_FOR_INPUT: "the session waits for an answer to its question",
    Reason.DELAYED: "its time (not_before) has not come",
    Reason.BEHIND: "another run of the session executes",
    Reason.JOINS: "it reaches the run that executes before that one's next model call",
    Reason.COLLECTS: "its turn waits for further messages (if_busy=collect)",
    Reason.JOURNAL_UNAVAILABLE: "the server can store nothing at the moment; its log says why",
    Reason.NO_WORKER: "no worker process takes calls; the server's log says why",
    Reason.HOLDS_FULL: "too many ended runs of its caller are still executing (max_still_working_per_caller)",
    Reason.LAST_ATTEMPT: "last attempts of interrupted runs execute one at a time, and another one does now",
    Reason.PRINCIPAL_BUSY: "its caller executes as many runs as it may at once (max_running_per_caller)",
    Reason.SERVER_BUSY: "the server executes as many runs as it may at once (max_running)",
}
"""The text of each reason, without anything of one principal."""


class Reasons:
    """Of several reasons it names the one that will last longest: one that needs a person before one that ends by
    itself."""

    def __init__(
        self,
        queues: SessionQueues,
        holds: Holds,
        readiness: Readiness,
        clock: Clock,
        options: Options,
    ) -> None:
        self._queues = queues
        self._holds = holds
        self._readiness = readiness
        self._clock = clock
        self._options = options

    def of_run(self, run: RunSummary, session: SessionView | None = None) -> Why | None:
        """Return why a run waits, or why its session does since the run has ended; None if neither waits.

        `session` is that of a run that waits for an answer.
        """
        if run.status is RunStatus.QUEUED and run.position is not None:
            return self.of_waiting(run.key, run.position, run.delayed_until)
        if run.status is RunStatus.QUEUED and run.joined is not None:
            return self.of_joining(run.joined)
        if run.held:
            return self._held(self._holds.of(run.key))
        questions = {each.id for each in run.outcome.input_requests} if run.outcome is not None else set()
        if (
            session is not None
            and session.input_until is not None
            and questions & {each.id for each in session.input_requests}
        ):
            return self._open_question(session.input_until)
        return None

    def of_waiting(self, key: SessionKey, position: int, delayed_until: float | None = None) -> Why | None:
        """Return why a run waits at a position of its session's queue, 1 for the next to start, or is delayed.

        None in the moment in which nothing keeps it from starting any more.
        """
        if self._readiness.stopping:
            return _plain(Reason.SERVER_STOPPING)
        if (
            closed := self._closed(
                key, paused=self._queues.sessions.is_paused(key), until=self._queues.input_until(key)
            )
        ) is not None:
            return closed
        if delayed_until is not None:
            return self._delayed(delayed_until)
        executes = self._queues.sessions.executes(key)
        collects = None if executes else self._collects(key, position)
        if collects is None and (ahead := position - 1 + executes):
            return Why(Reason.BEHIND, f"{_runs(ahead)} ahead of it in its session")
        return collects or self._obstacle(key)

    def of_joining(self, host: RunId) -> Why:
        """Return why a run waits that joins another."""
        if self._readiness.stopping:
            return _plain(Reason.SERVER_STOPPING)
        return Why(Reason.JOINS, f"it reaches {host} before that one's next model call")

    def of_session(self, session: SessionView, *, is_ours: bool = True) -> Why | None:
        """Return why a session starts no runs; None if it is idle, or only executes.

        For a session of another server, only its record counts.
        """
        key = session.key
        if session.waiting and is_ours and self._readiness.stopping:
            return _plain(Reason.SERVER_STOPPING)
        if (closed := self._closed(key, paused=session.paused, until=session.input_until)) is not None:
            return closed
        if session.held:
            return self._held(None)  # (its lock begins or ends just now)
        if not session.waiting:
            return None
        if session.claimed is not None:
            return Why(Reason.BEHIND, f"{_runs(session.waiting)} behind {session.claimed}, which executes")
        if not is_ours:
            return None
        delayed_until = self._queues.sessions.delayed_until(key)
        if delayed_until is not None:
            return self._delayed(delayed_until)
        return self._collects(key) or self._obstacle(key)

    def _closed(self, key: SessionKey, *, paused: bool, until: float | None) -> Why | None:
        """Return why the journal would make no claim in a session, if so."""
        if paused:
            return _plain(Reason.PAUSED)
        if (hold := self._holds.of(key)) is not None:
            return self._held(hold)
        if until is not None:
            return self._open_question(until)
        return None

    def _open_question(self, until: float) -> Why:
        return Why(
            Reason.WAITS_FOR_INPUT, f"the session waits for an answer to its question, until {self._time(until)}"
        )

    def _collects(self, key: SessionKey, position: int = 1) -> Why | None:
        until = self._queues.sessions.collects_until(key, self._clock.now(), position)
        if until is None:
            return None
        return Why(Reason.COLLECTS, f"its turn waits for further messages, until {self._time(until)} if none comes")

    def _delayed(self, until: float) -> Why:
        return Why(Reason.DELAYED, f"it is not to start before {self._time(until)}")

    def _held(self, hold: Hold | None) -> Why:
        if hold is None:
            return _plain(Reason.HELD)
        since = self._clock.now() - (self._clock.monotonic() - hold.since)
        what = hold.phase if hold.phase.startswith("tool ") else "code"
        return Why(
            Reason.HELD,
            f"locked since {self._time(since)} by {what} of {hold.claim.run.run_id},"
            " which has ended and is still executing",
        )

    def _obstacle(self, key: SessionKey) -> Why | None:
        """Return why a session that could continue gets no slot."""
        match self._readiness.trouble:
            case JournalUnavailable.code:
                return _plain(Reason.JOURNAL_UNAVAILABLE)
            case NoWorker.code:
                return _plain(Reason.NO_WORKER)
        match self._queues.obstacle(key):
            case Obstacle.LINGERING:
                count = self._queues.lingering(key.principal)
                return Why(
                    Reason.HOLDS_FULL,
                    f"{count} ended runs of {key.principal} are still executing; its runs wait until one of them stops",
                )
            case Obstacle.LAST_ATTEMPT:
                return _plain(Reason.LAST_ATTEMPT)
            case Obstacle.PRINCIPAL:
                most = self._options.max_running_per_principal
                return Why(
                    Reason.PRINCIPAL_BUSY,
                    f"{key.principal} executes as many runs as it may at once: {most}",
                )
            case Obstacle.SERVER:
                most = self._options.max_running
                return Why(Reason.SERVER_BUSY, f"the server executes as many runs as it may at once: {most}")
            case None:
                return None

    def _time(self, at: float) -> str:
        """Return an instant for people, with its day unless that is today."""
        moment, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(self._clock.now(), UTC).date()
        return f"{moment:%H:%M:%S} UTC" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M} UTC"


def of_others(why: Why | None) -> Why | None:
    """Return a reason without ids and names of tools, which belong to one principal."""
    return None if why is None else _plain(why.code)


def _plain(code: Reason) -> Why:
    return Why(code, _TEXTS[code])


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
