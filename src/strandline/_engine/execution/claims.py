"""From waiting to executing: requests claims as slots become free, and has the runner execute them.

It owns every task that executes a run. Nothing it starts outlives `drain` or `abort`. It publishes every run that
begins, has an outcome, or resumes in a later process.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from strandline._clock import Clock
from strandline._engine.execution.holds import Hold, Holds
from strandline._engine.execution.retry import Retries
from strandline._engine.execution.runner import ExecutionResult, Runner
from strandline._engine.observers import Tracing
from strandline._engine.queues import Estimates, SessionQueues
from strandline._engine.streams import Streams
from strandline._journal.errors import CancelRequested
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Bounds,
    ClaimResult,
    EndOverdue,
    Journal,
    RunQuery,
    Stopped,
)
from strandline._model import Claim, ErrorCode, NewRun, Outcome, RunError, RunId, RunStatus, SessionKey
from strandline.errors import JournalUnavailable, NotOwner, StrandlineError

_log = logging.getLogger("strandline.claims")

FINISH_S = 1.0
"""How long stopped runs get to finish."""
CLAIM_RETRY_S = 1.0
"""How long to wait before a failed claim is tried again."""

WAITED_TOO_LONG = Outcome(
    status=RunStatus.FAILED,
    error=RunError(ErrorCode.QUEUE_TIMEOUT, "the run waited too long for its turn, and was not started"),
)


class Claims:
    """Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        queues: SessionQueues,
        estimates: Estimates,
        runner: Runner,
        holds: Holds,
        streams: Streams,
        tracing: Tracing,
        clock: Clock,
        exhausted: asyncio.Event,
        retries: Retries,
        drop_failed: bool = False,
    ) -> None:
        self._journal = journal
        self._queues = queues
        self._estimates = estimates
        self._runner = runner
        self._holds = holds
        self._streams = streams
        self._tracing = tracing
        self._retries = retries
        self._drop_failed = drop_failed
        """Whether the messages of failed runs are hidden."""
        self._clock = clock
        self._stopping = False
        self._is_over = False
        """Whether it was drained or aborted; maybe before it had started."""
        self.lost = 0
        """How many claims were lost."""
        self._exhausted = exhausted
        """Set when too many ended runs are still executing, so that the process must be replaced."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._executing: set[asyncio.Task[None]] = set()
        self._accepting: dict[asyncio.Future[Any], RunId] = {}
        """Accepts under way, and their runs."""
        self._moved = asyncio.Event()
        """Set when a claim has come, or comes no more, or its run has ended."""
        self._consumer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_woken = False
        """Whether the next claims are made soon."""
        self._expiring: dict[SessionKey, bool] = {}
        """Sessions whose overdue runs the journal is ending, and whether more may be overdue since."""

    async def start(self) -> None:
        """Let waiting runs start."""
        self._queues.follow(self._wake)
        # Before anything starts: they expired while no server ran. (Together they take few commits.)
        await asyncio.gather(*map(self._expire, self._queues.sessions.due(self._clock.now())))
        if self._is_over:
            return
        self._consumer = asyncio.create_task(self._consume())
        self._pump()

    async def accept(self, new: NewRun, bounds: Bounds) -> AcceptAnswer:
        """Have the journal accept a run, claimed at once if a slot is free. Not to be cancelled: shield it."""
        reserved = self._queues.reserve(new.key)
        claimed = False
        accepting = asyncio.current_task()
        assert accepting is not None
        self._accepting[accepting] = new.run_id
        try:
            answer = await self._journal.accept(new, bounds, claim_next=reserved)
            claimed = isinstance(answer, Accepted) and answer.position == 0 and answer.joined is None
            if isinstance(answer, Accepted) and answer.joined is not None:
                self._runner.note_joins(answer.joined)
            return answer
        finally:
            del self._accepting[accepting]
            if reserved and not claimed:
                self._queues.free(new.key)
            self._pump()

    def counts(self) -> tuple[int, int]:
        """Return how many runs execute, and how many wait; a run does not count before its accept is durable."""
        sessions = self._queues.sessions
        coming = [run_id for run_id in self._accepting.values() if sessions.is_live(run_id)]
        wait = sum(map(sessions.is_waiting, coming))
        return self._queues.executing - (len(coming) - wait), sessions.waiting - wait

    async def drain(self, *, drain_grace_s: float, stop_grace_s: float) -> None:
        """Let executing runs finish, for at most `drain_grace_s` seconds, then end the rest within `stop_grace_s`.

        No waiting run starts any more.
        """
        self._stopping = True
        self._queues.stop()
        self._disarm()
        if self._accepting:
            await asyncio.wait(self._accepting, timeout=drain_grace_s + stop_grace_s)
        await self._all_ended(drain_grace_s)
        self._runner.stop(stop_grace_s)
        await self._all_ended(stop_grace_s + FINISH_S)
        self._is_over = True
        for task in (*self._tasks, *self._executing):
            task.cancel()

    async def abort(self) -> None:
        """End everything at once, and leave the journal as a killed process does."""
        self._stopping = self._is_over = True
        self._queues.stop()
        self._disarm()
        tasks = [*self._tasks, *self._executing, *([self._consumer] if self._consumer else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- claims ------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Claim a run for every session that goes next."""
        self._is_woken = False
        self._moved.set()
        if self._consumer is None:
            return
        while (key := self._queues.next()) is not None:
            self.spawn(self._claim_next(key))
        self._arm()

    def _wake(self) -> None:
        """Claim soon."""
        if not self._is_woken:
            self._is_woken = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def _claim_next(self, key: SessionKey) -> None:
        try:
            if await self._journal.claim_next(key) is ClaimResult.CLAIMED:
                return
        except NotOwner:
            pass  # (its session has just become another server's)
        except JournalUnavailable as error:
            self._retries.failed(_log, "runs of session %s cannot be claimed yet", key.session_id, error=error)
            await asyncio.sleep(CLAIM_RETRY_S)
        except StrandlineError:
            _log.exception("a waiting run could not be claimed; retrying")
            await asyncio.sleep(CLAIM_RETRY_S)
        self._queues.free(key)
        self._pump()

    async def _consume(self) -> None:
        async for claim in self._journal.claims():
            self._queues.claimed(claim.run.run_id, claim.run.key, self._clock.monotonic())
            self._streams.claimed(claim)
            task = asyncio.create_task(self._return(claim) if self._stopping else self._execute(claim))
            self._executing.add(task)
            task.add_done_callback(self._executed)

    def _executed(self, task: asyncio.Task[None]) -> None:
        self._executing.discard(task)
        self._moved.set()

    async def _execute(self, claim: Claim) -> None:
        try:
            ended = await self._runner.execute(claim)
        except Exception:
            _log.exception("run %s could not be ended; the next start recovers it", claim.run.run_id)
            ended = ExecutionResult(claim=claim)
        self._after_end(ended)

    async def _return(self, claim: Claim) -> None:
        """Requeue a run that was claimed when the server had begun to stop; it has done nothing yet."""
        try:
            await self._journal.release(claim.token, counted=False)
        except CancelRequested as wanted:
            self._runner.cancel(claim.run.run_id, discard=wanted.discard)
            await self._execute(claim)  # it ends without a start
            return
        except JournalUnavailable as error:
            trouble = "run %s could not be requeued, the next start recovers it"
            self._retries.failed(_log, trouble, claim.run.run_id, error=error)
        except StrandlineError:
            _log.exception("run %s could not be requeued; the next start recovers it", claim.run.run_id)
        self._after_end(ExecutionResult(claim=claim))

    def _after_end(self, ended: ExecutionResult) -> None:
        run = ended.claim.run
        self.lost += ended.lost
        if not ended.requeued:
            self._estimates.ended(run.key, ended.duration_s)
            self._streams.ended(run.run_id, run.key, ended.outcome, ended.duration_s)
            if ended.joined and ended.outcome is not None:
                self._streams.ended_with(ended.joined, run.key, ended.outcome)
        if ended.hold is None:
            self._holds.forget(run.run_id)
            self._queues.ended(run.run_id, run.key, claimed=ended.claim_result is ClaimResult.CLAIMED)
        else:
            self._hold(ended.hold)
        self._pump()

    # -- holds -------------------------------------------------------------------------------------

    def _hold(self, hold: Hold) -> None:
        """Lock a session while its last run still executes code."""
        run, principal = hold.claim.run, hold.principal
        was_full = self._queues.is_full(principal)
        self._queues.held(run.run_id, run.key)
        if self._queues.is_full(principal) and not was_full:
            _log.warning(
                "%d ended runs of %s are still executing: its other requests are refused or wait until one of them"
                " stops (setting max_still_working_per_caller)",
                self._queues.lingering(principal), principal,
            )  # fmt: skip
        self.check_lingering()
        if self._holds.begin(hold):
            self._queues.stop()  # nothing may run beside the lingering runs, and none may join them
            self._exhausted.set()
        self.spawn(self._until_over(hold))

    async def _until_over(self, hold: Hold) -> None:
        if await self._holds.keep(hold):
            self._queues.lingering_ended(hold.principal)
        else:
            self.check_lingering()
        self._pump()

    def check_lingering(self) -> None:
        """Find runs that outlived their hold and have stopped executing; to be called every second."""
        for principal in self._holds.tick():
            self._queues.lingering_ended(principal)
            self._pump()

    async def end_hold(self, run_id: RunId, timeout_s: float) -> None:
        """End the hold of a run that has ended; return when it is over, or after `timeout_s` seconds."""
        await self._holds.end(run_id, timeout_s)

    # -- changes of callers ----------------------------------------------------------------------

    def ended(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        """Note that a run that waited has ended, or had joined one that did."""
        if self._streams.has_joined(run_id):
            self._streams.ended_with([run_id], key, outcome)
            return
        self._streams.ended(run_id, key, outcome, None)
        if self._tracing.active:
            self.spawn(self._trace(run_id, key, outcome))

    async def _trace(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        """Trace a run that ended while it waited; only the journal has it."""
        try:
            run = await self._journal.read(RunQuery(key.principal, run_id))
        except StrandlineError as error:
            _log.warning("run %s cannot be traced: %s", run_id, error)
            return
        if run is not None:
            self._tracing.ended(run, outcome, self._clock.now())

    def stopped(self, key: SessionKey, stopped: Stopped, *, force: bool = False, discard: bool = False) -> None:
        """Act on the runs that the journal has cancelled in a session, synchronously after its answer.

        A run that executes, or whose claim is on its way, ends: the journal accepts no end but `cancelled`. With
        `force` its session is not locked afterwards; with `discard` its messages are hidden.
        """
        for run_id, outcome in stopped.ended.items():
            self.ended(run_id, key, outcome)
        for run_id in filter(self._streams.is_expected, stopped.cancelling):
            self._runner.cancel(run_id, discard=discard, repeated=stopped.repeated)
            if force:
                self._holds.force(run_id)

    # -- deadlines -------------------------------------------------------------------------------

    def check_deadlines(self) -> None:
        """Act on deadlines; to be called every second, since the timer misses it when a clock is set or the machine
        sleeps."""
        self._disarm()
        if self._stopping:
            return
        for key in self._queues.sessions.due(self._clock.now()):
            self.spawn(self._expire(key))
        self._pump()

    def _arm(self) -> None:
        """Set the timer to the next deadline."""
        at = self._queues.sessions.next_due
        if at is None or self._stopping or (self._timer is not None and self._timer_at <= at):
            return
        self._disarm()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(self._seconds_to(at), self.check_deadlines)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _expire(self, key: SessionKey) -> None:
        """End the waiting runs of a session whose time is over; those that cannot be ended now are due again soon.

        There is one request to the journal at a time, however slow it is.
        """
        is_under_way = key in self._expiring
        self._expiring[key] = True
        if is_under_way:
            return
        try:
            while self._expiring[key]:  # (more may be due when it has answered)
                self._expiring[key] = False
                ended = await self._journal.change(EndOverdue(key, WAITED_TOO_LONG, self._drop_failed))
                assert isinstance(ended, Stopped)
                self.stopped(key, ended)
        except NotOwner:
            pass  # (its new owner does that)
        except JournalUnavailable as failure:
            trouble = "runs of session %s have waited too long and cannot be ended yet"
            self._retries.failed(_log, trouble, key.session_id, error=failure)
        except StrandlineError as failure:
            _log.error("runs of session %s have waited too long and cannot be ended yet: %s", key.session_id, failure)
        finally:
            del self._expiring[key]
        self._arm()

    def _seconds_to(self, at: float) -> float:
        return max(0.0, at - self._clock.now())

    # -- tasks -------------------------------------------------------------------------------------

    async def _all_ended(self, timeout_s: float) -> None:
        """Wait until nothing executes, and no claim may still come, at most `timeout_s` seconds.

        A claim that comes when the journal is closed cannot be requeued: its run would look like one that ran.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._executing or self._queues.expects_claims():
                    self._moved.clear()
                    await self._moved.wait()

    def spawn(self, work: Coroutine[Any, Any, object]) -> "asyncio.Task[object]":
        """Run `work` as a task that does not outlive `drain` or `abort`."""
        task = asyncio.create_task(work)
        if self._is_over:
            task.cancel()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
