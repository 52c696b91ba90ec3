"""The service: what every adapter calls, and nothing else of the engine.

It accepts runs (or refuses them before anything is kept), tells whoever waits how they end, and shows what is going
on. `start` and `drain` are its life. It puts the rooms of the engine together; what they do stands there.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from msgspec.structs import replace

from strandline.agents.port import Target
from strandline.clock import Clock
from strandline.engine.admission import (
    Acceptance,
    Admission,
    Attachments,
    Control,
    Publisher,
    Refusals,
    Subscribers,
    Ticket,
)
from strandline.engine.events import SessionDeleted, SessionPaused, SessionResumed, Why
from strandline.engine.execution import AgentPool, Claims, Holds, Runner, recover
from strandline.engine.loops import Loops
from strandline.engine.maintenance import (
    Readiness,
    Watchdog,
    delete_idle_sessions,
    every_second,
    measure_lag,
    prune_runs,
)
from strandline.engine.observers import UNOBSERVED, UNPROJECTED, UNTRACED, Observer, Projection, Tracing
from strandline.engine.options import Options
from strandline.engine.queues import Estimates, SessionQueues, Share
from strandline.engine.reading import (
    Health,
    OpenRequests,
    Positions,
    Reading,
    Reasons,
    RunStack,
    RunView,
    RunViews,
    Standings,
    Vitals,
    of_others,
)
from strandline.engine.requests import Drafts, Request, check_key, in_range
from strandline.engine.streams import Later, RunStream, Streams, Subscription
from strandline.errors import StrandlineError
from strandline.journal.port import (
    AllSessionsPage,
    HistoryPage,
    Journal,
    SessionsPage,
    Stopped,
    Stored,
    StoredQuery,
)
from strandline.model import Message, Outcome, Principal, RunId, RunStatus, SessionId, SessionKey, SessionView

_log = logging.getLogger("strandline.service")

PROJECTION_S: Final = 1.0
"""How long a projection gets to copy what is new when the service stops."""


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
        observer: Observer = UNOBSERVED,
        tracing: Tracing = UNTRACED,
        projection: Projection = UNPROJECTED,
    ) -> None:
        self._journal = journal
        self._target = target
        self._loops = loops
        self._clock = clock
        if target.exclusive:  # one object for all sessions: nothing may run beside it, nor beside what is left of a run
            options = replace(options, max_running=1, max_holds=1)
        self._options = options
        self._owner = owner
        self._observer = observer
        self._tracing = tracing
        self._projection = projection
        self._readiness = Readiness(journal, loops, clock, retry_after_s=options.retry_after_s)
        self._queues = SessionQueues(
            options.max_running, options.max_running_per_principal, options.max_holds_per_principal
        )
        self._pool = AgentPool(
            max_agents=options.max_agents, agent_idle_s=options.agent_idle_s, clock=clock, loops=loops
        )
        self._streams = Streams(
            options,
            clock,
            survives=options.survives,
            is_waiting=self._queues.is_waiting,
            post=loops.post_back,
            on_first_text=observer.first_text,
        )
        self._runner = Runner(
            journal=journal,
            target=target,
            loops=loops,
            pool=self._pool,
            clock=clock,
            options=options,
            workspace=workspace,
            queues=self._queues,
            streams=self._streams,
            tracing=tracing,
        )
        self.exhausted = self._readiness.exhausted
        """Set when so many runs have ended and still work that the process has to be replaced."""
        self._holds = Holds(
            journal,
            loops,
            clock,
            limit_s=options.hold_limit_s,
            max_holds=options.max_holds,
            per_principal=self._queues.slots.most_leftovers,
            max_threads=options.executor_threads,
        )
        self._watchdog = Watchdog(self._runner, self._holds, loops, self._streams, clock, options)
        self._estimates = Estimates(clock, self._queues, retry_after_s=options.retry_after_s)
        self._subscribers = Subscribers(lambda *alone: self._claims.spawn(self._control.left_alone(*alone)))
        self._claims = Claims(
            journal=journal,
            queues=self._queues,
            runner=self._runner,
            holds=self._holds,
            clock=clock,
            listener=Publisher(
                journal,
                self._streams,
                self._subscribers,
                self._estimates,
                clock,
                observer=observer,
                tracing=tracing,
                projection=projection,
            ),
            exhausted=self._readiness.exhausted,
        )
        self._control = Control(journal, self._queues, self._claims, self._pool, self._streams.is_expected, projection)
        self._reasons = Reasons(self._queues, self._holds, self._readiness, clock, options)
        open_requests = OpenRequests(journal, cut=options.stream_cut)
        self._positions = Positions(
            journal, self._streams, self._queues, self._estimates, self._reasons, open_requests, clock
        )
        standings = Standings(self._estimates, self._reasons, open_requests)
        self._admission = Admission(
            journal=journal,
            drafts=Drafts(target, options, clock, new_run_id),
            readiness=self._readiness,
            refusals=Refusals(self._queues, self._estimates, options),
            acceptance=Acceptance(
                self._claims,
                self._control,
                self._subscribers,
                self._streams,
                self._readiness,
                standings,
                observer,
                options,
            ),
            attachments=Attachments(journal, self._streams, self._readiness, standings),
            observer=observer,
            tracing=tracing,
        )
        self._ticks = (
            self._readiness.tick,
            self._claims.look_at_deadlines,
            self._pool.evict,
            self._positions.publish,
            self._streams.evict,
            self._runner.watch_deadlines,
            self._watchdog.tick,
            self._pool.drop_lost,
            self._claims.look_at_leftovers,
        )
        self._reading = Reading(
            journal, self._runner, self._streams, self._estimates, self._reasons, open_requests, self._readiness
        )

    @property
    def options(self) -> Options:
        """Its limits and policies, as they are in force."""
        return self._options

    @property
    def serves(self) -> str:
        """What is served, for people: what kind of target, and its name."""
        return self._target.description

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, recover what was executing, and let waiting runs start. Raises a `JournalError`."""
        orphans = await self._journal.open(self._owner, max_attempts=self._options.max_attempts)
        self._streams.begin(self._journal.epoch)
        try:
            for orphan in orphans:
                external = self._target.external
                outcome = await recover(self._journal, orphan, self._options, self._clock.now(), external=external)
                if outcome is not None:
                    self._observer.ended(outcome, None)
                    self._tracing.ended(orphan.run, outcome, self._clock.now())
            await self._claims.start()
            self._claims.spawn(every_second(*self._ticks))
            self._claims.spawn(measure_lag(self._clock, self._observer.lagged))
            self._claims.spawn(prune_runs(self._journal, self._clock, run_retention_s=self._options.run_retention_s))
            if (retention_s := self._options.history_retention_s) is not None:
                self._claims.spawn(
                    delete_idle_sessions(self._journal, self._clock, self._delete, history_retention_s=retention_s)
                )
        except BaseException:
            await self._journal.close()
            raise
        self._projection.start()
        if orphans:
            _log.info("%d runs were executing when the last server died", len(orphans))
        self._readiness.begin()

    def fail_start(self) -> None:
        """Note that the start has failed, or was given up: requests that wait for it are let go."""
        self._readiness.fail_start()

    async def drain(self, *, close: bool = True) -> None:
        """Stop: accept nothing, let what executes finish within `drain_grace_s`, stop the rest, close the journal.

        On return every run has its outcome or waits in the journal, and every waiter was told which. With `close` False
        the journal is open still, for those that read what they were told of: `close` it when they have left.
        """
        if self._readiness.draining:
            return
        self._readiness.begin_to_drain()
        self._subscribers.stop()
        for run_id in self._queues.waiting_runs():
            self._streams.later(run_id)
        await self._claims.drain(drain_grace_s=self._options.drain_grace_s, stop_grace_s=self._options.stop_grace_s)
        self._streams.stop()
        await self._projection.finish(PROJECTION_S)
        if close:
            await self.close()

    async def close(self) -> None:
        """Close the journal, if it is open. Nothing can be asked for any more."""
        await self._journal.close()

    async def abort(self) -> None:
        """End the service at once, and leave the journal as a killed process does."""
        await self._projection.finish(0.0)
        await self._claims.abort()
        self._loops.close()

    # -- what adapters ask for ---------------------------------------------------------------------

    @property
    def starting(self) -> bool:
        """Whether it has not been ready yet and may still become so."""
        return self._readiness.starting

    async def until_ready(self, timeout_s: float) -> None:
        """Return when its start is over, well or not. Raises `NotReady` after `timeout_s`, or if too many wait."""
        await self._readiness.until_ready(timeout_s)

    async def submit(self, request: Request) -> Ticket:
        """Accept a run: durable on return. Raises `Unavailable` of some kind; nothing is kept then.

        A request whose idempotency key is known is answered by the run that it stands for, also while the server stops;
        raises `KeyReused` if that was another request. A caller that is cancelled meanwhile does not undo an accept.
        """
        return await self._admission.submit(request)

    def joined(self, run_id: RunId) -> None:
        """Note that a client waits for a run; `left` follows."""
        self._subscribers.joined(run_id)

    def left(self, run_id: RunId, *, lost: bool) -> None:
        """Note that a client waits no longer: it was answered, or it was `lost`, of which the run may die."""
        self._subscribers.left(run_id, lost=lost)

    async def run(self, principal: Principal, run_id: RunId, *, end: Outcome | Later | None = None) -> RunView:
        """Return a run. Raises `NotFound`, also for a run of another principal.

        `end` is what its stream has told: a server that stops may have no place left to keep that.
        """
        return await self._reading.run(principal, run_id, end)

    async def wait(self, principal: Principal, run_id: RunId, timeout_s: float) -> RunView:
        """Return a run once it has ended, or as it is after `timeout_s` seconds. Raises `NotFound`."""
        return await self._reading.wait(principal, run_id, timeout_s)

    async def stream(self, principal: Principal, run_id: RunId) -> RunStream:
        """Return what is told of a run: its events can be read while it goes on, and for a while after its end.

        Later there is its end alone. Raises `NotFound`.
        """
        return await self._reading.stream(principal, run_id)

    def changes(
        self, principal: Principal, after: int = 0, *, sessions: Collection[SessionId] = (), types: Collection[str] = ()
    ) -> Subscription:
        """Return what changes from now on, or after number `after`, in these sessions of a principal, or in all.

        Text as it comes is in the events of each run only. Raises `NotReady`.
        """
        self._readiness.open()
        return self._streams.changes(principal, after, sessions, types)

    async def cancel(self, principal: Principal, run_id: RunId, *, force: bool = False) -> RunView:
        """Cancel a run and return it: ended, or asked to end (its `cancel_requested`), which then survives a crash.

        With `force` nothing that still works of it holds its session. Raises `NotFound`, `AlreadyEnded`.
        """
        self._readiness.asked()
        await self._control.cancel(principal, run_id, force=force)
        return await self.run(principal, run_id)

    async def cancel_session(self, key: SessionKey, *, running: bool = False, force: bool = False) -> Stopped:
        """Cancel all runs that wait in a session, with `running` the one that executes too. Raises `NotFound`."""
        self._readiness.asked()
        stopped = await self._control.cancel_session(key, running=running, force=force)
        self._projection.changed(key)  # a question that was dismissed leaves something without a run that ends
        return stopped

    async def move(self, principal: Principal, run_id: RunId, priority: int | None) -> RunView:
        """Give a run that waits another priority, or with None the last place of the front; return it.

        Raises `Invalid`, `NotFound`, `AlreadyEnded`, `TooLate`.
        """
        self._readiness.asked()
        await self._control.move(principal, run_id, None if priority is None else in_range(priority))
        view = await self.run(principal, run_id)
        self._queues.changed(view.run.key)
        return view

    async def pause(self, key: SessionKey) -> SessionView:
        """Let nothing more of a session start until it is resumed, also after a restart. Raises `NotFound`."""
        self._readiness.asked()
        await self._control.pause(key)
        self._streams.changed(key, SessionPaused())
        return await self.session(key)

    async def resume(self, key: SessionKey) -> SessionView:
        """Let a paused session go on. Raises `NotFound`."""
        self._readiness.asked()
        await self._control.resume(key)
        self._streams.changed(key, SessionResumed())
        return await self.session(key)

    async def runs(self, key: SessionKey, *, cursor: str | None = None, limit: int = 100) -> RunViews:
        """Return a page of runs of a session: the last in line first, then what executes, then the latest end first.

        Raises `Invalid` for a cursor that is none; an unknown session has no runs.
        """
        return await self._reading.runs(key, cursor, limit)

    async def runs_of(
        self,
        principal: Principal,
        *,
        statuses: Collection[RunStatus] = (),
        cursor: str | None = None,
        limit: int = 100,
    ) -> RunViews:
        """Return a page of runs of all sessions of a principal, of these statuses or of all, the last accepted first.

        Raises `Invalid` for a cursor that is none.
        """
        return await self._reading.runs_of(principal, frozenset(statuses), cursor, limit)

    async def session(self, key: SessionKey) -> SessionView:
        """Return a session. Raises `NotFound`."""
        return await self._reading.session(key)

    def why(self, session: SessionView, *, of_another: bool = False) -> Why | None:
        """Return why nothing more of a session starts, None if it is at rest or only executes.

        `of_another`: without what is the principal's own, for an operator.
        """
        why = self._reasons.of_session(session)
        return of_others(why) if of_another else why

    async def sessions(self, principal: Principal, *, after: SessionId | None = None, limit: int = 100) -> SessionsPage:
        """Return sessions of a principal in the order of their ids, those after `after`."""
        return await self._reading.sessions(principal, after, limit)

    async def all_sessions(self, *, after: SessionKey | None = None, limit: int = 100) -> AllSessionsPage:
        """Return sessions of all principals, for operators, in the order of principal and id, those after `after`."""
        return await self._reading.all_sessions(after, limit)

    async def history_page(
        self, key: SessionKey, *, before: int | None = None, limit: int = 100, discarded: bool = False
    ) -> HistoryPage:
        """Return the last messages before index `before`, oldest first; with `discarded` hidden ones too.

        No more than `limit`, and fewer where they are large: `first` of the page is where it begins, and the `before`
        of the next one; 0 is the end.
        """
        return await self._reading.history_page(key, before, limit, discarded)

    async def history(self, key: SessionKey, *, count: int = 0, include_tool_messages: bool = False) -> list[Message]:
        """Return the last `count` messages of a session, oldest first; 0 is all. An unknown session has none."""
        return await self._reading.history(key, count, include_tool_messages)

    async def delete(self, key: SessionKey) -> bool:
        """Forget a session; False if there was none. Raises `SessionBusy` while a run of it waits or executes."""
        check_key(key)
        self._readiness.admit()
        return await self._delete(key)

    async def _delete(self, key: SessionKey, ended_before: float | None = None) -> bool:
        deleted = await self._control.delete(key, ended_before=ended_before)
        if deleted:
            self._streams.changed(key, SessionDeleted())
        return deleted

    def health(self) -> Health:
        """Return what goes on; takes microseconds, whatever user code does."""
        oldest = self._queues.oldest
        quiet_s = self._runner.quiet_s()
        return Health(
            ready=self._readiness.ready,
            has_been_ready=self._readiness.has_been_ready,
            draining=self._readiness.stopping,
            trouble=self._readiness.trouble,
            processing=self._queues.executing > 0 or len(self._holds) > 0,
            running=self._queues.executing,
            held=len(self._holds),
            stalled=sum(each >= self._options.stall_after_s for each in quiet_s),
            queue_depth=self._queues.waiting,
            oldest_wait_s=0.0 if oldest is None else max(0.0, self._clock.now() - oldest),
            longest_no_progress_s=max(quiet_s, default=0.0),
            agents_in_memory=len(self._pool),
            refused_runs=self._admission.refused,
            lost_clients=self._subscribers.lost,
            workers=self._loops.load().workers,
        )

    def shares(self) -> dict[Principal, Share]:
        """Return what goes on for each principal of whom anything executes, is held or waits; for operators."""
        return self._queues.shares()

    async def stored(self) -> Stored | None:
        """Return how many bytes are kept, for metrics; None while the journal cannot tell."""
        try:
            return await self._journal.read(StoredQuery())
        except StrandlineError:
            return None

    def vitals(self) -> Vitals:
        """Return what goes on and has gone on, for metrics; takes a millisecond where 10,000 runs wait."""
        return Vitals(
            health=self.health(),
            max_running=self._options.max_running,
            max_queued=self._options.max_queued,
            most_waiting=self._queues.most_waiting,
            max_queued_per_session=self._options.max_queued_per_session,
            max_stored_bytes=self._options.max_stored_bytes_per_principal,
            projection_behind=self._projection.behind,
            projection_failures=self._projection.failures,
            agents=self._loops.load(),
            holds=self._holds.begun,
            holds_given_up=self._holds.given_up,
            leftovers=len(self._holds.still_work()),
            max_holds=self._options.max_holds,
            stalls=self._watchdog.stalls,
            claims_lost=self._claims.lost,
            subscribers=self._streams.subscribers,
        )

    async def stacks(self) -> list[RunStack]:
        """Return what every run does that executes, or has ended and still works."""
        now = self._clock.monotonic()
        found = [
            (each.attempt.claim.run, each.attempt.phase, each.attempt.last_progress, each.call)
            for each in self._runner.executing()
        ]
        found += [(hold.claim.run, "held", hold.since, hold.call) for hold in self._holds.all()]
        stacks = await asyncio.gather(*(self._loops.stack(call) for _, _, _, call in found))
        return [
            RunStack(run=run, phase=phase, quiet_s=now - since, stack=stack)
            for (run, phase, since, _), stack in zip(found, stacks, strict=True)
        ]

    def idle_s(self) -> float:
        """Return for how many seconds nothing has run, waited or been asked for."""
        if self._queues.executing or self._queues.waiting or len(self._holds):
            self._readiness.asked()
        return self._readiness.idle_s()
