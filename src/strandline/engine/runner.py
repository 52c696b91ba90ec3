"""From a claim to an outcome. The only place that calls user code, and the only `except Exception` around it.

Every ending becomes a value: what the agent returned or raised, and what a stop left of it. The outcome, the run's
closed messages, the window and the state are settled in one commit. An agent whose run did not end well is dropped.
"""

import asyncio
import logging
import os
import traceback
from collections.abc import Callable
from typing import assert_never

from msgspec import Struct

from strandline.agents.port import Finished, SessionAgent, Target
from strandline.clock import Clock
from strandline.engine.attempt import LiveAttempt
from strandline.engine.loops import Call, Loops
from strandline.engine.pool import AgentPool
from strandline.errors import AgentFailed, ClaimLost, JournalUnavailable
from strandline.history import answer_text, close, fold
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
        """Execute a claim to its end. Returns on every ending; raises only if the journal fails for good."""
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
        execution = _Execution(self._journal, self._target, attempt, agent)
        del agent
        call = self._loops.start(execution.run)
        self._live[claim.run.run_id] = (attempt, call)
        try:
            finished = await call.done
            if attempt.stopping and not isinstance(finished.ending, Succeeded):
                if not attempt.tool_in_the_middle():
                    return await self._give_back(attempt, execution)
                finished = Finished(ending=Failed(ErrorCode.STOPPED, "the server was stopped"), usage=finished.usage)
            return await self._settle(attempt, execution, finished, started)
        except ClaimLost:
            _log.warning("run %s was lost to a newer owner", claim.run.run_id)
            self._loops.discard(execution.take_agent())
            return Ended(claim=claim, lost=True)
        finally:
            del self._live[claim.run.run_id]

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
        so_far = attempt.so_far()
        closed = close(so_far, attempt.results, finished.ending)
        outcome = outcome_of(finished.ending, closed, finished.usage)
        agent = execution.take_agent()
        if isinstance(finished.ending, Succeeded) and agent is not None and closed == so_far:
            settlement = Settlement(outcome=outcome, messages=closed, window=finished.window, state=finished.state)
            # Before the settle: the session's next claim may come while the commit is under way.
            self._pool.put(attempt.claim.run.key, agent)
        else:
            settlement = Settlement(outcome=outcome, messages=closed, state=finished.state)
            self._loops.discard(agent)
        del agent
        while True:
            try:
                take = await self._journal.settle(attempt.claim.token, settlement, take=self._keeps_slot())
            except JournalUnavailable as error:
                _log.error(
                    "the outcome of a run cannot be kept yet: %s", error, extra={"run_id": attempt.context.run_id}
                )
                await asyncio.sleep(SETTLE_AGAIN_S)
            else:
                duration_s = self._clock.monotonic() - started
                return Ended(claim=attempt.claim, outcome=outcome, take=take, duration_s=duration_s)

    async def _give_back(self, attempt: LiveAttempt, execution: "_Execution") -> Ended:
        self._loops.discard(execution.take_agent())
        take = await self._journal.release(attempt.claim.token, counted=False, take=False)
        return Ended(claim=attempt.claim, take=take)


class _Execution:
    """The part of an attempt that runs on the agent loop."""

    def __init__(self, journal: Journal, target: Target, attempt: LiveAttempt, agent: SessionAgent | None) -> None:
        self._journal = journal
        self._target = target
        self._attempt = attempt
        self._agent = agent

    def take_agent(self) -> SessionAgent | None:
        """Hand over the agent; the execution has ended or was left."""
        agent, self._agent = self._agent, None
        return agent

    async def run(self) -> Finished:
        """Build the agent if need be, run it, and return every ending as a value."""
        attempt = self._attempt
        try:
            if self._agent is None:
                key = attempt.claim.run.key
                os.makedirs(attempt.context.workspace, exist_ok=True)
                record = await self._journal.load(key)
                self._agent = await self._target.build(key, record, attempt.progress)
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


def _detail(error: BaseException) -> str:
    """Return what the user's code raised, in one line; wrappers of the framework and of ours are taken off."""
    while isinstance(error, AgentFailed) and error.__cause__ is not None:
        error = error.__cause__
    return "".join(traceback.format_exception_only(error)).strip()


async def _done(calls: "list[Call[Finished]]", timeout_s: float) -> None:
    if calls:
        await asyncio.wait([call.done for call in calls], timeout=max(timeout_s, 0.0))
