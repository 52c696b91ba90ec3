"""The pipeline from a claim to an outcome: prepare, start, time-box, close, finish.

An ending is what the agent returned or raised, or what a timeout, a cancel or a stop left. The outcome, the run's
closed messages, the window and the state are stored in one commit. If even that fails, the run ends as failed with its
prompt alone: a defect of the engine must not block a session for good.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from strandline._agents.port import Finished
from strandline._clock import Clock
from strandline._engine.execution.attempt import LiveAttempt
from strandline._engine.execution.completion import DAMAGED, completion_of, last_resort, resume_point_of, timed_out
from strandline._engine.execution.failures import disclosed
from strandline._engine.execution.holds import Hold
from strandline._engine.execution.pool import AgentPool
from strandline._engine.execution.record import STOPPED, Execution
from strandline._engine.execution.retry import Retries
from strandline._engine.loops import Loops
from strandline._engine.observers import CURRENT_RUN, CurrentRun, TracedRun, Tracing
from strandline._engine.options import Options
from strandline._engine.queues import SessionQueues
from strandline._engine.streams import Streams
from strandline._history import as_read, effective_sender, fold, with_collected
from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.port import ClaimResult, Journal
from strandline._model import (
    Cancelled,
    Claim,
    Completion,
    Ending,
    Failed,
    Input,
    JoinedInput,
    Message,
    NeedsInput,
    Outcome,
    Question,
    RunId,
    RunStatus,
    Sender,
)
from strandline.errors import JournalUnavailable

_log = logging.getLogger("strandline.runner")


class ExecutionResult(Struct, frozen=True, kw_only=True):
    """The result of a claim: its outcome, or None if the run was requeued or the claim was lost.

    `hold`: its code is still executing, which locks its session. `requeued`: it waits again, in this process.
    """

    claim: Claim
    outcome: Outcome | None = None
    claim_result: ClaimResult = ClaimResult.NOTHING
    duration_s: float = 0.0
    lost: bool = False
    requeued: bool = False
    hold: Hold | None = None
    joined: tuple[RunId, ...] = ()
    """The runs that joined, and ended with it."""


class Runner(Struct, eq=False):
    """Executes claims. Belongs to the serving loop; user code runs on an agent loop."""

    _journal: Journal
    _loops: Loops
    _pool: AgentPool
    _clock: Clock
    _options: Options
    _queues: SessionQueues
    _streams: Streams
    _tracing: Tracing
    _retries: Retries
    _live: dict[RunId, Execution] = {}
    _wanted: set[RunId] = set()
    """Runs to cancel as soon as their claims come."""

    # -- the present state ------------------------------------------------------------------------

    def phase(self, run_id: RunId) -> str | None:
        """Return what a run does now, None if it does not execute here."""
        execution = self._live.get(run_id)
        return execution.attempt.phase if execution is not None else None

    def executing(self) -> list[Execution]:
        """Return the executing runs."""
        return list(self._live.values())

    def quiet_s(self) -> list[float]:
        """Return for how many seconds each of the executing runs has given no sign of life."""
        now = self._clock.monotonic()
        return [now - execution.attempt.last_progress for execution in self._live.values()]

    # -- the pipeline ------------------------------------------------------------------------------

    async def execute(self, claim: Claim) -> ExecutionResult:
        """Execute a claim to its end, in a task of its own. Returns on every ending, also on a defect of the engine."""
        CURRENT_RUN.set(CurrentRun(claim.run.run_id, claim.run.key, claim.run.trace))
        claim = self._as_read(claim)
        traced = self._tracing.begun(claim, self._clock.now(), again=claim.resumes)
        execution: Execution | None = None
        try:
            execution = self._prepare(claim, traced)
            if execution.requested_ending is None:
                self._start(execution)
            finished = self._disclose(execution, await execution.finished())
            ended = await self._finish(execution, finished)
        except ClaimLost:
            _log.warning("the claim of run %s is lost: a newer owner has it", claim.run.run_id)
            ended = ExecutionResult(claim=claim, lost=True, hold=_hold(execution, "a claim that was lost"))
        except Exception:
            self._pool.drop(claim.run.key)
            _log.exception("run %s could not be ended properly; it ends as failed", claim.run.run_id)
            ended = await self._give_up(claim, _hold(execution, ""))
        finally:
            self._live.pop(claim.run.run_id, None)
            self._wanted.discard(claim.run.run_id)
            if execution is not None and (agent := execution.release_agent()) is not None:
                self._loops.discard(agent)
                del agent
        traced.ended(ended.outcome)
        return ended

    def _as_read(self, claim: Claim) -> Claim:
        """Return a claim with its input as the agent reads it: with its sender, if a setting says how."""
        template, run = self._options.sender_template, claim.run
        if not claim.checkpoints and template is None:
            return claim

        def read(given: Input, sender: Sender | None) -> Input:
            return as_read(given, effective_sender(sender, run.key.principal), template)

        given, sender = with_collected(run.input, run.sender, claim.checkpoints, read)
        return replace(claim, run=replace(run, input=given, sender=sender))

    def _prepare(self, claim: Claim, traced: TracedRun) -> Execution:
        """Return the record of a claim, with its ending if the run is to end before its start."""
        run, options, clock = claim.run, self._options, self._clock
        progress = fold(claim.checkpoints, claim.question)
        if claim.checkpoints:
            progress = resume_point_of(run, progress, options) or progress
        recorder = self._streams.started(claim, progress)
        signal, workspace = self._loops.signal(), self._pool.workspace(run.key)
        attempt = LiveAttempt(
            claim, progress, self._journal, signal, workspace, clock, recorder, self._retries, self._pool.files_root
        )
        attempt.sender_template = options.sender_template
        if options.tell_waiting:
            attempt.context = replace(attempt.context, shows_waiting=True)
        attempt.has_joins = self._queues.sessions.has_pending(run.run_id)
        started = clock.monotonic()
        execution = Execution(attempt, self._pool, self._loops, traced, started)
        if run.deadline is not None:
            execution.deadline = started + (run.deadline - clock.now())  # (the monotonic clock cannot be set)
        if run.run_id in self._wanted:
            execution.requested_ending = Cancelled()
        elif claim.damaged:
            execution.requested_ending = DAMAGED
        elif execution.deadline is not None and execution.deadline <= started:  # it was passed while the run waited
            execution.requested_ending = timed_out(run)
        if claim.has_progress or claim.question or run.back or execution.requested_ending is not None:
            # The pooled agent does not have this run's messages, nor those of its earlier attempts, or has messages
            # that this run has superseded.
            self._pool.drop(run.key)
        return execution

    def _start(self, execution: Execution) -> None:
        """Start the run, in its time box."""
        run = execution.claim.run
        execution.start(self._pool.pop(run.key))
        self._live[run.run_id] = execution
        execution.watch_deadline(execution.started, self._options.cancel_grace_s)

    def _disclose(self, execution: Execution, finished: Finished) -> Finished:
        """Decide how much of a failure answers, events and history show."""
        ending = finished.ending
        if not isinstance(ending, Failed) or ending is execution.requested_ending:
            return finished
        return replace(finished, ending=disclosed(ending, self._options.error_text, execution.claim.run.run_id))

    async def _finish(self, execution: Execution, finished: Finished) -> ExecutionResult:
        """Store the run's end, or requeue it if the end was not its own and it can resume.

        Its agent serves the session's next run, if it has what history says.
        """
        claim = execution.claim
        if (execution.loop_lost or finished.ending is STOPPED) and self._can_resume(execution):
            try:
                return await self._requeue(execution)
            except CancelRequested:
                finished = Finished(ending=Cancelled(), usage=finished.usage)
        execution.traced.finishes()
        hold = _hold(execution, execution.attempt.phase)
        completion, claim_result = await self._keep(claim, partial(self._close, execution, finished), hold)
        well = completion.outcome.status is RunStatus.SUCCEEDED and finished.keep and execution.agent_is_current
        if well and hold is None and (agent := execution.release_agent()) is not None:
            self._pool.put(claim.run.key, agent, execution.call.loop)
            del agent
        return ExecutionResult(
            claim=claim,
            outcome=completion.outcome,
            claim_result=claim_result,
            duration_s=self._clock.monotonic() - execution.started,
            hold=hold,
            joined=completion.joined,
        )

    def _close(self, execution: Execution, finished: Finished, cancelled: Cancelled | None) -> Completion:
        """Return what the run leaves; as `cancelled`, if a cancel was accepted before its end."""
        if cancelled is not None:
            finished = Finished(ending=cancelled, usage=finished.usage)
        closed, execution.agent_is_current = execution.attempt.closed(finished)
        question = _question_of(execution.attempt, finished.ending, closed)
        progress = execution.attempt.checkpoint() if isinstance(finished.ending, Failed) else None
        return completion_of(
            finished, closed, self._options, question, progress=progress, joined=execution.attempt.joined
        )

    def _can_resume(self, execution: Execution) -> bool:
        """Return whether another attempt can resume where this one is: no tool of it is in the middle."""
        run = execution.claim.run
        if (not run.resumable and execution.begun) or (
            execution.loop_lost and run.attempt >= self._options.max_attempts
        ):
            return False
        checkpoint = execution.attempt.checkpoint()
        if execution.loop_lost and execution.call.threads and checkpoint.open_tools():
            return False  # the tool lives on in this process: the next attempt must not join it
        return resume_point_of(run, checkpoint, self._options) is not None

    async def _requeue(self, execution: Execution) -> ExecutionResult:
        """Requeue the run: for the next process, if this one stops, else in this one.

        That counts as an attempt, unless nothing failed but the certainty that this server still has its session.
        Raises `CancelRequested`, `ClaimLost`.
        """
        claim = execution.claim
        release = partial(self._journal.release, claim.token, counted=execution.loop_lost)
        trouble = "run %s could not be requeued"
        if execution.loop_lost or execution.requested_ending is not STOPPED:
            await self._retries.until_stored(release, trouble, claim.run.run_id)
            return ExecutionResult(claim=claim, requeued=True)
        if execution.lingering_call is not None:  # no other server may continue it beside its code here
            _log.warning("run %s is still executing; it continues when this server has ended", claim.run.run_id)
            self._journal.stay(claim.run.key)
        try:
            await release()
        except JournalUnavailable as error:  # the process ends: the next start recovers it
            self._retries.failed(_log, trouble, claim.run.run_id, error=error)
        return ExecutionResult(claim=claim)

    async def _give_up(self, claim: Claim, hold: Hold | None) -> ExecutionResult:
        """End a run that could not be ended properly, so that its session continues."""
        try:
            completion, claim_result = await self._keep(
                claim, lambda ending: last_resort(claim, ending, self._options), hold
            )
        except ClaimLost:
            return ExecutionResult(claim=claim, lost=True)
        return ExecutionResult(
            claim=claim,
            outcome=completion.outcome,
            claim_result=claim_result,
            hold=hold,
            joined=completion.joined,
        )

    async def _keep(
        self, claim: Claim, close: Callable[[Cancelled | None], Completion], hold: Hold | None
    ) -> tuple[Completion, ClaimResult]:
        """Store the end of a run as soon as the journal can; if a cancel of it was accepted before, that is its end.

        `close` returns what the run leaves, ended or cancelled. Raises `ClaimLost`.
        """
        key, cancelled = claim.run.key, None

        def finish(left: Completion) -> Awaitable[ClaimResult]:
            claim_next = hold is None and self._queues.keeps_slot(key)
            return self._journal.finish(claim.token, left, hold=hold is not None, claim_next=claim_next)

        while True:
            completion = close(cancelled)
            try:
                trouble = "the outcome of run %s cannot be stored yet"
                claim_result = await self._retries.until_stored(partial(finish, completion), trouble, claim.run.run_id)
            except CancelRequested as wanted:
                cancelled = Cancelled(discard=wanted.discard)
            else:
                return completion, claim_result

    # -- ending runs --------------------------------------------------------------------------------

    def cancel(self, run_id: RunId, *, discard: bool = False, repeated: Sequence[JoinedInput] = ()) -> None:
        """End a run as cancelled that executes, or whose claim is on its way; the journal has the cancel already.

        `repeated` joined it, and are said again by the run that replaces it: they end with it."""
        execution = self._live.get(run_id)
        if execution is not None:
            execution.attempt.repeated = repeated or execution.attempt.repeated
            execution.end(Cancelled(discard=discard), self._options.cancel_grace_s)
        else:
            self._wanted.add(run_id)

    def note_joins(self, host: RunId) -> None:
        """Note that a run waits to join one; if that does not execute yet, it finds out when it begins."""
        if (execution := self._live.get(host)) is not None:
            execution.attempt.note_joins()

    def watch_deadlines(self) -> None:
        """Set the timers of runs whose deadline is near; to be called every second."""
        now = self._clock.monotonic()
        for execution in self._live.values():
            execution.watch_deadline(now, self._options.cancel_grace_s)

    def stop(self, grace_s: float) -> None:
        """End every executing run within `grace_s` seconds: those that can resume later are requeued."""
        for execution in self.executing():
            execution.end(STOPPED, grace_s)


def _question_of(attempt: LiveAttempt, ending: Ending, closed: list[Message]) -> Question | None:
    """Return the question with which a run ends, if any."""
    if not isinstance(ending, NeedsInput):
        return None
    return Question(
        requests=ending.requests,
        message=closed[-1] if closed else attempt.messages[0],
        results=attempt.results,
        state=ending.state,
    )


def _hold(execution: Execution | None, phase: str) -> Hold | None:
    """Return the hold of a run that ends, if its code is still executing; `phase` is what it did last."""
    if execution is None or (call := execution.lingering_call) is None:
        return None
    return Hold(execution.claim, call, phase)
