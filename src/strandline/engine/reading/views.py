"""What callers are shown: runs, sessions and history as the journal has them, and what runs do now."""

import asyncio
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from strandline.engine.execution import Runner
from strandline.engine.maintenance import Readiness
from strandline.engine.queues import Estimates
from strandline.engine.reading.answers import RunView, RunViews
from strandline.engine.reading.open_requests import OpenRequests
from strandline.engine.reading.reasons import Reasons
from strandline.engine.requests import check_key
from strandline.engine.streams import Later, RunStream, Streams
from strandline.errors import NotFound, StrandlineError
from strandline.journal.port import (
    AllSessionsPage,
    AllSessionsQuery,
    HistoryPage,
    HistoryQuery,
    Journal,
    RunQuery,
    RunsOfQuery,
    RunsQuery,
    SessionQuery,
    SessionsPage,
    SessionsQuery,
)
from strandline.lifecycle import ENDED
from strandline.model import (
    Message,
    Outcome,
    Principal,
    RunId,
    RunStatus,
    RunSummary,
    SessionId,
    SessionKey,
    SessionView,
)

HISTORY_PAGE: Final = 500
PAGE_BYTES: Final = 4 * 1024 * 1024
"""How much of a history, of what runs have left or of what sessions ask is read and held at once, as the JSON that is
kept: a page that many ask for at the same time costs memory and the serving loop's time for each of them, however large
the messages are that some agent has left."""


class Reading:
    """Belongs to the serving loop. What its methods promise stands at those of `Service`."""

    def __init__(
        self,
        journal: Journal,
        runner: Runner,
        streams: Streams,
        estimates: Estimates,
        reasons: Reasons,
        open_requests: OpenRequests,
        readiness: Readiness,
    ) -> None:
        self._journal = journal
        self._runner = runner
        self._streams = streams
        self._estimates = estimates
        self._reasons = reasons
        self._open_requests = open_requests
        self._readiness = readiness

    async def run(self, principal: Principal, run_id: RunId, end: Outcome | Later | None = None) -> RunView:
        """Return a run. `end`: as its stream has it, for a journal that has none. Raises `NotFound`."""
        self._readiness.asked()
        run = await self._journal.read(RunQuery(principal, run_id))
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        if isinstance(end, Outcome) and run.status not in ENDED:  # its journal keeps nothing, and the server stops
            ended = replace(run.summary(), status=end.status, outcome=end, position=None)
            return RunView(run=ended, phase=None, estimated_wait_s=None)
        session = await self._asking(run.key) if run.status is RunStatus.NEEDS_INPUT else None
        return self._view(run.summary(), session)  # (its input may be large, and who has the view may wait long)

    async def _asking(self, key: SessionKey) -> SessionView | None:
        """Return a session that has asked for input, as far as it can be read."""
        try:
            return await self._journal.read(SessionQuery(key))
        except StrandlineError:
            return None  # the run is shown without it

    async def _views(self, runs: Sequence[RunSummary]) -> list[RunView]:
        asking = {run.key for run in runs if run.status is RunStatus.NEEDS_INPUT}
        sessions = {key: await self._asking(key) for key in asking}
        return [self._view(run, sessions.get(run.key)) for run in runs]

    def _view(self, run: RunSummary, session: SessionView | None) -> RunView:
        phase = "held" if run.held else None
        if run.status not in ENDED:
            phase = self._runner.phase(run.run_id) or ("waiting" if run.status is RunStatus.QUEUED else "model")
        wait_s = self._estimates.wait_s(run.key, run.position or 0)
        return RunView(run=run, phase=phase, estimated_wait_s=wait_s, why=self._reasons.of_run(run, session))

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        view = await self.run(principal, run_id)
        if view.run.status in ENDED:
            return view
        stream = None
        if run_id in self._streams or not self._readiness.draining:
            stream = self._streams.of(run_id, view.run.key)
        end: Outcome | Later | None = None
        if stream is not None:
            try:
                end = await asyncio.wait_for(stream.outcome(), timeout_s)
            except TimeoutError:
                pass
        return await self.run(principal, run_id, end)

    async def stream(self, principal: Principal, run_id: RunId) -> RunStream:
        """Return the stream of a run. Raises `NotFound`."""
        if (stream := self._streams.found(principal, run_id)) is not None and stream.has_begun:
            return stream
        run = (await self.run(principal, run_id)).run
        if run.outcome is None and not self._streams.is_expected(run_id):
            run = (await self.run(principal, run_id)).run  # it has ended since it was read, or ends elsewhere
        if run.outcome is not None:
            return self._streams.ended_before(run, run.outcome)
        if self._readiness.draining and run_id not in self._streams:
            return self._streams.postponed(run_id, run.key)
        stream = self._streams.of(run_id, run.key) or self._streams.postponed(run_id, run.key)
        why = self._reasons.of_run(run)
        requests = await self._open_requests.of(run.key, why)
        self._streams.waits(run, self._estimates.wait_s(run.key, run.position or 0), why, requests)
        return stream

    async def runs(self, key: SessionKey, cursor: str | None, limit: int) -> RunViews:
        """Return a page of the runs of a session. Raises `Invalid`."""
        self._readiness.asked()
        page = await self._journal.read(RunsQuery(key, cursor, limit, PAGE_BYTES))
        return RunViews(runs=await self._views(page.runs), after=page.after, damaged=page.damaged)

    async def runs_of(
        self, principal: Principal, statuses: frozenset[RunStatus], cursor: str | None, limit: int
    ) -> RunViews:
        """Return a page of the runs of a principal. Raises `Invalid`."""
        self._readiness.asked()
        page = await self._journal.read(RunsOfQuery(principal, statuses, cursor, limit, PAGE_BYTES))
        return RunViews(runs=await self._views(page.runs), after=page.after, damaged=page.damaged)

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        self._readiness.asked()
        session = await self._journal.read(SessionQuery(key))
        if session is None:
            raise NotFound(f"there is no session {key.session_id}")
        return session

    async def sessions(self, principal: Principal, after: SessionId | None, limit: int) -> SessionsPage:
        """Return a page of the sessions of a principal."""
        self._readiness.asked()
        return await self._journal.read(SessionsQuery(principal, after, limit, PAGE_BYTES))

    async def all_sessions(self, after: SessionKey | None, limit: int) -> AllSessionsPage:
        """Return a page of the sessions of all principals."""
        self._readiness.asked()
        return await self._journal.read(AllSessionsQuery(after, limit, PAGE_BYTES))

    async def history_page(self, key: SessionKey, before: int | None, limit: int, discarded: bool) -> HistoryPage:
        """Return a page of history, oldest message first, that ends by its bytes too."""
        self._readiness.asked()
        return await self._journal.read(HistoryQuery(key, before, limit, discarded, PAGE_BYTES))

    async def history(self, key: SessionKey, count: int, include_tool_messages: bool) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all."""
        check_key(key)
        self._readiness.asked()
        kept: list[Message] = []
        before: int | None = None
        # Where all is wanted, small pages would only have those who ask at the same time hold it at the same time.
        most_bytes = PAGE_BYTES if count else None
        while True:
            page = await self._journal.read(HistoryQuery(key, before, HISTORY_PAGE, most_bytes=most_bytes))
            messages = page.messages if include_tool_messages else [m for m in page.messages if not _only_tools(m)]
            kept = messages + kept
            if page.first == 0 or (count and len(kept) >= count):
                return kept[-count:] if count else kept
            before = page.first


def _only_tools(message: Message) -> bool:
    return all("toolUse" in block or "toolResult" in block for block in message["content"])
