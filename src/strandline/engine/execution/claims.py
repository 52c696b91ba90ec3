"""From what waits to what executes: fetches claims, has the runner execute them, and keeps the dispatcher's books.

It owns every task that executes a run. Nothing it starts outlives `drain` or `abort`. It tells `on_end` of every run
that has an outcome, or that goes on in a later process.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from strandline.clock import Clock
from strandline.engine.execution.holds import Holds
from strandline.engine.execution.runner import Ended, Runner
from strandline.engine.loops import Call
from strandline.engine.queues import Dispatcher, Inputs, QueueLimits, Refusals
from strandline.errors import CancelRequested, StrandlineError
from strandline.journal.port import (
    AcceptAnswer,
    Accepted,
    Bounds,
    Changed,
    EndWaiting,
    Journal,
    NotDue,
    Refused,
    SessionQuery,
    Take,
    WaitingQuery,
)
from strandline.model import (
    Claim,
    ErrorCode,
    Lane,
    NewRun,
    Outcome,
    Principal,
    RunError,
    RunId,
    RunStatus,
    SessionKey,
)

_log = logging.getLogger("strandline.claims")

SETTLE_S = 1.0
"""How long runs that were stopped get to settle."""
TAKE_AGAIN_S = 1.0
"""How long to wait before a claim that the journal could not make is asked for again."""

OnStart = Callable[[Claim], None]
OnEnd = Callable[[RunId, SessionKey, Outcome | None, float | None], None]
"""Told the id and session of a run, its outcome (None: it goes on later), how long it executed in s (None: never)."""


class Claims:
    """Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        runner: Runner,
        holds: Holds,
        clock: Clock,
        on_start: OnStart,
        on_end: OnEnd,
    ) -> None:
        self._journal = journal
        self._dispatcher = dispatcher
        self._runner = runner
        self._holds = holds
        self.limits = QueueLimits(clock, on_due=lambda run_id, key: self.spawn(self._expire(run_id, key)))
        self.inputs = Inputs(clock, on_due=self._go_on)
        self._paused: set[SessionKey] = set()
        """Sessions of which it is known that they are paused: all in which runs wait."""
        self.refusals = Refusals()
        self._clock = clock
        self._on_start = on_start
        self._on_end = on_end
        self._stopping = False
        self.executing = 0
        """How many runs execute, each from the very moment in which it waits no longer."""
        self.lost = 0
        """How many claims were lost."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._executing: set[asyncio.Task[None]] = set()
        self._accepting: set[asyncio.Future[Any]] = set()
        """Accepts under way."""
        self._moved = asyncio.Event()
        """Set when a claim has come, or comes no more, or its run has ended."""
        self._consumer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn what waits, and let it start."""
        after = -1
        overdue: list[tuple[RunId, SessionKey]] = []
        while page := await self._journal.read(WaitingQuery(after)):
            for waiting in page:
                self._dispatcher.waits(waiting.run_id, waiting.key, waiting.created_at)
                if waiting.paused:
                    self._paused.add(waiting.key)
                elif waiting.queue_deadline is not None and waiting.queue_deadline <= self._clock.now():
                    overdue.append((waiting.run_id, waiting.key))
                    continue
                self.limits.watch(waiting.run_id, waiting.key, waiting.queue_deadline)
            after = page[-1].sequence
        for run_id, key in overdue:  # before anything starts: their time was over while no server ran
            await self._expire(run_id, key)
        self._consumer = asyncio.create_task(self._consume())
        self._pump()

    async def accept(self, new: NewRun, bounds: Bounds) -> AcceptAnswer:
        """Have the journal accept a run, claimed at once if a slot is free, and keep the books of it.

        Not to be cancelled: shield it.
        """
        reserved = self._dispatcher.reserve(new.key)
        taken = False
        asked_at = self.refusals.changes
        accepting = asyncio.current_task()
        assert accepting is not None
        self._accepting.add(accepting)
        try:
            accepted = await self._journal.accept(new, bounds, take=reserved)
            if not isinstance(accepted, Accepted):
                self.refusals.note(new, accepted, asked_at=asked_at)
            else:
                self.refusals.changed(new.key)
                if accepted.paused:
                    self._paused.add(new.key)
                taken = accepted.position == 0
                if (until := accepted.input_until) is not None:
                    if taken or accepted.answers or new.lane == Lane.ANSWER or new.dismisses:
                        self.answered(new.key, until)
                    else:
                        self.inputs.watch(new.key, until)
                if not taken:
                    self._dispatcher.waits(new.run_id, new.key, new.created_at)
                    self.limits.watch(new.run_id, new.key, new.queue_deadline)
            return accepted
        finally:
            self._accepting.discard(accepting)
            if reserved and not taken:
                self._dispatcher.free(new.key)
            self._pump()

    async def drain(self, *, drain_grace_s: float, stop_grace_s: float) -> None:
        """Let what executes finish, at most `drain_grace_s` seconds, then have the rest end within `stop_grace_s`.

        Nothing that waits starts any more.
        """
        self._stopping = True
        self._dispatcher.stop()
        self.limits.stop()
        self.inputs.stop()
        if self._accepting:
            await asyncio.wait(self._accepting, timeout=drain_grace_s + stop_grace_s)
        await self._all_ended(drain_grace_s)
        self._runner.stop(stop_grace_s)
        await self._all_ended(stop_grace_s + SETTLE_S)
        for task in (*self._tasks, *self._executing):
            task.cancel()

    async def abort(self) -> None:
        """End everything at once, and leave the journal as a killed process does."""
        tasks = [*self._tasks, *self._executing, *([self._consumer] if self._consumer else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- claims ------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        async for claim in self._journal.claims():
            self._dispatcher.claimed(claim.run.run_id, claim.run.key)
            self.limits.forget(claim.run.run_id, claim.run.key)
            self.refusals.changed(claim.run.key)
            self.executing += 1
            self._on_start(claim)
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
            _log.exception("run %s could not be ended; it is taken up at the next start", claim.run.run_id)
            ended = Ended(claim=claim)
        self._after_end(ended)

    async def _return(self, claim: Claim) -> None:
        """Give back a run that was claimed when the server had begun to stop; it has done nothing yet."""
        try:
            await self._journal.release(claim.token, counted=False, take=False)
        except CancelRequested as wanted:
            self._runner.cancel(claim.run.run_id, discard=wanted.discard)
            await self._execute(claim)  # to be ended: it does not begin
            return
        except StrandlineError:
            _log.exception("run %s could not be given back; it is taken up at the next start", claim.run.run_id)
        self._after_end(Ended(claim=claim))

    def _after_end(self, ended: Ended) -> None:
        run = ended.claim.run
        self.executing -= 1
        self.lost += ended.lost
        self.refusals.changed(run.key)
        if not ended.requeued:
            self._on_end(run.run_id, run.key, ended.outcome, ended.duration_s)
        if run.attempt > 1:
            self._dispatcher.unblock()
        if ended.held is None:
            self._holds.forget(run.run_id)
        if ended.held is not None:
            was_full = self._dispatcher.is_full(run.key.principal)
            self._dispatcher.held(run.key)
            if self._dispatcher.is_full(run.key.principal) and not was_full:
                _log.warning(
                    "%d runs of %s have ended and still work: what else it wants is refused or waits until one of them"
                    " works no more (setting max_holds_per_principal)",
                    self._dispatcher.leftovers(run.key.principal), run.key.principal,
                )  # fmt: skip
            self._holds.begin(ended.claim, ended.held, ended.phase)
            self.spawn(self._hold(ended, ended.held))
        else:
            self._dispatcher.ended(run.key, taken=ended.take is Take.TAKEN)
        if ended.requeued:
            self._dispatcher.waits(run.run_id, run.key, run.created_at)
        self._pump()

    def works_no_more(self, principal: Principal) -> None:
        """Note that nothing works any more of a run that has ended and was held."""
        self._dispatcher.works_no_more(principal)
        self._pump()

    async def _hold(self, ended: Ended, call: Call[Any]) -> None:
        """Keep a session from going on while something of its last run still works."""
        run = ended.claim.run
        await self._holds.keep(ended.claim, call, ended.phase)
        self.limits.goes_on(run.key)
        self._dispatcher.hold_ended(run.key)
        self._pump()

    # -- what somebody has changed -----------------------------------------------------------------

    def ended(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        """Note that a run that waited has ended."""
        self.limits.forget(run_id, key)
        self._no_longer_waits(run_id, key, outcome)
        self._pump()

    def leftovers(self, principal: Principal) -> int:
        """Return how many ended runs of a principal still work, if nothing more of it is to start because of them."""
        return self._dispatcher.leftovers(principal) if self._dispatcher.is_full(principal) else 0

    def refused_before(self, new: NewRun) -> Refused | None:
        """Return how a plain run is refused now, if that is known without the journal."""
        return self.refusals.find(new) if self._dispatcher.has_waiting(new.key) else None

    def asked(self, run_id: RunId, *, force: bool, discard: bool) -> None:
        """Have a run end that executes, or whose claim is on its way: the journal lets it end as cancelled only."""
        self._runner.cancel(run_id, discard=discard)
        if force:
            self._holds.force(run_id)

    def paused(self, key: SessionKey) -> None:
        """Note that a session was paused: the journal gives nothing of it any more."""
        self._paused.add(key)

    def resumed(self, key: SessionKey) -> None:
        """Note that a session goes on."""
        self._paused.discard(key)
        self._go_on(key)

    def is_paused(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session for somebody to resume it."""
        return key in self._paused

    def is_closed(self, key: SessionKey) -> bool:
        """Tell whether runs wait in a session for somebody to resume it, or to answer what it asks, or for what still
        works of its principal's ended runs."""
        return key in self._paused or self.inputs.is_waiting(key) or self._dispatcher.is_full(key.principal)

    def answered(self, key: SessionKey, until: float) -> None:
        """Note that a session does not wait for input any more, for which it would have waited until then."""
        self.inputs.forget(key)
        self.limits.comes_earlier(key, max(0.0, until - self._clock.now()))
        self.limits.goes_on(key)

    def dismissed(self, key: SessionKey, until: float) -> None:
        """Note that a session goes on without the input that it would have waited for until then."""
        self.answered(key, until)
        self._go_on(key)

    def _go_on(self, key: SessionKey) -> None:
        self.limits.goes_on(key)
        self._dispatcher.resumed(key)
        self._pump()

    async def _wait_for_input(self, key: SessionKey) -> None:
        """Find out until when a session with waiting runs is closed because of an input request, if it is."""
        try:
            session = await self._journal.read(SessionQuery(key))
        except StrandlineError as error:
            _log.error("it cannot be told yet how long session %s waits for input: %s", key.session_id, error)
            self.inputs.watch(key, self._clock.now() + TAKE_AGAIN_S)
            return
        if session is not None and session.input_until is not None:
            self.inputs.watch(key, session.input_until)

    async def unheld(self, run_id: RunId, timeout_s: float) -> None:
        """End the hold of a run that has ended; return when it is over, or after `timeout_s` seconds."""
        await self._holds.end(run_id, timeout_s)

    async def _expire(self, run_id: RunId, key: SessionKey) -> None:
        """End a run if it has waited too long."""
        error = RunError(ErrorCode.QUEUE_TIMEOUT, "the run waited too long for its turn, and was not started")
        outcome = Outcome(status=RunStatus.FAILED, error=error)
        try:
            changed = await self._journal.change(EndWaiting(key, run_id, outcome, overdue=True))
        except StrandlineError as failure:
            _log.error("run %s has waited too long and cannot be ended yet: %s", run_id, failure)
            self.limits.watch(run_id, key, self._clock.now() + TAKE_AGAIN_S)
            return
        match changed:
            case Changed(existed=True):
                self._no_longer_waits(run_id, key, outcome)
                self._pump()
            case NotDue(deadline) if self._dispatcher.is_waiting(run_id):
                if deadline is None:
                    self.limits.stands(run_id, key)
                else:
                    self.limits.watch(run_id, key, deadline)

    def _no_longer_waits(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        self.refusals.changed(key)
        self._dispatcher.left(run_id, key)
        self._on_end(run_id, key, outcome, None)

    def _pump(self) -> None:
        """Have the journal claim for every session that the dispatcher lets go."""
        self._moved.set()
        while (key := self._dispatcher.next()) is not None:
            self.spawn(self._take(key))

    async def _take(self, key: SessionKey) -> None:
        try:
            taken = await self._journal.take(key)
            self.refusals.changed(key)
        except StrandlineError:
            _log.exception("a waiting run could not be claimed; it is tried again")
            await asyncio.sleep(TAKE_AGAIN_S)
            self._dispatcher.free(key)
        else:
            match taken:
                case Take.TAKEN:
                    return
                case Take.NOTHING:
                    self._dispatcher.emptied(key)
                    if self._dispatcher.has_waiting(key) and key not in self._paused:
                        self.spawn(self._wait_for_input(key))
                case Take.BLOCKED:
                    self._dispatcher.blocked(key)
        self._pump()

    # -- tasks -------------------------------------------------------------------------------------

    async def _all_ended(self, timeout_s: float) -> None:
        """Wait until nothing executes, and no claim may still come, at most `timeout_s` seconds.

        A claim that came when the journal is closed could not be given back: its run would look like one that ran.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._executing or self._dispatcher.expects_claims():
                    self._moved.clear()
                    await self._moved.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run `work` as a task that does not outlive `drain` or `abort`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
