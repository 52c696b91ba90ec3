"""Decides about a request: it is accepted as a run, attached to its key's earlier run, or refused.

A refused request leaves nothing behind. An accepted run is durable, and its clients get its stream.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from msgspec.structs import replace

from strandline._engine.admission.refusals import Refusals
from strandline._engine.admission.ticket import Ticket
from strandline._engine.events import RunPosition
from strandline._engine.execution import Claims
from strandline._engine.files import Files
from strandline._engine.maintenance import Readiness
from strandline._engine.options import Options
from strandline._engine.ownership import Ownership
from strandline._engine.reading import Reading
from strandline._engine.requests import (
    Continues,
    Differs,
    ListedMessages,
    Replaced,
    Request,
    RunBuilder,
    fingerprint_of,
    place_in,
)
from strandline._engine.shielded import to_the_end
from strandline._engine.streams import Streams
from strandline._files.blocks import names_files
from strandline._journal.errors import RunIdTaken
from strandline._journal.port import (
    BY_LIST,
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    ConversationQuery,
    DeletedQuery,
    JoinedSince,
    Journal,
    Overlaps,
    Reused,
    RunQuery,
    ScheduleMoved,
    SupersededQuery,
)
from strandline._model import (
    RUN_OPTIONS,
    Block,
    Carrier,
    IfBusy,
    Input,
    Lane,
    NewRun,
    OnDisconnect,
    OnQuestion,
    Principal,
    Resolution,
    RunId,
    SessionKey,
)
from strandline.errors import (
    ConversationDiffers,
    Draining,
    HoldsFull,
    Invalid,
    JournalUnavailable,
    NoWorker,
    SessionBusy,
    StrandlineError,
)

NO_ROOM = Bounds(0, 0)
"""Accepts no new run, but finds the run of a key."""
CLOCKS_DIFFER_S: Final = 1.0
"""By how much the times of two servers may differ, which follow the same clock."""
EXECUTES = RunPosition(0, 0.0)


class Admission:
    """Belongs to the serving loop."""

    def __init__(
        self,
        journal: Journal,
        builder: RunBuilder,
        readiness: Readiness,
        refusals: Refusals,
        claims: Claims,
        streams: Streams,
        reading: Reading,
        options: Options,
        ownership: Ownership,
        delayed_until: Callable[[RunId], float | None],
        files: Files,
    ) -> None:
        self._journal = journal
        self._files = files
        self._builder = builder
        self._readiness = readiness
        self._refusals = refusals
        self._claims = claims
        self._streams = streams
        self._reading = reading
        self._ownership = ownership
        self._delayed_until = delayed_until
        self._retry_after_s = options.retry_after_s
        self._on_disconnect = options.on_disconnect
        self._bounds = Bounds(
            options.max_queued_per_session,
            options.max_queued,
            per_principal=options.max_queued_per_principal,
            stored_bytes=options.max_stored_bytes_per_principal,
            deliveries=options.max_webhooks_per_caller,
        )
        self._under_way: set[asyncio.Task[Any]] = set()

    async def submit(
        self,
        request: Request,
        trace: Carrier | None,
        run_id: RunId | None = None,
        *,
        sent_before_s: float | None = None,
        resolution: Resolution | None = None,
        again: Replaced | None = None,
        listed: ListedMessages | None = None,
        unless_last: bool = False,
    ) -> Ticket:
        """Accept a run, as `Service.submit` says; `trace` is stored with it."""
        may_name_files = not isinstance(request.input, str) and resolution is None and again is None
        if may_name_files and request.answers is None and names_files(request.input):
            # (What continues or replaces a run has its input as it is stored.)
            request = await self._with_files(request)
        new = self._builder.build(request, trace, run_id, resolution, again)
        if unless_last:
            new = replace(new, unless_last=True)
        on_disconnect = request.on_disconnect or self._on_disconnect
        answer: Ticket | AcceptAnswer | None = None
        if sent_before_s is not None:
            answer = await self._accepted_before(new, new.created_at - sent_before_s)
        if answer is None and listed is not None:
            known = await self._known_by_key(new)
            if isinstance(known, Attached | Reused):
                answer = known
            else:
                request = await self._as_listed(request, listed)
                new = self._builder.build(request, trace, new.run_id)
        if answer is None:
            answer = await self._decided(new, on_disconnect)
        while isinstance(answer, JoinedSince):
            assert again is not None
            said, again = await self._reading.repeatable(request.key.principal, again.run_id)
            request = replace(request, input=said.input)
            new = self._builder.build(request, trace, new.run_id, None, again)
            answer = await self._decided(new, on_disconnect)
        if isinstance(answer, Ticket):
            return answer if listed is None else await self._with_superseded(answer)
        if isinstance(answer, Attached):
            ticket = await self._attach(new.key, answer.run_id)
            if listed is not None:
                ticket = await self._with_superseded(ticket)
            if answer.run_id != new.run_id:
                return ticket
            # It was accepted for this request, whose answer, or that of its commit, was lost.
            if request.on_disconnect is None:
                session = await self._reading.changed_session(new.key)
                on_disconnect = session.options.on_disconnect or on_disconnect
            ticket.stream.on_disconnect = on_disconnect
            return replace(ticket, replayed=False, counts_clients=on_disconnect is not OnDisconnect.CONTINUE)
        assert not isinstance(answer, Accepted)
        error = self._refusals.error(new, answer)
        if (listed is not None or unless_last) and new.back is not None and isinstance(error, SessionBusy):
            error.retry_after_s = self._retry_after_s
        raise error

    async def _as_listed(self, request: Request, listed: ListedMessages) -> Request:
        """Return a request whose run continues history as its client's list says. Raises `ConversationDiffers`."""
        conversation = await self._journal.read(ConversationQuery(request.key, listed.texts))
        request = replace(request, metadata={**request.metadata, BY_LIST: listed.how})
        place = place_in(conversation, listed)
        if isinstance(place, Continues):
            return request
        if isinstance(place, Differs):
            raise ConversationDiffers(place.why)
        self._ownership.check_known(["after"])
        given = request.input
        if place.repeated:
            said = [await self._input_of(request.key.principal, run_id) for run_id in place.repeated]
            given = [block for each in (*said, given) for block in _blocks(each)]
        # (It is to join or to answer nothing: neither is there in a session at rest.)
        if_busy = None if request.if_busy is IfBusy.STEER else request.if_busy
        on_question = None if request.on_question is OnQuestion.ANSWER else request.on_question
        return replace(
            request,
            input=given,
            after=place.after,
            if_busy=if_busy,
            expected_run_id=None if if_busy is None else request.expected_run_id,
            on_question=on_question,
        )

    async def _input_of(self, principal: Principal, run_id: RunId) -> Input:
        run = await self._journal.read(RunQuery(principal, run_id))
        if run is None:
            raise ConversationDiffers(f"run {run_id} was deleted meanwhile")
        return run.input

    async def _with_superseded(self, ticket: Ticket) -> Ticket:
        """Return a ticket with what its run supersedes, if it goes back."""
        if ticket.back is None:
            return ticket
        with suppress(StrandlineError):  # (it was accepted, and must not be answered as if it was not)
            superseded = await self._journal.read(SupersededQuery(ticket.key, run_id=ticket.run_id))
            return replace(ticket, superseded=superseded)
        return ticket

    async def _with_files(self, request: Request) -> Request:
        """Return a request whose files are as history names them. Its key stands for what the caller has sent; a known
        one finds its run although a file is gone."""
        request = replace(request, fingerprint=request.fingerprint or fingerprint_of(request))
        try:
            return replace(request, input=await self._files.resolved(request.key, request.input))
        except Invalid:
            known = await self._known_by_key(self._builder.build(request, None))
            if not isinstance(known, Attached):
                raise
            return request

    async def _decided(self, new: NewRun, on_disconnect: OnDisconnect) -> Ticket | AcceptAnswer:
        """Have a run accepted or refused.

        Its id came with a request that is sent again, or nobody else has it: if it is taken, the run was accepted. A
        journal that is closing finds that out of a commit whose answer it has lost.
        """
        try:
            self._refusals.admit(new)
        except (Draining, NoWorker, HoldsFull):
            known = await self._known_by_key(new)
            if not isinstance(known, Attached | Reused):
                raise
            return known
        try:
            return await to_the_end(self._accept(new, on_disconnect), self._under_way)
        except RunIdTaken:
            if not await self._is_accepted(new):
                raise
            return Attached(new.run_id)

    async def fire(self, new: NewRun) -> Ticket | Overlaps | ScheduleMoved:
        """Accept a run of a schedule, for which nobody waits. Raises an `Unavailable`."""
        self._refusals.admit(new)
        answer = await to_the_end(self._accept(new, OnDisconnect.CONTINUE), self._under_way)
        if isinstance(answer, Ticket | Overlaps | ScheduleMoved):
            return answer
        assert not isinstance(answer, Accepted | Attached | JoinedSince)
        raise self._refusals.error(new, answer)

    async def _accept(self, new: NewRun, on_disconnect: OnDisconnect) -> Ticket | AcceptAnswer:
        """Return the ticket of a run that the journal has accepted, or the journal's other answer."""
        accepted = await self._claims.accept(new, self._bounds)
        if not isinstance(accepted, Accepted):
            return accepted
        new = accepted.new or new
        if accepted.defaults is not None and "on_disconnect" not in new.own_options and new.fires is None:
            on_disconnect = accepted.defaults.on_disconnect or on_disconnect
        stream = self._streams.accepted(new.run_id, new.key, on_disconnect)  # before its claim comes
        at, stopped = EXECUTES, accepted.stopped
        if stopped is not None:
            self._claims.stopped(new.key, stopped, discard=new.if_busy is IfBusy.ROLLBACK)
        if accepted.joined is not None:
            at = self._reading.standings.of_joining(accepted.joined)
            self._streams.queued(new.run_id, at, new.sender)
        elif accepted.position and not self._starts_with_another(new):
            delayed_until = None if new.not_before is None else self._delayed_until(new.run_id)
            at = await self._reading.standings.of_waiting(new.key, accepted.position, delayed_until)
            self._streams.queued(new.run_id, at, new.sender)
        return Ticket(
            run_id=new.run_id,
            key=new.key,
            created_at=new.created_at,
            position=at.position,
            estimated_wait_s=at.estimated_wait_s,
            stream=stream,
            counts_clients=on_disconnect is not OnDisconnect.CONTINUE,
            stopped=() if stopped is None else (*stopped.cancelling, *stopped.ended),
            joined=accepted.joined,
            back=new.back,
            new=new,
        )

    def _starts_with_another(self, new: NewRun) -> bool:
        """Return whether a run that has just been accepted is part of a turn that has started."""
        return new.if_busy is IfBusy.COLLECT and self._streams.starts_with_another(new.run_id)

    async def _attach(self, key: SessionKey, run_id: RunId) -> Ticket:
        """Return the ticket of a run that was accepted before. Raises `NotFound`."""
        run, at, stream = await self._reading.with_stream(key.principal, run_id)
        return Ticket(
            run_id=run_id,
            key=key,
            created_at=run.created_at,
            position=at.position,
            estimated_wait_s=at.estimated_wait_s,
            stream=stream,
            attached=True,
            replayed=run.outcome is not None,
            counts_clients=run.outcome is None,
            back=run.back,
        )

    async def _accepted_before(self, new: NewRun, since: float) -> Attached | None:
        """Return the run of a request that was sent before, if it was accepted then, whatever refuses a new one now.

        `since` is when it was sent first. Raises `JournalUnavailable` if its session was deleted after that.
        """
        with suppress(RunIdTaken):  # (it waits or executes: its id is taken)
            await self._probe(new)  # behind its accept, if that is still under way
        if await self._is_accepted(new):
            return Attached(new.run_id)
        if await self._journal.read(DeletedQuery(new.key, since - CLOCKS_DIFFER_S)):
            raise JournalUnavailable("its session was deleted meanwhile, with all runs that had ended")
        return None

    async def _is_accepted(self, new: NewRun) -> bool:
        """Return whether the run of a request was accepted when it was sent before."""
        known = await self._journal.read(RunQuery(new.key.principal, new.run_id))
        return known is not None and known.key == new.key

    async def _known_by_key(self, new: NewRun) -> AcceptAnswer | None:
        """Return the journal's answer to the key of a run that cannot be accepted now; None without a key."""
        if new.keyed is None or not self._readiness.started:
            return None
        return await self._probe(new)

    async def _probe(self, new: NewRun) -> AcceptAnswer:
        """Return the journal's answer to a run that it cannot accept."""
        # (An answer goes past all bounds, and would be accepted.)
        probe = replace(
            new,
            lane=Lane.NORMAL,
            input="",
            on_question=OnQuestion.WAIT,
            own_options=RUN_OPTIONS,
            resolution=None,
            back=None,
            unless_last=False,
        )
        return await self._journal.accept(probe, NO_ROOM, claim_next=False)


def _blocks(given: Input) -> list[Block]:
    return [{"text": given}] if isinstance(given, str) else given
