"""From a claim to an outcome. The only place that calls user code, with the only `except` around it.

Every ending becomes a value: what the agent returned or raised, and what a stop left of it. The outcome, the run's
closed messages, the window and the state are settled in one commit. An agent whose run did not end well is dropped.
If even that fails, the run ends as failed with its question alone: no defect of ours may hold a session for good.
"""

import asyncio
import logging
import os
import traceback
from collections.abc import Callable
from functools import partial
from typing import assert_never

from msgspec import Struct

from strandline.agents.port import Finished, SessionAgent, Target
from strandline.clock import Clock
from strandline.engine.attempt import LiveAttempt
from strandline.engine.loops import Call, CallCancelled, Loops
from strandline.engine.pool import AgentPool
from strandline.errors import AgentFailed, ClaimLost, JournalUnavailable
from strandline.history import answer_text, close, fold, question
from strandline.journal.port import Journal, Take
from strandline.model import (
    Cancelled,
    Claim,
    Ending,
    ErrorCode,
    Failed,
    Message,
    Outcome,
    RunError,
    RunId,
    RunStatus,
    SessionKey,
    Settlement,
    Succeeded,
)

_log = logging.getLogger("strandline.runner")

CANCEL_LEAD_S = 0.2
"""How long before the end of the grace a run's task is cancelled."""
CANCEL_AGAIN_S = 0.1
"""How long after that it is cancelled again: an async tool may swallow the first."""

SETTLE_AGAIN_S = 1.0
"""How long to wait before an outcome that the journal could not keep is offered again."""


class Ended(Struct, frozen=True, kw_only=True):
    """What became of a claim: its outcome, or None if the run was given back or the claim was lost."""

    claim: Claim
    outcome: Outcome | None = None
    take: Take = Take.NOTHING
    duration_s: float = 0.0
    lost: bool = False


def outcome_of(ending: Ending, messages: list[Message], usage: dict[str, int] | None = None) -> Outcome:
    """Return the outcome for an ending and the messages that `close` made of it."""
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    match ending:
        case Succeeded():
            return Outcome(status=RunStatus.SUCCEEDED, output=answer_text(last), message=last, usage=usage)
        case Failed(code=code, detail=detail):
            error = RunError(code, detail)
            return Outcome(status=RunStatus.FAILED, message=last, error=error, usage=usage)
        case Cancelled():
            return Outcome(status=RunStatus.CANCELLED, message=last, usage=usage)
        case _:
            assert_never(ending)


def defective(claim: Claim) -> Settlement:
    """Return the least that ends a run of which nothing else can be told: its question, and that it ended early."""
    ending = Failed(ErrorCode.AGENT_ERROR, "the run could not be ended as it should; the server's log says more")
    closed = close([question(claim.run.input)], {}, ending)
    return Settlement(outcome=outcome_of(ending, closed), messages=closed)


class Runner:
    """Executes claims. Belongs to the serving loop; user code runs on an agent loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        target: Target,
        loops: Loops,
        pool: AgentPool,
        clock: Clock,
        workspace: Callable[[SessionKey], str],
        keeps_slot: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._target = target
        self._loops = loops
        self._pool = pool
        self._clock = clock
        self._workspace = workspace
        self._keeps_slot = keeps_slot
        self._live: dict[RunId, tuple[LiveAttempt, Call[Finished]]] = {}

    def phase(self, run_id: RunId) -> str | None:
        """Return what a run does now, None if it does not execute here."""
        live = self._live.get(run_id)
        return live[0].phase if live is not None else None

    def longest_without_progress_s(self) -> float:
        """Return for how many seconds the quietest of the executing runs has done nothing; 0 if none executes."""
        if not self._live:
            return 0.0
        return self._clock.monotonic() - min(attempt.last_progress for attempt, _ in self._live.values())

    async def execute(self, claim: Claim) -> Ended:
        """Execute a claim to its end. Returns on every ending, also on a defect of ours."""
        run = claim.run
        execution = _Execution(self._journal, self._target)
        try:
            return await self._execute(claim, execution)
        except ClaimLost:
            # The agent may be in the pool, with messages that are in no history.
            self._pool.drop(run.key)
            _log.warning("the claim of run %s is lost: its commit failed, or a newer owner has it", run.run_id)
            return Ended(claim=claim, lost=True)
        except Exception:
            self._pool.drop(run.key)
            _log.exception("run %s could not be ended as it should; it ends as failed", run.run_id)
            return await self._give_up(claim)
        finally:
            self._loops.discard(execution.take_agent())
            self._live.pop(run.run_id, None)

    async def _execute(self, claim: Claim, execution: "_Execution") -> Ended:
        key = claim.run.key
        started = self._clock.monotonic()
        attempt = LiveAttempt(
            claim, fold(claim.facts), self._journal, self._loops.signal(), self._workspace(key), self._clock
        )
        agent = self._pool.pop(key)
        if agent is not None and claim.facts:
            # What was staged by an attempt that ended is not in the conversation of this object.
            self._loops.discard(agent)
            agent = None
        call = self._loops.start(partial(execution.run, attempt, agent))
        del agent
        self._live[claim.run.run_id] = (attempt, call)
        finished = await _result(call)
        if attempt.stopping and not isinstance(finished.ending, Succeeded):
            if not attempt.tool_in_the_middle():
                return await self._give_back(claim)
            finished = Finished(ending=Failed(ErrorCode.STOPPED, "the server was stopped"), usage=finished.usage)
        return await self._settle(attempt, execution, finished, started)

    async def stop(self, grace_s: float) -> None:
        """Have every run that executes end within `grace_s` seconds, asking first, cancelling then, leaving at last."""
        live = list(self._live.values())
        for attempt, _ in live:
            attempt.stopping = True
            attempt.signal.set()
        calls = [call for _, call in live]
        await _done(calls, grace_s - CANCEL_LEAD_S)
        for pause_s in (CANCEL_AGAIN_S, CANCEL_LEAD_S - CANCEL_AGAIN_S):
            pending = [call for call in calls if not call.done.done()]
            for call in pending:
                self._loops.cancel(call)
            await _done(pending, pause_s)
        for call in calls:
            call.abandon(Finished(ending=Failed(ErrorCode.STOPPED, "the run did not end when it was asked to")))

    async def _settle(self, attempt: LiveAttempt, execution: "_Execution", finished: Finished, started: float) -> Ended:
        claim = attempt.claim
        so_far = attempt.so_far()
        closed = close(so_far, attempt.results, finished.ending)
        outcome = outcome_of(finished.ending, closed, finished.usage)
        if isinstance(finished.ending, Succeeded) and finished.keep and closed == so_far:
            settlement = Settlement(outcome=outcome, messages=closed, window=finished.window, state=finished.state)
            # Before the settle: the session's next claim may come while the commit is under way.
            if (agent := execution.take_agent()) is not None:
                self._pool.put(claim.run.key, agent)
                del agent
        else:
            settlement = Settlement(outcome=outcome, messages=closed, window=finished.window, state=finished.state)
        take = await self._settle_at_last(claim, settlement, take=self._keeps_slot())
        return Ended(claim=claim, outcome=outcome, take=take, duration_s=self._clock.monotonic() - started)

    async def _settle_at_last(self, claim: Claim, settlement: Settlement, *, take: bool) -> Take:
        """Settle as soon as the journal can. Raises `ClaimLost`."""
        while True:
            try:
                return await self._journal.settle(claim.token, settlement, take=take)
            except JournalUnavailable as error:
                _log.error("the outcome of run %s cannot be kept yet: %s", claim.run.run_id, error)
                # A claim on the next run may be out, and stale: another one must not be made beside it.
                take = False
                await asyncio.sleep(SETTLE_AGAIN_S)

    async def _give_back(self, claim: Claim) -> Ended:
        try:
            return Ended(claim=claim, take=await self._journal.release(claim.token, counted=False, take=False))
        except JournalUnavailable as error:
            _log.error("run %s could not be given back (%s); it is taken up at the next start", claim.run.run_id, error)
            return Ended(claim=claim)

    async def _give_up(self, claim: Claim) -> Ended:
        """End a run that could not be ended as it should, so that its session goes on."""
        try:
            settlement = defective(claim)
            await self._settle_at_last(claim, settlement, take=False)
        except ClaimLost:
            return Ended(claim=claim, lost=True)
        return Ended(claim=claim, outcome=settlement.outcome)


class _Execution:
    """The part of an attempt that runs on the agent loop."""

    def __init__(self, journal: Journal, target: Target) -> None:
        self._journal = journal
        self._target = target
        self._agent: SessionAgent | None = None

    def take_agent(self) -> SessionAgent | None:
        """Hand over the agent; the execution has ended or was left."""
        agent, self._agent = self._agent, None
        return agent

    async def run(self, attempt: LiveAttempt, agent: SessionAgent | None) -> Finished:
        """Build the agent if need be, run it, and return every ending as a value."""
        try:
            if agent is None:
                os.makedirs(attempt.context.workspace, exist_ok=True)
                record = await self._journal.load(attempt.claim.run.key)
                agent = await self._target.build(attempt.claim.run.key, record, attempt.progress)
            self._agent = agent
            del agent
            return await self._agent.run(attempt)
        except asyncio.CancelledError:
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, "the agent's own code cancelled its task"))
        except (ClaimLost, JournalUnavailable) as error:
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, str(error)))
        except BaseException as error:
            # Also SystemExit: a tool that calls sys.exit() fails its own run only.
            detail = _detail(error)
            _log.warning("run %s failed: %s", attempt.context.run_id, detail)
            _log.debug("run %s failed here", attempt.context.run_id, exc_info=error)
            return Finished(ending=Failed(ErrorCode.AGENT_ERROR, detail))


async def _result(call: "Call[Finished]") -> Finished:
    """Return what came of a call, also of one whose task was cancelled before its first step."""
    try:
        return await call.done
    except CallCancelled:
        return Finished(ending=Failed(ErrorCode.STOPPED, "the run was cancelled before it began"))


def _detail(error: BaseException) -> str:
    """Return what the user's code raised, in one line; wrappers of the framework and of ours are taken off."""
    while isinstance(error, AgentFailed):
        if error.__cause__ is None:
            return str(error)
        error = error.__cause__
    return "".join(traceback.format_exception_only(error)).strip()


async def _done(calls: "list[Call[Finished]]", timeout_s: float) -> None:
    if calls:
        await asyncio.wait([call.done for call in calls], timeout=max(timeout_s, 0.0))
