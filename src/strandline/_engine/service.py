"""The service: the only part of the engine that adapters call.

It accepts runs, or refuses them before anything is stored, reports how they end, and shows the present state. `start`
and `drain` are its life cycle. It composes the engine's modules and delegates to them: their docstrings state the
promises.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from msgspec.structs import replace

from strandline._agents.port import Target
from strandline._clock import Clock
from strandline._engine.admission import Admission, Control, Forks, Refusals, Subscribers, Ticket
from strandline._engine.execution import AgentPool, Claims, Handover, Holds, Retries, Runner
from strandline._engine.files import Files
from strandline._engine.loops import Loops
from strandline._engine.maintenance import (
    Readiness,
    Watchdog,
    delete_idle_sessions,
    every_minute,
    every_second,
    measure_lag,
    prune_runs,
)
from strandline._engine.observers import UNOBSERVED, UNPROJECTED, UNTRACED, Observer, Projection, Tracing
from strandline._engine.options import Options
from strandline._engine.ownership import Ownership
from strandline._engine.queues import Estimates, SessionQueues
from strandline._engine.reading import ClusterVitals, Health, Positions, Reading, Reasons, RunStack, Standings, Vitals
from strandline._engine.requests import ListedMessages, Replaced, Request, RunBuilder, newer_of
from strandline._engine.schedules import Schedules, new_schedule_id
from strandline._engine.streams import Streams, Subscription
from strandline._engine.webhooks import Outbox, Sender, Webhooks
from strandline._files.store import FileStore
from strandline._journal.cluster import DatabaseVitals
from strandline._journal.partitions import PARTITIONS
from strandline._journal.port import Journal
from strandline._model import Principal, Resolution, RunId, ScheduleId, SessionId, SessionKey
from strandline.errors import NotOwner, StrandlineError, Unavailable

_log = logging.getLogger("strandline.service")

PROJECTION_S: Final = 1.0
"""How long a projection gets to copy new messages when the service stops."""


class Service:
    """Accepts runs and brings each to its one outcome. Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        target: Target,
        loops: Loops,
        clock: Clock,
        new_run_id: Callable[[SessionKey], RunId],
        workspace: Callable[[SessionKey], str],
        options: Options,
        owner: str = "strandline",
        observer: Observer = UNOBSERVED,
        tracing: Tracing = UNTRACED,
        projection: Projection = UNPROJECTED,
        new_schedule_id: Callable[[SessionKey], ScheduleId] = new_schedule_id,
        file_store: FileStore | None = None,
        sender: Sender | None = None,
    ) -> None:
        if target.singleton:  # one object for all sessions: nothing may run beside it, nor beside a lingering run
            options = replace(options, max_running=1, max_holds=1, max_agents=0)
        self.options = options = replace(options, self_managed=target.self_managed)
        """The limits and policies in force."""
        self.serves = target.description
        """The kind of the target and its name, for people."""
        self.refused = 0
        """How many requests were refused for now: a queue or the server was full, the server was stopping, or had
        no worker."""
        self._journal = journal
        self._loops = loops
        self._clock = clock
        self._owner = owner
        self._observer = observer
        self._tracing = tracing
        self._projection = projection
        retries = Retries(clock)
        self._readiness = Readiness(journal, loops, clock, retries, retry_after_s=options.retry_after_s)
        self.exhausted = self._readiness.exhausted
        """Set when too many ended runs are still executing, so that the process must be replaced."""
        self._queues = SessionQueues(
            journal, clock, options.max_running, options.max_running_per_principal, options.max_holds_per_principal
        )
        self._pool = AgentPool(journal, target, loops, clock, options, workspace, retries)
        self._streams = Streams(
            options,
            clock,
            is_waiting=lambda run_id: self._queues.sessions.is_waiting(run_id),
            is_live=lambda run_id: self._queues.sessions.is_live(run_id),
            host_of=lambda run_id: self._queues.sessions.host_of(run_id),
            post=loops.post_back,
            epoch_of=journal.epoch_of,
            observer=observer,
            projection=projection,
        )
        self._runner = Runner(journal, loops, self._pool, clock, options, self._queues, self._streams, tracing, retries)
        self._holds = Holds(journal, loops, clock, options, retries, per_principal=self._queues.slots.most_lingering)
        self._watchdog = Watchdog(self._runner, self._holds, loops, self._streams, clock, options)
        estimates = Estimates(clock, self._queues, retry_after_s=options.retry_after_s)
        self._claims = Claims(
            journal=journal,
            queues=self._queues,
            estimates=estimates,
            runner=self._runner,
            holds=self._holds,
            streams=self._streams,
            tracing=tracing,
            clock=clock,
            exhausted=self._readiness.exhausted,
            retries=retries,
            drop_failed=options.on_failure == "drop",
        )
        self._handover = Handover(journal, self._pool, self._streams, tracing, clock, options, retries)
        reasons = Reasons(self._queues, self._holds, self._readiness, clock, options)
        standings = Standings(journal, estimates, reasons, cut=options.stream_cut)
        ownership = Ownership.of(journal, self._readiness.note_request)
        reading = Reading(journal, self._runner, self._streams, standings, self._readiness, ownership)
        builder = RunBuilder(target, options, clock, new_run_id, None if sender is None else sender.can_sign)
        self.files = Files(journal, clock, self._readiness, ownership, options, file_store, spawn=self._claims.spawn)
        self._pool.files_root = self.files.root
        self._control = Control(
            journal,
            self._readiness,
            self._claims,
            self._pool,
            self._streams,
            reading,
            projection,
            ownership,
            retries,
            builder,
            options,
            self.files,
        )
        forks = Forks(
            journal, self._readiness, ownership, projection, options, self._control.storage_full, self.files, workspace
        )
        self._subscribers = Subscribers(self._streams, self._control)
        self._admission = Admission(
            journal,
            builder,
            self._readiness,
            Refusals(self._readiness, self._queues, estimates, options),
            self._claims,
            self._streams,
            reading,
            options,
            ownership,
            lambda run_id: self._queues.sessions.not_before(run_id),
            self.files,
        )
        self.schedules = Schedules(
            journal,
            clock,
            self._admission,
            builder,
            self._readiness,
            ownership,
            new_id=new_schedule_id,
            most=options.max_schedules_per_caller,
            spawn=self._claims.spawn,
            files=self.files,
        )
        self._handover.on_gained = self.schedules.read_anew
        self.outbox: Outbox | None = None
        """What sends events to webhooks; None: nothing is sent."""
        if sender is not None:
            self.outbox = Outbox(
                journal,
                clock,
                self._readiness,
                ownership,
                sender,
                retries_s=options.webhook_retries,
                spawn=self._claims.spawn,
            )
        self.webhooks = Webhooks(self.outbox, options.webhook_allow_private)
        self._ticks: tuple[Callable[[], object], ...] = (
            self._hand_on_ownership,
            self._readiness.tick,
            self._claims.check_deadlines,
            self._pool.evict,
            Positions(self._streams, self._queues, standings, clock).publish,
            self._streams.evict,
            self._runner.watch_deadlines,
            self._watchdog.tick,
            self._pool.drop_lost,
            self._claims.check_lingering,
            self.schedules.tick,
            *(() if self.outbox is None else (self.outbox.tick,)),
        )
        # Each method of adapters, from the module that implements it.
        self.crashed, self.unresolved = reading.crashed, reading.unresolved
        self.repeatable, self.with_answers = reading.repeatable, reading.with_answers
        self.stored_run = reading.stored_run
        self.run, self.runs, self.runs_of = reading.run, reading.runs, reading.runs_of
        self.wait, self.stream = reading.wait, reading.stream
        self.session, self.sessions = reading.session, reading.sessions
        self.why, self.stored = reading.why, reading.stored
        self.history, self.history_page = reading.history, reading.history_page
        self.tree = reading.tree
        self.agent_state = reading.agent_state
        self.cancel, self.cancel_session = self._control.cancel, self._control.cancel_session
        self.restore, self.fork = self._control.restore, forks.fork
        self.move, self.edit, self.delete = self._control.move, self._control.edit, self._control.delete
        self.pause, self.resume = self._control.pause, self._control.resume
        self.set_options = self._control.set_options
        self.joined, self.left = self._subscribers.joined, self._subscribers.left
        self.until_ready, self.fail_start = self._readiness.until_ready, self._readiness.fail_start
        self.shares = self._queues.shares
        self.ownership = ownership
        self.new_run_id = new_run_id

    # -- life cycle ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, recover the runs that were executing, and start waiting ones. Raises a `JournalError`."""
        orphans = await self._journal.open(self._owner, max_attempts=self.options.max_attempts)
        self._streams.begin(self._journal.epoch)
        try:
            self._hand_on_ownership()
            await self._handover.recover(orphans)
            await self._claims.start()
            self._claims.spawn(self._handover.follow())
            self._claims.spawn(every_second(*self._ticks))
            self._claims.spawn(measure_lag(self._clock, self._observer.lagged))
            prune = partial(prune_runs, self._journal, self._clock, run_retention_s=self.options.run_retention_s)
            self._claims.spawn(every_minute(prune, "runs past their retention could not be deleted yet"))
            if self.files.root is not None:
                self._claims.spawn(self._keep_files_in_order())
            if (retention_s := self.options.history_retention_s) is not None:
                delete = partial(
                    delete_idle_sessions,
                    self._journal,
                    self._clock,
                    self._control.delete_idle,
                    history_retention_s=retention_s,
                )
                self._claims.spawn(every_minute(delete, "sessions past their retention could not be listed yet"))
        except BaseException:
            await self._journal.close()
            raise
        self._projection.start()
        if orphans:
            _log.info("%d runs were executing when the last server died", len(orphans))
        self._readiness.begin()
        self.schedules.tick()
        if self.outbox is not None:
            self.outbox.start()

    async def _keep_files_in_order(self) -> None:
        try:
            await self.files.remove_orphans()
        except (OSError, StrandlineError) as error:
            _log.warning("files without a record could not be looked for: %s", error)
        await every_minute(self.files.expire, "files past their retention could not be deleted yet")

    def _hand_on_ownership(self) -> None:
        self._loops.owned_until(self._journal.owned_until())

    async def drain(self, *, close: bool = True) -> None:
        """Stop: refuse new runs, give executing ones `drain_grace_s`, stop the rest, and close the journal.

        On return every run has its outcome or waits in the journal, and every waiting client has its answer. With
        `close` False the journal stays open for clients that read their answers: call `close` when they have left.
        """
        if self._readiness.draining:
            return
        self._readiness.begin_to_drain()
        self._subscribers.stop()
        self._streams.drain()
        self._claims.spawn(self._handover.leave())
        await self._claims.drain(drain_grace_s=self.options.drain_grace_s, stop_grace_s=self.options.stop_grace_s)
        await self._control.finish(self.options.stop_grace_s)
        self._streams.stop()
        await self._projection.finish(PROJECTION_S)
        if close:
            await self.close()

    async def close(self) -> None:
        """Close the journal, if it is open. Further calls fail."""
        if self.outbox is not None:
            self.outbox.close()
        await self._journal.close()

    async def abort(self) -> None:
        """End the service at once, and leave the journal as a killed process does."""
        await self._projection.finish(0.0)
        await self._claims.abort()
        if self.outbox is not None:
            self.outbox.close()
        self._loops.close()

    # -- requests of adapters -----------------------------------------------------------------------

    @property
    def secret(self) -> bytes:
        """What the servers over the journal sign with; empty while it is not open."""
        return self._journal.secret

    async def submit(
        self,
        request: Request,
        *,
        run_id: RunId | None = None,
        sent_before_s: float | None = None,
        resolution: Resolution | None = None,
        again: Replaced | None = None,
        listed: ListedMessages | None = None,
        unless_last: bool = False,
    ) -> Ticket:
        """Accept a run: durable on return. Raises an `Unavailable`; nothing is stored then.

        A request with a known idempotency key gets its earlier run, also while the server stops; raises `KeyReused` if
        the two requests differ. `run_id` is the id for its run; if it is that of an accepted run of the session, the
        request was sent before, and gets that run. `sent_before_s`: it was sent before for sure, first so many seconds
        ago; it gets its run also where a new one would be refused, and raises `JournalUnavailable` if the session was
        deleted since. Raises `NotOwner` for a session of another server. With a `resolution` it continues a crashed
        run; raises `NotResolvable`. It replaces run `again`, and may go back otherwise (`Request.after`); raises
        `CannotGoBack`, and `SessionBusy` unless its session is at rest or it interrupts. With what its client has
        `listed` of the conversation before it, it continues history as that says; raises `ConversationDiffers`.
        With `unless_last` it goes back to `Request.after` only if a later run of its session was accepted.
        Cancelling the call does not undo an accept.
        """
        try:
            if self.ownership.is_shared:
                needed = newer_of(request, is_resolved=resolution is not None, replaces=again is not None)
                self.ownership.check_known(needed)
            self.ownership.check(request.key)
            with self._tracing.request_trace() as trace:
                return await self._admission.submit(
                    request,
                    trace,
                    run_id,
                    sent_before_s=sent_before_s,
                    resolution=resolution,
                    again=again,
                    listed=listed,
                    unless_last=unless_last,
                )
        except NotOwner:
            raise
        except Unavailable as refusal:
            self.refused += 1
            self._readiness.refused += 1
            self._observer.refused(refusal.code)
            raise

    def changes(
        self, principal: Principal, after: int = 0, *, sessions: Collection[SessionId] = (), types: Collection[str] = ()
    ) -> Subscription:
        """Subscribe to the changes from now on, or after number `after`, in these sessions of a principal, or in all.

        Text deltas are in each run's own events only. Raises `NotReady`.
        """
        self._readiness.open()
        return self._streams.changes(principal, after, sessions, types)

    @property
    def stopping(self) -> bool:
        """Whether nothing new is accepted any more."""
        return self._readiness.stopping

    @property
    def starting(self) -> bool:
        """Whether it has not been ready yet and may still become so."""
        return self._readiness.starting

    def health(self) -> Health:
        """Return the present state; takes microseconds, or a few milliseconds with 10,000 waiting sessions."""
        executing, waiting = self._claims.counts()
        delayed = self._queues.sessions.delayed if waiting else 0
        oldest = self._queues.sessions.oldest if waiting else None
        quiet_s = self._runner.quiet_s()
        return Health(
            ready=self._readiness.ready,
            has_been_ready=self._readiness.has_been_ready,
            draining=self._readiness.stopping,
            trouble=self._readiness.trouble,
            processing=executing > 0 or len(self._holds) > 0,
            running=executing,
            held=len(self._holds),
            stalled=sum(each >= self.options.stall_after_s for each in quiet_s),
            queue_depth=max(0, waiting - delayed),
            delayed=delayed,
            oldest_wait_s=0.0 if oldest is None else max(0.0, self._clock.now() - oldest),
            longest_no_progress_s=max(quiet_s, default=0.0),
            agents_in_memory=len(self._pool),
            refused_runs=self.refused,
            lost_clients=self._subscribers.lost,
            workers=self._loops.load().workers,
        )

    def vitals(self) -> Vitals:
        """Return the state and counters for metrics; takes some ten milliseconds with 10,000 waiting sessions."""
        return Vitals(
            health=self.health(),
            options=self.options,
            most_waiting=self._queues.sessions.most_waiting,
            projection_behind=self._projection.behind,
            projection_failures=self._projection.failures,
            agents=self._loops.load(),
            holds=self._holds.begun,
            holds_given_up=self._holds.given_up,
            lingering=len(self._holds.lingering_calls()),
            stalls=self._watchdog.stalls,
            claims_lost=self._claims.lost,
            schedules=len(self.schedules),
            schedules_fired=self.schedules.fired,
            schedules_missed=self.schedules.missed,
            schedule_late_s=self.schedules.late_s,
            subscribers=self._streams.subscribers,
            cluster=self._cluster_vitals(),
        )

    def _cluster_vitals(self) -> ClusterVitals | None:
        if not self.ownership.is_shared:
            return None
        cluster = self.ownership.others()
        return ClusterVitals(
            servers=len(cluster.peers),
            owned=sum(map(cluster.owns, range(PARTITIONS))),
            unowned=sum(cluster.owner(each) is None for each in range(PARTITIONS)),
            gained=self._handover.gained,
            ceded=self._handover.ceded,
            lease_s=cluster.lease_s,
            lease_left_s=cluster.lease_left_s,
            takeovers=cluster.takeovers,
        )

    async def database(self) -> DatabaseVitals | None:
        """Return how the journal's database does, for metrics; None if it is in none, or that cannot say."""
        if not self.ownership.is_shared:
            return None
        try:
            return await self.ownership.others().database()
        except StrandlineError:
            return None

    async def stacks(self) -> list[RunStack]:
        """Return what each run is executing, also those that have ended and still execute."""
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
        """Return for how many seconds nothing has run or waited and no request has come."""
        if self._queues.executing or self._queues.sessions.waiting or len(self._holds):
            self._readiness.note_request()
        return self._readiness.idle_s()
