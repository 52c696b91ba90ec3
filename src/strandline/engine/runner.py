"""From a claim to an outcome: prepare, execute within the deadline, close, settle. The only place that calls user code.

Every ending becomes a value: what the agent returned or raised, and what a timeout, a cancel or a stop left of it. The
outcome, the run's closed messages, the window and the state are settled in one commit. An agent whose run did not end
well, or of which something still works, is dropped. If even that fails, the run ends as failed with its question alone:
no defect of ours may hold a session for good.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from strandline.agents.port import Finished, Target
from strandline.clock import Clock
from strandline.engine.attempt import LiveAttempt
from strandline.engine.execution import STOPPED, Execution
from strandline.engine.failures import error_id, full_text, told
from strandline.engine.loops import Call, Loops
from strandline.engine.observers import RUN, Observer, TracedRun, Tracing
from strandline.engine.options import Options
from strandline.engine.outcome import defective, is_discarded, outcome_of
from strandline.engine.pool import AgentPool
from strandline.engine.streams import EventRecorder, Streams, goes_on
from strandline.errors import CancelRequested, ClaimLost, JournalUnavailable
from strandline.history import Progress, fold, reopened
from strandline.journal.port import Journal, Take
from strandline.model import (
    Cancelled,
    Claim,
    Ending,
    ErrorCode,
    Failed,
    Message,
    NeedsInput,
    Outcome,
    Question,
    RunId,
    SessionKey,
    Settlement,
    Succeeded,
)
from strandline.printable import ERROR_IDS, Private

_log = logging.getLogger("strandline.runner")
_ids = logging.getLogger(ERROR_IDS)

SOON_S: Final = 2.5
"""How long before its deadline a run gets a timer of its own: most end long before, and never need one."""
SETTLE_AGAIN_S: Final = 1.0
"""How long to wait before an outcome that the journal could not keep is offered again."""


class Ended(Struct, frozen=True, kw_only=True):
    """What became of a claim: its outcome, or None if the run was given back or the claim was lost.

    `held`: something still works for it, and its session waits for that. `requeued`: it waits again, in this process.
    """

    claim: Claim
    outcome: Outcome | None = None
    take: Take = Take.NOTHING
    duration_s: float = 0.0
    lost: bool = False
    requeued: bool = False
    held: Call[Any] | None = None
    phase: str = ""


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
        options: Options,
        workspace: Callable[[SessionKey], str],
        keeps_slot: Callable[[SessionKey], bool],
        streams: Streams,
        observer: Observer,
        tracing: Tracing,
    ) -> None:
        self._journal = journal
        self._target = target
        self._loops = loops
        self._pool = pool
        self._clock = clock
        self._options = options
        self._workspace = workspace
        self._keeps_slot = keeps_slot
        self._streams = streams
        self._observer = observer
        self._tracing = tracing
        self._live: dict[RunId, Execution] = {}
        self._wanted: set[RunId] = set()
        """Runs that are to be cancelled as soon as their claims come."""

    # -- what it tells -----------------------------------------------------------------------------

    def phase(self, run_id: RunId) -> str | None:
        """Return what a run does now, None if it does not execute here."""
        execution = self._live.get(run_id)
        return execution.attempt.phase if execution is not None else None

    def executing(self) -> list[Execution]:
        """Return what executes."""
        return list(self._live.values())

    def quiet_s(self) -> list[float]:
        """Return for how many seconds each of the executing runs has given no sign of life."""
        now = self._clock.monotonic()
        return [now - execution.attempt.last_progress for execution in self._live.values()]

    # -- a claim -----------------------------------------------------------------------------------

    async def execute(self, claim: Claim) -> Ended:
        """Execute a claim to its end, in a task of its own. Returns on every ending, also on a defect of ours."""
        RUN.set(claim.run)
        traced = self._tracing.begun(claim, self._clock.now(), again=goes_on(claim))
        ended = await self._executed(claim, traced)
        traced.ended(ended.outcome)
        return ended

    async def _executed(self, claim: Claim, traced: TracedRun) -> Ended:
        run = claim.run
        execution: Execution | None = None
        try:
            execution = self._prepared(claim, traced)
            return await self._execute(claim, execution)
        except ClaimLost:
            _log.warning("the claim of run %s is lost: a newer owner has it", run.run_id)
            return Ended(claim=claim, lost=True, held=_alive(execution), phase="a claim that was lost")
        except Exception:
            self._pool.drop(run.key)
            _log.exception("run %s could not be ended as it should; it ends as failed", run.run_id)
            return await self._give_up(claim, _alive(execution))
        finally:
            self._live.pop(run.run_id, None)
            self._wanted.discard(run.run_id)
            if execution is not None and (agent := execution.take_agent()) is not None:
                self._loops.discard(agent)
                del agent

    def _prepared(self, claim: Claim, traced: TracedRun) -> Execution:
        progress = fold(claim.facts, claim.question)
        if claim.facts:
            progress = self._going_on(progress) or progress
        signal, workspace = self._loops.signal(), self._workspace(claim.run.key)
        stream = self._streams.started(claim, progress)
        on_text = None if goes_on(claim) else partial(self._spoken, claim.run.created_at)
        telling = EventRecorder(stream, self._loops.post_back, self._clock, self._options.stream_cut, on_text)
        attempt = LiveAttempt(claim, progress, self._journal, signal, workspace, self._clock, telling)
        return Execution(attempt, self._journal, self._target, self._loops, traced)

    def _spoken(self, created_at: float, at: float) -> None:
        self._observer.first_text(max(0.0, at - created_at))

    async def _execute(self, claim: Claim, execution: Execution) -> Ended:
        started = self._clock.monotonic()
        deadline = claim.run.deadline
        left_s = None if deadline is None else deadline - self._clock.now()
        is_late = left_s is not None and left_s <= 0
        agent = self._pool.pop(claim.run.key)
        if agent is not None and (claim.facts or claim.question or is_late):
            # What this run leaves, or has staged in an attempt that ended, is not in the conversation of this object.
            self._loops.discard(agent)
            agent = None
        if claim.run.run_id in self._wanted:
            execution.attempt.freeze()
            return await self._settle(execution, Finished(ending=Cancelled()), started)
        if is_late:  # the deadline was passed while the run was claimed, or waited to go on
            execution.attempt.freeze()
            return await self._settle(execution, Finished(ending=self._timed_out(claim)), started)
        execution.start(agent)
        del agent
        self._live[claim.run.run_id] = execution
        if left_s is not None:
            execution.deadline = started + left_s  # from here on by a clock that nobody sets
            if left_s < SOON_S:
                execution.limit(left_s, self._time_out)
        finished = self._told(execution, await execution.finished())
        stranded = execution.stranded and finished.ending is execution.asked
        if (stranded or finished.ending is STOPPED) and self._can_go_on(execution):
            try:
                return await self._give_back(claim, counted=stranded, requeued=stranded)
            except CancelRequested:
                finished = Finished(ending=Cancelled(), usage=finished.usage)
        return await self._settle(execution, finished, started)

    def _told(self, execution: Execution, finished: Finished) -> Finished:
        """Decide what is told of a failure, in answers, events and history alike; the log has what is not told."""
        ending = finished.ending
        if not isinstance(ending, Failed) or ending is execution.asked:
            return finished
        run_id, known = execution.attempt.claim.run.run_id, full_text(ending)
        if ending.raised is not None and self._options.error_text == "id":
            _ids.warning("run %s failed, which is told as %s: %s", run_id, error_id(run_id), known)
        elif ending.code is ErrorCode.AGENT_ERROR:
            kind = ending.code.value if ending.raised is None else ending.raised.kind
            _log.warning("run %s failed: %s", run_id, Private(known, kind))
        return replace(finished, ending=told(ending, self._options.error_text, run_id))

    def _can_go_on(self, execution: Execution) -> bool:
        """Tell whether another attempt can go on where this one is: no tool of it is in the middle."""
        run, call = execution.attempt.claim.run, execution.call
        if (run.opaque and execution.begun) or (execution.stranded and run.attempt >= self._options.max_attempts):
            return False
        staged = execution.attempt.staged()
        if execution.stranded and call is not None and call.threads and staged.open_tools():
            return False  # this process lives on, and the tool with it: it must not be joined by what goes on
        return self._going_on(staged) is not None

    def _going_on(self, staged: Progress) -> Progress | None:
        options = self._options
        return reopened(staged, unknown_tool=options.unknown_tool, idempotent_tools=options.idempotent_tools)

    # -- having runs end ---------------------------------------------------------------------------

    def _time_out(self, execution: Execution) -> None:
        execution.end(self._timed_out(execution.attempt.claim), self._options.cancel_grace_s)

    def _timed_out(self, claim: Claim) -> Ending:
        return Failed(ErrorCode.TIMEOUT, f"the run took longer than {claim.run.timeout_s:g} s")

    def cancel(self, run_id: RunId, *, discard: bool = False) -> None:
        """Have a run end as cancelled that executes, or whose claim is on its way; the journal knows it already."""
        execution = self._live.get(run_id)
        if execution is not None:
            execution.end(Cancelled(discard=discard), self._options.cancel_grace_s)
        else:
            self._wanted.add(run_id)

    def limit(self) -> None:
        """Set the timers of runs whose deadline is near; to be called every second."""
        soon = self._clock.monotonic() + SOON_S
        for execution in self._live.values():
            if execution.deadline is not None and execution.deadline < soon:
                execution.limit(execution.deadline - soon + SOON_S, self._time_out)

    def stop(self, grace_s: float) -> None:
        """Have every run that executes end within `grace_s` seconds: those that can go on later are given back."""
        for execution in self.executing():
            execution.end(STOPPED, grace_s)

    # -- the end -----------------------------------------------------------------------------------

    async def _settle(self, execution: Execution, finished: Finished, started: float) -> Ended:
        """Keep the end of a run; if a cancel of it was accepted before, that is what it ends as."""
        execution.traced.settles()
        while True:
            try:
                return await self._settle_as(execution, finished, started)
            except CancelRequested as wanted:
                finished = Finished(ending=Cancelled(discard=wanted.discard), usage=finished.usage)

    async def _settle_as(self, execution: Execution, finished: Finished, started: float) -> Ended:
        attempt, claim = execution.attempt, execution.attempt.claim
        held = _alive(execution)
        closed, is_whole = attempt.closed(finished)
        outcome = outcome_of(finished.ending, closed, finished.usage)
        if self._target.external:
            discarded = is_discarded(finished.ending, self._options)
            settlement = Settlement(outcome=outcome, messages=[], discarded=discarded)
        elif is_discarded(finished.ending, self._options):
            settlement = Settlement(outcome=outcome, messages=closed, discarded=True)
        else:
            settlement = Settlement(
                outcome=outcome,
                messages=closed,
                window=finished.window,
                state=finished.state,
                question=_asked(attempt, finished.ending, closed),
                answer_within_s=self._options.input_timeout_s,
            )
        take = await self._settle_at_last(claim, settlement, hold=held is not None)
        well = isinstance(finished.ending, Succeeded) and finished.keep and is_whole
        if well and held is None and not self._target.exclusive and (agent := execution.take_agent()) is not None:
            assert execution.call is not None
            self._pool.put(claim.run.key, agent, execution.call.loop)
            del agent
        return Ended(
            claim=claim,
            outcome=outcome,
            take=take,
            duration_s=self._clock.monotonic() - started,
            held=held,
            phase=attempt.phase,
        )

    async def _settle_at_last(self, claim: Claim, settlement: Settlement, *, hold: bool) -> Take:
        """Settle as soon as the journal can. Raises `ClaimLost`."""
        while True:
            take = not hold and self._keeps_slot(claim.run.key)
            try:
                return await self._journal.settle(claim.token, settlement, hold=hold, take=take)
            except JournalUnavailable as error:
                _log.error("the outcome of run %s cannot be kept yet: %s", claim.run.run_id, error)
                await asyncio.sleep(SETTLE_AGAIN_S)

    async def _give_back(self, claim: Claim, *, counted: bool, requeued: bool) -> Ended:
        while True:
            try:
                take = await self._journal.release(claim.token, counted=counted, take=False)
                return Ended(claim=claim, take=take, requeued=requeued)
            except JournalUnavailable as error:
                _log.error("run %s could not be given back: %s", claim.run.run_id, error)
            if not requeued:  # the process ends: it is taken up at the next start
                return Ended(claim=claim)
            await asyncio.sleep(SETTLE_AGAIN_S)

    async def _give_up(self, claim: Claim, held: Call[Any] | None) -> Ended:
        """End a run that could not be ended as it should, so that its session goes on."""
        ending: Cancelled | None = None
        while True:
            settlement = defective(claim, self._options, external=self._target.external, ending=ending)
            try:
                take = await self._settle_at_last(claim, settlement, hold=held is not None)
            except ClaimLost:
                return Ended(claim=claim, lost=True)
            except CancelRequested as wanted:
                ending = Cancelled(discard=wanted.discard)
            else:
                return Ended(claim=claim, outcome=settlement.outcome, take=take, held=held)


def _alive(execution: Execution | None) -> Call[Any] | None:
    """Return the call of an execution of which something still works."""
    call = None if execution is None else execution.call
    return call if call is not None and call.is_alive else None


def _asked(attempt: LiveAttempt, ending: Ending, closed: list[Message]) -> Question | None:
    """Return the question with which a run ends, if it does."""
    if not isinstance(ending, NeedsInput):
        return None
    return Question(
        requests=ending.requests,
        message=closed[-1] if closed else attempt.messages[0],
        results=attempt.results,
        state=ending.state,
    )
