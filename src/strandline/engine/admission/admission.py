"""Who is let in: a request is accepted as a run, attached to the one that its key stands for, or refused.

What is refused leaves nothing behind. What is accepted is durable, and whoever waits for it gets its stream.
"""

import asyncio
from typing import Any, Final

from msgspec.structs import replace

from strandline.engine.admission.control import Control
from strandline.engine.admission.subscribers import Subscribers
from strandline.engine.admission.ticket import Ticket
from strandline.engine.execution import Claims
from strandline.engine.maintenance import Readiness
from strandline.engine.observers import Observer, Tracing
from strandline.engine.options import Options
from strandline.engine.queues import Estimates, SessionQueues
from strandline.engine.reading import OpenRequests, Reasons
from strandline.engine.requests import Drafts, Request, reused, unanswerable
from strandline.engine.streams import Streams
from strandline.errors import (
    DiskLow,
    Draining,
    HoldsFull,
    NotFound,
    NoWorker,
    PrincipalFull,
    QueueFull,
    ServerFull,
    SessionBusy,
    StorageFull,
    Unavailable,
)
from strandline.journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    Journal,
    Refused,
    Reused,
    RunQuery,
    Unanswerable,
)
from strandline.model import Carrier, IfBusy, Lane, NewRun, OnDisconnect, OnQuestion, Principal, Run, RunId, SessionKey

STORAGE_FULL_S: Final = 60.0
"""When to come again at the earliest to what is full until somebody deletes: what is past its retention is forgotten
once a minute."""
NO_ROOM = Bounds(0, 0)
"""Lets no new run in, but tells which run a key stands for."""


class Admission:
    """Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        drafts: Drafts,
        readiness: Readiness,
        queues: SessionQueues,
        claims: Claims,
        control: Control,
        subscribers: Subscribers,
        streams: Streams,
        reasons: Reasons,
        open_requests: OpenRequests,
        estimates: Estimates,
        options: Options,
        observer: Observer,
        tracing: Tracing,
    ) -> None:
        self._journal = journal
        self._drafts = drafts
        self._readiness = readiness
        self._queues = queues
        self._claims = claims
        self._control = control
        self._subscribers = subscribers
        self._streams = streams
        self._reasons = reasons
        self._open_requests = open_requests
        self._estimates = estimates
        self._options = options
        self._observer = observer
        self._tracing = tracing
        self.refused = 0
        """How many requests were refused for now: a queue or the server was full, it was stopping, or had no worker."""
        self._bounds = Bounds(
            options.max_queued_per_session,
            options.max_queued,
            per_principal=options.max_queued_per_principal,
            stored_bytes=options.max_stored_bytes_per_principal,
        )

    async def submit(self, request: Request) -> Ticket:
        """Accept a run, as `Service.submit` says."""
        try:
            with self._tracing.asked() as trace:
                return await self._submit(request, trace)
        except Unavailable as refusal:
            self.refused += 1
            self._observer.refused(refusal.code)
            raise

    async def _submit(self, request: Request, trace: Carrier | None) -> Ticket:
        key = request.key
        new = self._drafts.draft(request, trace)
        run_id = new.run_id
        try:
            self._readiness.admit_run()
            self._admit_principal(key.principal)
        except (Draining, NoWorker, HoldsFull):
            if new.keyed is None or not self._readiness.started:
                raise
            # An answer would find room, and be kept.
            asks = replace(new, lane=Lane.NORMAL, input="", on_question=OnQuestion.WAIT)
            match await self._journal.accept(asks, NO_ROOM, take=False):
                case Attached(run_id=run_id):
                    return await self._attached(key, run_id)
                case Reused():
                    raise reused(request) from None
            raise
        plain = new.lane == Lane.NORMAL and new.if_busy is IfBusy.ENQUEUE and new.keyed is None
        if plain and (refused_before := self._queues.refusal(new)) is not None:
            raise self._refusal(key, refused_before)
        stream = self._streams.new(run_id, key)
        on_disconnect = request.on_disconnect or self._options.on_disconnect
        accept = asyncio.create_task(self._accept(new, on_disconnect))
        accept.add_done_callback(_looked_at)
        match await asyncio.shield(accept):
            case Accepted(position=position, stopped=stopped):
                if self._readiness.draining and position:
                    self._streams.later(run_id)
                return Ticket(
                    run_id=run_id,
                    key=key,
                    position=position,
                    estimated_wait_s=self._estimates.wait_s(key, position) if position else 0.0,
                    stream=stream,
                    heeds=on_disconnect is not OnDisconnect.CONTINUE,
                    stopped=() if stopped is None else (*stopped.asked, *stopped.ended),
                )
            case Refused(reason="session_busy"):
                raise SessionBusy(
                    f"session {key.session_id} has runs that execute or wait, and this one is not to wait"
                )
            case Refused() as refused:
                raise self._refusal(key, refused)
            case Attached(run_id=run_id):
                return await self._attached(key, run_id)
            case Reused():
                raise reused(request)
            case Unanswerable() as cannot:
                raise unanswerable(key, cannot)

    def _admit_principal(self, principal: Principal) -> None:
        """Let a principal's request for a run in. Raises `HoldsFull`."""
        if self._queues.is_full(principal):
            raise HoldsFull(
                f"{self._queues.leftovers(principal)} runs of {principal} have ended and still work (setting"
                " max_holds_per_principal); nothing more of it is accepted before one of them works no more",
                retry_after_s=self._options.retry_after_s,
            )

    async def _accept(self, new: NewRun, on_disconnect: OnDisconnect) -> AcceptAnswer:
        """Have the journal accept a run, to the end of it whoever waits."""
        try:
            accepted = await self._claims.accept(new, self._bounds)
        except BaseException:
            self._streams.drop(new.run_id)
            raise
        if not isinstance(accepted, Accepted):
            self._streams.drop(new.run_id)
            return accepted
        self._observer.accepted()
        self._subscribers.expect(new.run_id, new.key, on_disconnect)  # before its claim comes
        if accepted.stopped is not None:
            self._control.tell(new.key, accepted.stopped, discard=new.if_busy is IfBusy.ROLLBACK)
        if accepted.position:
            why = self._reasons.of_waiting(new.key, accepted.position)
            requests = await self._open_requests.of(new.key, why)
            wait_s = self._estimates.wait_s(new.key, accepted.position)
            self._streams.queued(new.run_id, accepted.position, wait_s, why, requests)
        return accepted

    async def _attached(self, key: SessionKey, run_id: RunId) -> Ticket:
        """Return the ticket of a run that was accepted before, whether it has ended or not. Raises `NotFound`."""
        run = await self._kept(key, run_id)
        if run.outcome is None and not self._streams.is_expected(run_id):
            run = await self._kept(key, run_id)  # it has ended since it was read, or ends in a later process only
        if run.outcome is not None:
            stream = self._streams.ended_before(run, run.outcome)
        elif self._readiness.draining and run_id not in self._streams:
            stream = self._streams.postponed(run_id, key)
        else:
            stream = self._streams.of(run_id, key) or self._streams.postponed(run_id, key)
        position = run.position or 0
        wait_s = self._estimates.wait_s(key, position)
        why = self._reasons.of_run(run)
        self._streams.waits(run, wait_s, why, await self._open_requests.of(key, why))
        return Ticket(
            run_id=run_id,
            key=key,
            position=position,
            estimated_wait_s=wait_s,
            stream=stream,
            attached=True,
            replayed=run.outcome is not None,
            heeds=run.outcome is None,
        )

    async def _kept(self, key: SessionKey, run_id: RunId) -> Run:
        run = await self._journal.read(RunQuery(key.principal, run_id))
        if run is None:
            raise NotFound(f"run {run_id} is not there any more")
        return run

    def _refusal(self, key: SessionKey, refused: Refused) -> Unavailable:
        if refused.reason == "storage_full":
            return StorageFull(
                f"{self._options.max_stored_bytes_per_principal} bytes may be kept for {key.principal}, in all its"
                " sessions (setting max_stored_bytes_per_principal), and this run would be more; delete sessions that"
                " are not needed any more",
                retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
            )
        if refused.reason == "disk_low":
            return DiskLow(
                "little room is left on the server's disk, and it is kept for runs that were accepted (setting"
                " disk_reserve_bytes); no new one is before there is more",
                retry_after_s=self._options.retry_after_s,
            )
        estimate = self._estimates.wait_s(key, refused.position)
        if refused.reason == "queue_full":
            return QueueFull(
                f"{self._options.max_queued_per_session} runs of session {key.session_id} wait already",
                retry_after_s=self._estimates.retry_after_s(key),
                position=refused.position,
                estimated_wait_s=estimate,
            )
        if refused.reason == "principal_full":
            return PrincipalFull(
                f"{self._options.max_queued_per_principal} runs of {key.principal} wait already, in all its sessions",
                retry_after_s=self._options.retry_after_s,
                position=refused.position,
                estimated_wait_s=estimate,
            )
        return ServerFull(
            f"{self._options.max_queued} runs wait already on this server",
            retry_after_s=self._options.retry_after_s,
            position=refused.position,
            estimated_wait_s=estimate,
        )


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Note that whoever asked knows of a failure, or is not there any more."""
    if not task.cancelled():
        task.exception()
