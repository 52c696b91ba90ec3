"""What callers are shown: runs, sessions and history as the journal has them, and what runs do now."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from strandline._engine.events import RunPosition, Why
from strandline._engine.execution import Runner
from strandline._engine.maintenance import Readiness
from strandline._engine.reading.answers import RunPage, RunView
from strandline._engine.reading.reasons import of_others
from strandline._engine.reading.standings import Standings
from strandline._engine.requests import check_key
from strandline._engine.streams import Later, RunStream, Streams
from strandline._journal.port import (
    HistoryPage,
    HistoryQuery,
    Journal,
    RunQuery,
    RunsOfQuery,
    RunsQuery,
    SessionPage,
    SessionQuery,
    SessionsQuery,
    Stored,
    StoredQuery,
)
from strandline._lifecycle import ENDED
from strandline._model import (
    Lane,
    Message,
    Outcome,
    Principal,
    Run,
    RunId,
    RunStatus,
    RunSummary,
    SessionKey,
    SessionView,
)
from strandline.errors import NotFound, StrandlineError

HISTORY_PAGE: Final = 500
PAGE_BYTES: Final = 4 * 1024 * 1024
"""How much of a history, of what runs have left or of what sessions ask is read and held at once, as the JSON that is
kept: a page that many ask for at the same time costs memory and the serving loop's time for each of them, however large
the messages are that some agent has left."""


class Reading(Struct, eq=False):
    """Belongs to the serving loop."""

    _journal: Journal
    _runner: Runner
    _streams: Streams
    standings: Standings
    _readiness: Readiness

    async def run(self, principal: Principal, run_id: RunId, *, end: Outcome | Later | None = None) -> RunView:
        """Return a run. Raises `NotFound`, also for a run of another principal.

        `end` is what its stream has told: a server that stops may have no place left to keep that.
        """
        run = await self.kept(principal, run_id)
        if isinstance(end, Outcome) and run.status not in ENDED:  # its journal keeps nothing, and the server stops
            ended = replace(run.summary(), status=end.status, outcome=end, position=None)
            return RunView(run=ended, phase=None, estimated_wait_s=None)
        return (await self._views([run.summary()]))[0]  # (its input may be large, and who has the view may wait long)

    async def kept(self, principal: Principal, run_id: RunId) -> Run:
        """Return a run as the journal has it. Raises `NotFound`."""
        run = await self._asked().read(RunQuery(principal, run_id))
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        return run

    def _asked(self) -> Journal:
        """Note that somebody asks, and return what is asked."""
        self._readiness.note_request()
        return self._journal

    async def _views(self, runs: Sequence[RunSummary]) -> list[RunView]:
        asking = {run.key for run in runs if run.status is RunStatus.NEEDS_INPUT}
        sessions = {key: await self.standings.asking(key) for key in asking}
        return [self._view(run, sessions.get(run.key)) for run in runs]

    def _view(self, run: RunSummary, session: SessionView | None) -> RunView:
        phase = "held" if run.held else None
        if run.status not in ENDED:
            phase = self._runner.phase(run.run_id) or ("waiting" if run.status is RunStatus.QUEUED else "model")
        why = self.standings.reasons.of_run(run, session)
        return RunView(run=run, phase=phase, estimated_wait_s=self.standings.wait_s(run), why=why)

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        view = await self.run(principal, run_id)
        if view.run.status in ENDED or (stream := self._streams.of(run_id, view.run.key)) is None:
            return view
        end: Outcome | Later | None = None
        with suppress(TimeoutError):
            end = await asyncio.wait_for(stream.outcome(), timeout_s)
        return await self.run(principal, run_id, end=end)

    async def stream(self, principal: Principal, run_id: RunId) -> RunStream:
        """Return what is told of a run: its events can be read while it goes on, and for a while after its end.

        Later there is its end alone. Raises `NotFound`.
        """
        if (stream := self._streams.found(principal, run_id)) is not None and stream.has_begun:
            return stream
        return (await self.followed(principal, run_id))[2]

    async def followed(self, principal: Principal, run_id: RunId) -> tuple[Run, RunPosition, RunStream]:
        """Return a run, how it stands, and its stream, which has that too if it waits. Raises `NotFound`."""
        run = await self.kept(principal, run_id)
        if run.outcome is None and not self._streams.is_expected(run_id):
            run = await self.kept(principal, run_id)  # it has ended since it was read, or ends in a later process only
        stream = self._streams.of_read(run)
        at = await self.standings.of_run(run)
        if at.position and run.lane != Lane.REQUEUED:  # (one that was requeued goes on, and does not begin to wait)
            self._streams.queued(run_id, at)
        return run, at, stream

    async def runs(self, key: SessionKey, *, cursor: str | None = None, limit: int = 100) -> RunPage:
        """Return a page of runs of a session: the last in line first, then what executes, then the latest end first.

        Raises `Invalid` for a cursor that is none; an unknown session has no runs.
        """
        page = await self._asked().read(RunsQuery(key, cursor, limit, PAGE_BYTES))
        return RunPage(runs=await self._views(page.runs), after=page.after, damaged=page.damaged)

    async def runs_of(
        self,
        principal: Principal,
        *,
        statuses: Collection[RunStatus] = (),
        cursor: str | None = None,
        limit: int = 100,
    ) -> RunPage:
        """Return a page of runs of all sessions of a principal, of these statuses or of all, the last accepted first.

        Raises `Invalid` for a cursor that is none.
        """
        page = await self._asked().read(RunsOfQuery(principal, frozenset(statuses), cursor, limit, PAGE_BYTES))
        return RunPage(runs=await self._views(page.runs), after=page.after, damaged=page.damaged)

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        session = await self._asked().read(SessionQuery(key))
        if session is None:
            raise NotFound(f"there is no session {key.session_id}")
        return session

    def why(self, session: SessionView, *, of_another: bool = False) -> Why | None:
        """Return why nothing more of a session starts, None if it is at rest or only executes.

        `of_another`: without what is the principal's own, for an operator.
        """
        why = self.standings.reasons.of_session(session)
        return of_others(why) if of_another else why

    async def sessions(
        self, principal: Principal | None, *, after: SessionKey | None = None, limit: int = 100
    ) -> SessionPage:
        """Return sessions of a principal (None: of all), those after `after` in the order of principal and id."""
        return await self._asked().read(SessionsQuery(principal, after, limit, PAGE_BYTES))

    async def history_page(
        self, key: SessionKey, *, before: int | None = None, limit: int = 100, discarded: bool = False
    ) -> HistoryPage:
        """Return the last messages before index `before`, oldest first; with `discarded` hidden ones too.

        No more than `limit`, and fewer where they are large: `first` of the page is where it begins, and the `before`
        of the next one; 0 is the end.
        """
        return await self._asked().read(HistoryQuery(key, before, limit, discarded, PAGE_BYTES))

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all. An unknown session has none."""
        check_key(key)
        kept: list[Message] = []
        before: int | None = None
        # Where all is wanted, small pages would only have those who ask at the same time hold it at the same time.
        most_bytes = PAGE_BYTES if count else None
        while True:
            page = await self._asked().read(HistoryQuery(key, before, HISTORY_PAGE, most_bytes=most_bytes))
            messages = page.messages if include_tool_messages else [m for m in page.messages if not _only_tools(m)]
            kept = messages + kept
            if page.first == 0 or (count and len(kept) >= count):
                return kept[-count:] if count else kept
            before = page.first

    async def stored(self) -> Stored | None:
        """Return how many bytes are kept, for metrics; None while the journal cannot tell."""
        try:
            return await self._journal.read(StoredQuery())
        except StrandlineError:
            return None


def _only_tools(message: Message) -> bool:
    return all("toolUse" in block or "toolResult" in block for block in message["content"])
