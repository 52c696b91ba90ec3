"""The service: what every adapter calls, and nothing else of the engine.

It accepts runs (or refuses them before anything is kept), tells whoever waits how they end, and shows what is going
on. `start` and `drain` are its life.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from strandline.agents.port import Target
from strandline.clock import Clock
from strandline.engine.dispatcher import Dispatcher
from strandline.engine.holds import Holds
from strandline.engine.loops import Loops
from strandline.engine.options import Options
from strandline.engine.pool import AgentPool
from strandline.engine.recovery import recover
from strandline.engine.runner import Runner
from strandline.engine.stream import Later, RunStream
from strandline.engine.upkeep import look_after, prune
from strandline.engine.watch import Watch
from strandline.engine.worker import Worker
from strandline.errors import Draining, Invalid, NotFound, NotReady, QueueFull, ServerFull, SessionBusy
from strandline.journal.port import Accepted, Bounds, Busy, Delete, HistoryQuery, Journal, Refused, RunQuery
from strandline.lifecycle import ENDED
from strandline.model import (
    ErrorCode,
    Input,
    Message,
    NewRun,
    Outcome,
    Principal,
    Run,
    RunError,
    RunId,
    RunStatus,
    SessionKey,
)

_log = logging.getLogger("strandline.service")

MEAN_WEIGHT = 0.2
"""The share of the newest run in the decaying mean of run times."""
HISTORY_PAGE = 500


class Request(Struct, frozen=True, kw_only=True):
    """A run that somebody asks for. Raises `Invalid` for what could be kept and never be run."""

    key: SessionKey
    input: Input
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    """How long it may take, and wait; None: what the service allows. More than that is refused."""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_key(self.key)
        text = isinstance(self.input, str)
        if not text and not (isinstance(self.input, list) and all(isinstance(each, dict) for each in self.input)):
            raise Invalid(f"input is {self.input!r}; it must be text, or a list of content blocks")
        if not isinstance(self.metadata, dict):
            raise Invalid(f"metadata is {self.metadata!r}; it must be a dict")


class Ticket(Struct, frozen=True, kw_only=True):
    """An accepted run: durable from here on. `position` is 0 if it executes, else 1 for the next to start."""

    run_id: RunId
    key: SessionKey
    position: int
    estimated_wait_s: float | None
    stream: RunStream

    async def outcome(self) -> Outcome | Later:
        """Wait for the end of the run. `Later`: it goes on after a restart. Cancelling this changes nothing for it."""
        return await self.stream.outcome()


class RunView(Struct, frozen=True, kw_only=True):
    """A run, and what it does now: `waiting`, `model`, `tool NAME`, `held`; None once it has ended for good."""

    run: Run
    phase: str | None
    estimated_wait_s: float | None


class Health(Struct, frozen=True, kw_only=True):
    """What goes on, in numbers."""

    ready: bool
    draining: bool
    processing: bool
    running: int
    held: int
    stalled: int
    queue_depth: int
    oldest_wait_s: float
    longest_no_progress_s: float
    agents_in_memory: int


class RunStack(Struct, frozen=True, kw_only=True):
    """What a run does at this moment, for people: `quiet_s` seconds without a sign of life, and where its code is."""

    run: Run
    phase: str
    quiet_s: float
    stack: list[str]


class Service:
    """Accepts runs and sees each to its one outcome. Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        target: Target,
        loops: Loops,
        clock: Clock,
        new_run_id: Callable[[], RunId],
        workspace: Callable[[SessionKey], str],
        options: Options,
        owner: str = "strandline",
    ) -> None:
        self._journal = journal
        self._target = target
        self._loops = loops
        self._clock = clock
        self._new_run_id = new_run_id
        if target.exclusive:  # one object for all sessions: nothing may run beside it, nor beside what is left of a run
            options = replace(options, max_running=1, max_holds=1)
        self._options = options
        self._owner = owner
        self._bounds = Bounds(options.max_queued_per_session, options.max_queued)
        self._dispatcher = Dispatcher(options.max_running)
        self._pool = AgentPool(
            max_agents=options.max_agents, agent_idle_s=options.agent_idle_s, clock=clock, loops=loops
        )
        self._runner = Runner(
            journal=journal,
            target=target,
            loops=loops,
            pool=self._pool,
            clock=clock,
            options=options,
            workspace=workspace,
            keeps_slot=self._dispatcher.keeps_slot,
        )
        self.exhausted = asyncio.Event()
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._holds = Holds(
            journal,
            loops,
            clock,
            limit_s=options.hold_limit_s,
            max_holds=options.max_holds,
            on_full=self._exhaust,
        )
        self._watch = Watch(self._runner, self._holds, loops, self._pool, clock, options)
        self._worker = Worker(
            journal=journal,
            dispatcher=self._dispatcher,
            runner=self._runner,
            holds=self._holds,
            clock=clock,
            on_start=self._run_started,
            on_end=self._run_ended,
        )
        self._streams: dict[RunId, RunStream] = {}
        self._mean_s: float | None = None
        self._ready = False
        self._draining = False
        self._last_asked = clock.monotonic()

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, recover what was executing, and let waiting runs start. Raises a `JournalError`."""
        orphans = await self._journal.open(self._owner, max_attempts=self._options.max_attempts)
        try:
            for orphan in orphans:
                await recover(self._journal, orphan, self._options, self._clock.now(), external=self._target.external)
            await self._worker.start()
            self._worker.spawn(look_after(self._watch, self._worker.limits, self._pool))
            self._worker.spawn(prune(self._journal, self._clock, run_retention_s=self._options.run_retention_s))
        except BaseException:
            await self._journal.close()
            raise
        if orphans or self._dispatcher.waiting:
            _log.info("%d runs were executing when the last server died", len(orphans))
        self._ready = True

    async def drain(self) -> None:
        """Stop: accept nothing, let what executes finish within `drain_grace_s`, stop the rest, close the journal.

        On return every run has its outcome or waits in the journal, and every waiter was told which.
        """
        if self._draining:
            return
        self._draining = True
        for run_id in self._dispatcher.waiting_runs():
            self._later(run_id)
        await self._worker.drain(drain_grace_s=self._options.drain_grace_s, stop_grace_s=self._options.stop_grace_s)
        for run_id in list(self._streams):
            self._later(run_id)
        await self._journal.close()

    async def abort(self) -> None:
        """End the service at once, and leave the journal as a killed process does."""
        await self._worker.abort()
        self._loops.close()

    # -- what adapters ask for ---------------------------------------------------------------------

    async def submit(self, request: Request) -> Ticket:
        """Accept a run: durable on return. Raises `Unavailable` of some kind; nothing is kept then.

        A caller that is cancelled meanwhile does not undo an accept.
        """
        self._admit()
        key = request.key
        timeout_s = _within("timeout", request.timeout_s, self._options.timeout_s)
        queue_timeout_s = _within("queue_timeout", request.queue_timeout_s, self._options.queue_timeout_s)
        run_id = self._new_run_id()
        now = self._clock.now()
        new = NewRun(
            run_id=run_id,
            key=key,
            input=request.input,
            opaque=self._target.opaque,
            timeout_s=timeout_s,
            queue_deadline=now + queue_timeout_s,
            metadata=request.metadata,
            created_at=now,
        )
        stream = self._streams[run_id] = RunStream(run_id)
        accept = asyncio.create_task(self._accept(new))
        accept.add_done_callback(_looked_at)
        match await asyncio.shield(accept):
            case Accepted(position=position):
                if self._draining and position:
                    self._later(run_id)
                return Ticket(
                    run_id=run_id,
                    key=key,
                    position=position,
                    estimated_wait_s=self._estimate_s(position),
                    stream=stream,
                )
            case Refused() as refused:
                raise self._refusal(key, refused)

    async def run(self, principal: Principal, run_id: RunId) -> RunView:
        """Return a run. Raises `NotFound`, also for a run of another principal."""
        self._asked()
        run = await self._journal.read(RunQuery(principal, run_id))
        if run is None:
            raise NotFound(f"there is no run {run_id}")
        phase = "held" if run.held else None
        if run.status not in ENDED:
            phase = self._runner.phase(run_id) or ("waiting" if run.status is RunStatus.QUEUED else "model")
        return RunView(run=run, phase=phase, estimated_wait_s=self._estimate_s(run.position or 0))

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        view = await self.run(principal, run_id)
        if view.run.status in ENDED or self._draining:
            return view
        stream = self._streams.get(run_id)
        if stream is None and self._dispatcher.is_waiting(run_id):
            stream = self._streams[run_id] = RunStream(run_id)
        if stream is not None:
            try:
                await asyncio.wait_for(stream.outcome(), timeout_s)
            except TimeoutError:
                pass
        return await self.run(principal, run_id)

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all. An unknown session has none."""
        _check_key(key)
        self._asked()
        kept: list[Message] = []
        before: int | None = None
        while True:
            page = await self._journal.read(HistoryQuery(key, before, HISTORY_PAGE))
            messages = page.messages if include_tool_messages else [m for m in page.messages if not _only_tools(m)]
            kept = messages + kept
            if page.first == 0 or (count and len(kept) >= count):
                return kept[-count:] if count else kept
            before = page.first

    async def delete(self, key: SessionKey) -> bool:
        """Forget a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes."""
        _check_key(key)
        self._admit()
        # Before the journal is asked, with nothing in between: a run that is accepted after it builds a new agent.
        self._pool.drop(key)
        changed = await self._journal.change(Delete(key))
        if isinstance(changed, Busy):
            raise SessionBusy("the session has a run that waits, executes or is held; delete it when that has ended")
        return changed.existed

    def health(self) -> Health:
        """Return what goes on; takes microseconds, whatever user code does."""
        oldest = self._dispatcher.oldest
        quiet_s = self._runner.quiet_s()
        return Health(
            ready=self._ready and not self._draining and not self.exhausted.is_set(),
            draining=self._draining or self.exhausted.is_set(),
            processing=self._worker.executing > 0 or len(self._holds) > 0,
            running=self._worker.executing,
            held=len(self._holds),
            stalled=sum(each >= self._options.stall_after_s for each in quiet_s),
            queue_depth=self._dispatcher.waiting,
            oldest_wait_s=0.0 if oldest is None else max(0.0, self._clock.now() - oldest),
            longest_no_progress_s=max(quiet_s, default=0.0),
            agents_in_memory=len(self._pool),
        )

    def stacks(self) -> list[RunStack]:
        """Return what every run does that executes, or has ended and still works."""
        now = self._clock.monotonic()
        found = [
            RunStack(
                run=each.attempt.claim.run,
                phase=each.attempt.phase,
                quiet_s=now - each.attempt.last_progress,
                stack=[] if each.call is None else self._loops.stack(each.call),
            )
            for each in self._runner.executing()
        ]
        return found + [
            RunStack(run=claim.run, phase="held", quiet_s=now - since, stack=self._loops.stack(call))
            for claim, call, since in self._holds.all()
        ]

    def idle_s(self) -> float:
        """Return for how many seconds nothing has run, waited or been asked for."""
        if self._worker.executing or self._dispatcher.waiting or len(self._holds):
            self._asked()
        return self._clock.monotonic() - self._last_asked

    # -- inside ------------------------------------------------------------------------------------

    def _exhaust(self) -> None:
        """Start and accept nothing any more: what still works of ended runs must not have company, or more of it."""
        self._dispatcher.stop()
        self.exhausted.set()

    def _admit(self) -> None:
        self._asked()
        if self._draining or self.exhausted.is_set():
            raise Draining("the server is stopping", retry_after_s=self._options.retry_after_s)
        if not self._ready:
            raise NotReady("the server is starting", retry_after_s=self._options.retry_after_s)

    def _asked(self) -> None:
        self._last_asked = self._clock.monotonic()

    async def _accept(self, new: NewRun) -> Accepted | Refused:
        """Have the journal accept a run, to the end of it whoever waits."""
        try:
            accepted = await self._worker.accept(new, self._bounds)
        except BaseException:
            self._streams.pop(new.run_id, None)
            raise
        if isinstance(accepted, Refused):
            self._streams.pop(new.run_id, None)
        return accepted

    def _refusal(self, key: SessionKey, refused: Refused) -> QueueFull:
        estimate = self._estimate_s(refused.position)
        if refused.reason == "queue_full":
            return QueueFull(
                f"{self._options.max_queued_per_session} runs of session {key.session_id} wait already",
                retry_after_s=max(1.0, self._mean_s or 1.0),
                position=refused.position,
                estimated_wait_s=estimate,
            )
        return ServerFull(
            f"{self._options.max_queued} runs wait already on this server",
            retry_after_s=self._options.retry_after_s,
            position=refused.position,
            estimated_wait_s=estimate,
        )

    def _estimate_s(self, position: int) -> float | None:
        """Return how long a run at `position` is likely to wait: that many runs of the mean recent time."""
        if position == 0:
            return 0.0
        return None if self._mean_s is None else position * self._mean_s

    def _run_started(self, run_id: RunId) -> None:
        if run_id not in self._streams:  # accepted before a restart: somebody may come to wait for it
            self._streams[run_id] = RunStream(run_id)

    def _run_ended(self, run_id: RunId, outcome: Outcome | None, duration_s: float | None) -> None:
        if outcome is None:
            self._later(run_id)
            return
        if duration_s is not None:
            mean_s = self._mean_s
            self._mean_s = duration_s if mean_s is None else mean_s + MEAN_WEIGHT * (duration_s - mean_s)
        if (stream := self._streams.pop(run_id, None)) is not None:
            stream.finish(outcome)

    def _later(self, run_id: RunId) -> None:
        """Tell whoever waits that a run goes on after a restart, or that it never will."""
        if (stream := self._streams.pop(run_id, None)) is None:
            return
        if self._options.survives:
            stream.finish(Later.LATER)
        else:
            error = RunError(ErrorCode.STOPPED, "the server was stopped, and its journal keeps nothing")
            stream.finish(Outcome(status=RunStatus.FAILED, error=error))


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Note that whoever asked knows of a failure, or is not there any more."""
    if not task.cancelled():
        task.exception()


def _check_key(key: object) -> None:
    """Raise `Invalid` for what is no session's key: its name alone would be kept as another one's, or not be found."""
    if not isinstance(key, SessionKey):
        raise Invalid(f"the key of the session is {key!r}; make one with strandline.session_key(...)")


def _within(name: str, asked_s: float | None, most_s: float) -> float:
    """Return how many seconds a run gets. Raises `Invalid` unless it is more than 0 and at most what is allowed."""
    if asked_s is None:
        return most_s
    if not 0 < asked_s <= most_s:  # (also NaN)
        raise Invalid(f"{name} must be more than 0 and at most {most_s:g} seconds, which is what this server allows")
    return asked_s


def _only_tools(message: Message) -> bool:
    return all("toolUse" in block or "toolResult" in block for block in message["content"])
