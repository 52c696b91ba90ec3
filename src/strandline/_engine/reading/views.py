"""Runs, sessions and history as the journal has them, with what runs do now."""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from strandline._engine.events import RunPosition, Why
from strandline._engine.execution import Runner
from strandline._engine.maintenance import Readiness
from strandline._engine.ownership import Ownership
from strandline._engine.reading.answers import AnsweredRun, RunPage, RunView
from strandline._engine.reading.reasons import of_others
from strandline._engine.reading.standings import Standings
from strandline._engine.requests import Replaced, not_resolvable
from strandline._engine.streams import Later, RunStream, Streams
from strandline._journal.editions import edition, may_edit
from strandline._journal.port import (
    AgentStateQuery,
    AnswersQuery,
    HistoryPage,
    HistoryQuery,
    JoinedQuery,
    Journal,
    OpenTool,
    RunKeyQuery,
    RunQuery,
    RunsOfQuery,
    RunsQuery,
    SessionPage,
    SessionQuery,
    SessionsQuery,
    SessionTree,
    Stored,
    StoredQuery,
    SupersededQuery,
    TreeQuery,
    UnresolvedQuery,
)
from strandline._lifecycle import ENDED
from strandline._model import (
    Block,
    ErrorCode,
    Input,
    JoinState,
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
    StateRecord,
    answered,
)
from strandline.errors import Invalid, NotFound, StrandlineError

T = TypeVar("T")

_OF_STRANDS: Final = "conversation_manager_state"
"""A key of the records of Strands agents, which have `agent.state` as `state`."""
HISTORY_PAGE: Final = 500
PAGE_BYTES: Final = 4 * 1024 * 1024
"""How much of a history, of runs' outcomes or of sessions' questions is read at once, as stored JSON: each client
that requests a page costs memory and the serving loop's time, however large the messages are that an agent has
left."""


class Reading(Struct, eq=False):
    """Belongs to the serving loop."""

    _journal: Journal
    _runner: Runner
    _streams: Streams
    standings: Standings
    _readiness: Readiness
    _ownership: Ownership

    async def run(self, principal: Principal, run_id: RunId, *, end: Outcome | Later | None = None) -> RunView:
        """Return a run. Raises `NotFound`, also for a run of another principal.

        `end` is the end in its stream, which a stopping server's journal may not be able to store.
        """
        run = await self.stored_run(principal, run_id)
        if isinstance(end, Outcome) and run.status not in ENDED:  # its journal is in memory, and the server stops
            ended = replace(run.summary(), status=end.status, outcome=end, position=None)
            return RunView(run=ended, phase=None, estimated_wait_s=None)
        view = await self._seen(run)
        if run.back is None:
            return view
        superseded = await self._journal.read(SupersededQuery(run.key, run_id=run_id))
        return replace(view, superseded=superseded)

    async def repeatable(self, principal: Principal, run_id: RunId) -> tuple[Run, Replaced]:
        """Return a run to replace, with what those said that joined it; the host of one that has joined another.

        The `Replaced` is what `Service.submit` takes for it.

        Raises `NotFound`, and `Invalid` for an answer to a question.
        """
        run = await self.stored_run(principal, run_id)
        if run.join is JoinState.APPLIED and run.joined is not None:
            run = await self.stored_run(principal, run.joined)
        if answered(run.input):
            raise Invalid(f"run {run.run_id} answers an input request: replace the run that has asked")
        joined = await self._journal.read(JoinedQuery(run.key, run.run_id))
        if joined:
            run = replace(run, input=[block for said in (run.input, *joined) for block in _blocks(said)])
        return run, Replaced(run_id=run.run_id, joined=len(joined))

    async def stored_run(self, principal: Principal, run_id: RunId) -> Run:
        """Return a run as the journal has it. Raises `NotFound`, and `NotOwner` for a run of another server.

        Its record says whose it is, and not its id: ids that were copied from another journal name any partition. For
        an id that names another server's, the rest of the record is not read before that is known.
        """
        if not self._ownership.is_ours_by_id(run_id):
            key = await self._noted_journal().read(RunKeyQuery(principal, run_id))
            self._ownership.check(_found(key, run_id))
        run = await self._read(principal, run_id)
        self._ownership.check(run.key)
        return run

    async def _read(self, principal: Principal, run_id: RunId) -> Run:
        return _found(await self._noted_journal().read(RunQuery(principal, run_id)), run_id)

    async def with_answers(self, principal: Principal, run_id: RunId) -> AnsweredRun:
        """Return a run with those that answer its question, and the questions of those in turn. Raises `NotFound`."""
        runs = [await self.stored_run(principal, run_id)]
        if runs[0].status is not RunStatus.NEEDS_INPUT:
            return AnsweredRun(runs)
        answers = await self._journal.read(AnswersQuery(principal, run_id))
        for each in answers.runs:
            if (run := await self._journal.read(RunQuery(principal, each))) is not None:
                runs.append(run)
        return AnsweredRun(runs, answers.dismissed and runs[-1].status is RunStatus.NEEDS_INPUT)

    async def crashed(self, principal: Principal, run_id: RunId) -> Run:
        """Return a run that has crashed. Raises `NotFound`, and `NotResolvable` if it has not."""
        run = await self.stored_run(principal, run_id)
        error = None if run.outcome is None else run.outcome.error
        if error is None or error.code is not ErrorCode.CRASHED:
            raise not_resolvable(run_id)
        return run

    async def unresolved(self, principal: Principal, run_id: RunId) -> list[OpenTool]:
        """Return the tools of a crashed run whose outcome is unknown, if it can continue with them.

        Raises `NotFound`, `NotResolvable`.
        """
        await self.crashed(principal, run_id)
        tools = await self._journal.read(UnresolvedQuery(principal, run_id))
        if not tools:
            raise not_resolvable(run_id)
        return tools

    async def changed_run(self, principal: Principal, run_id: RunId) -> RunView:
        """Return a run that was changed here just now, also if its session has moved since then. Raises `NotFound`.

        With `NotOwner` the request would be passed on, and the change be made again.
        """
        return await self._seen(await self._read(principal, run_id))

    async def _seen(self, run: Run) -> RunView:
        (view,) = await self._views([run.summary()])  # (its input may be large, and the view may live long)
        return replace(view, edition=edition(run)) if may_edit(run) else view

    def _noted_journal(self) -> Journal:
        """Note a request, and return the journal."""
        self._readiness.note_request()
        return self._journal

    async def _views(self, runs: Sequence[RunSummary]) -> list[RunView]:
        keys = {run.key for run in runs if run.status is RunStatus.NEEDS_INPUT}
        sessions = {key: await self.standings.asking(key) for key in keys}
        return [self._view(run, sessions.get(run.key)) for run in runs]

    def _view(self, run: RunSummary, session: SessionView | None) -> RunView:
        phase = "held" if run.held else None
        if run.status not in ENDED:
            host = run.joined if run.status is RunStatus.RUNNING else None
            waits = run.status is RunStatus.QUEUED or (host is not None and self._streams.is_waiting(host))
            phase = self._runner.phase(host or run.run_id) or ("waiting" if waits else "model")
        if run.status is RunStatus.QUEUED and not self._ownership.owns(run.key):  # (only its server knows why it waits)
            return RunView(run=run, phase=phase, estimated_wait_s=None)
        why = self.standings.reasons.of_run(run, session)
        return RunView(run=run, phase=phase, estimated_wait_s=self.standings.wait_s(run), why=why)

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        view = await self.run(principal, run_id)
        if view.run.status in ENDED:
            return view
        if (stream := self._streams.of(run_id, view.run.key)) is None:
            return await self.run(principal, run_id)  # it has ended meanwhile, or ends in a later process
        end: Outcome | Later | None = None
        with suppress(TimeoutError):
            end = await asyncio.wait_for(stream.outcome(), timeout_s)
        return await self.run(principal, run_id, end=end)

    async def stream(self, principal: Principal, run_id: RunId) -> RunStream:
        """Return a run's stream: its events can be read while it executes, and for a while after its end.

        Later there is its end alone. Raises `NotFound`.
        """
        stream = self._streams.found(principal, run_id)
        if stream is not None and stream.has_begun and self._ownership.owns(stream.key):
            return stream
        return (await self.with_stream(principal, run_id))[2]

    async def with_stream(self, principal: Principal, run_id: RunId) -> tuple[Run, RunPosition, RunStream]:
        """Return a run, its standing, and its stream, which has the standing too if it waits. Raises `NotFound`."""
        run = await self.stored_run(principal, run_id)
        if run.outcome is None and not self._streams.is_expected(run_id):
            run = await self.stored_run(principal, run_id)  # it has ended meanwhile, or ends in a later process
        stream = self._streams.of_read(run)
        at = await self.standings.of_run(run)
        is_pending = run.join is JoinState.PENDING and run.outcome is None
        begins_to_wait = at.position and run.lane != Lane.REQUEUED  # (a requeued run resumes)
        if is_pending or begins_to_wait:
            self._streams.queued(run_id, at, run.sender)
        return run, at, stream

    async def runs(self, key: SessionKey, *, cursor: str | None = None, limit: int = 100) -> RunPage:
        """Return a page of a session's runs: the last in the queue first, then the executing one, then the latest end
        first.

        Raises `Invalid` for an invalid cursor; an unknown session has no runs.
        """
        self._ownership.check(key)
        page = await self._noted_journal().read(RunsQuery(key, cursor, limit, PAGE_BYTES))
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

        Raises `Invalid` for an invalid cursor.
        """
        page = await self._noted_journal().read(RunsOfQuery(principal, frozenset(statuses), cursor, limit, PAGE_BYTES))
        return RunPage(runs=await self._views(page.runs), after=page.after, damaged=page.damaged)

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        self._ownership.check(key)
        return await self.changed_session(key)

    async def changed_session(self, key: SessionKey) -> SessionView:
        """Return a session that was changed here just now, also if it has moved since then. Raises `NotFound`."""
        session = await self._noted_journal().read(SessionQuery(key))
        if session is None:
            raise NotFound(f"there is no session {key.session_id}")
        return session

    def why(self, session: SessionView, *, of_another: bool = False) -> Why | None:
        """Return why a session starts no runs, None if it is idle or only executes.

        `of_another`: without the principal's own ids and names, for an operator.
        """
        why = self.standings.reasons.of_session(session, is_ours=self._ownership.owns(session.key))
        return of_others(why) if of_another else why

    async def sessions(
        self, principal: Principal | None, *, after: SessionKey | None = None, limit: int = 100
    ) -> SessionPage:
        """Return sessions of a principal (None: of all), those after `after` in the order of principal and id."""
        return await self._noted_journal().read(SessionsQuery(principal, after, limit, PAGE_BYTES))

    async def tree(self, key: SessionKey) -> SessionTree:
        """Return the branches of a session and its forks, without messages. Raises `NotFound`."""
        found = await self._noted_journal().read(TreeQuery(key))
        if found is None:
            raise NotFound(f"there is no session {key.session_id}")
        return found

    async def agent_state(self, key: SessionKey) -> StateRecord:
        """Return the state of a session's agent after its last run, as its tools see it: `agent.state` of a Strands
        agent, `session.state` of a function, JSON; of others the record that they are rebuilt from."""
        record = (await self._noted_journal().read(AgentStateQuery(key))).state or {}
        inner = record.get("state")
        return inner if _OF_STRANDS in record and isinstance(inner, dict) else record

    async def history_page(
        self,
        key: SessionKey,
        *,
        before: int | None = None,
        limit: int = 100,
        discarded: bool = False,
        superseded: bool = False,
    ) -> HistoryPage:
        """Return the last messages before index `before`, oldest first; with `discarded` and `superseded` hidden ones
        too.

        At most `limit`, and fewer where they are large: `first` of the page is its beginning, and the `before` of the
        next one; 0 is the end.
        """
        return await self._noted_journal().read(HistoryQuery(key, before, limit, discarded, PAGE_BYTES, superseded))

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all. An unknown session has none."""
        collected: list[Message] = []
        before: int | None = None
        # (For a whole history, small pages would save no memory.)
        most_bytes = PAGE_BYTES if count else None
        while True:
            page = await self._noted_journal().read(HistoryQuery(key, before, HISTORY_PAGE, most_bytes=most_bytes))
            messages = page.messages if include_tool_messages else [m for m in page.messages if not _only_tools(m)]
            collected = messages + collected
            if page.first == 0 or (count and len(collected) >= count):
                return collected[-count:] if count else collected
            before = page.first

    async def stored(self) -> Stored | None:
        """Return how many bytes are stored, for metrics; None while the journal cannot say."""
        try:
            return await self._journal.read(StoredQuery())
        except StrandlineError:
            return None


def _blocks(given: Input) -> list[Block]:
    return [{"text": given}] if isinstance(given, str) else given


def _found(record: T | None, run_id: RunId) -> T:
    """Return what was found of a run. Raises `NotFound`."""
    if record is None:
        raise NotFound(f"there is no run {run_id}")
    return record


def _only_tools(message: Message) -> bool:
    return all("toolUse" in block or "toolResult" in block for block in message["content"])
