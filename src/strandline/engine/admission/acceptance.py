"""A run is accepted: by the journal, to the end of it whoever waits, with its stream and all that has to know of it."""

import asyncio
from typing import Any

from strandline.engine.admission.control import Control
from strandline.engine.admission.subscribers import Subscribers
from strandline.engine.admission.ticket import Ticket
from strandline.engine.execution import Claims
from strandline.engine.maintenance import Readiness
from strandline.engine.observers import Observer
from strandline.engine.options import Options
from strandline.engine.reading import Standings
from strandline.engine.streams import Streams
from strandline.journal.port import AcceptAnswer, Accepted, Attached, Bounds, Refused, Reused, Unanswerable
from strandline.model import IfBusy, NewRun, OnDisconnect

Answer = Ticket | Refused | Attached | Reused | Unanswerable
"""The ticket of a run that was accepted, or what the journal has answered instead."""


class Acceptance:
    """Belongs to the serving loop."""

    def __init__(
        self,
        claims: Claims,
        control: Control,
        subscribers: Subscribers,
        streams: Streams,
        readiness: Readiness,
        standings: Standings,
        observer: Observer,
        options: Options,
    ) -> None:
        self._claims = claims
        self._control = control
        self._subscribers = subscribers
        self._streams = streams
        self._readiness = readiness
        self._standings = standings
        self._observer = observer
        self._on_disconnect = options.on_disconnect
        self._bounds = Bounds(
            options.max_queued_per_session,
            options.max_queued,
            per_principal=options.max_queued_per_principal,
            stored_bytes=options.max_stored_bytes_per_principal,
        )

    async def accept(self, new: NewRun, on_disconnect: OnDisconnect | None) -> Answer:
        """Return the ticket of a run that the journal has accepted, or what it has answered instead.

        `on_disconnect` None: what the service has as its default. Cancelling this does not undo an accept.
        """
        stream = self._streams.new(new.run_id, new.key)
        on_disconnect = on_disconnect or self._on_disconnect
        accept = asyncio.create_task(self._accept(new, on_disconnect))
        accept.add_done_callback(_looked_at)
        answer = await asyncio.shield(accept)
        if not isinstance(answer, Accepted):
            return answer
        position, stopped = answer.position, answer.stopped
        if self._readiness.draining and position:
            self._streams.later(new.run_id)
        return Ticket(
            run_id=new.run_id,
            key=new.key,
            position=position,
            estimated_wait_s=self._standings.wait_s(new.key, position) if position else 0.0,
            stream=stream,
            heeds=on_disconnect is not OnDisconnect.CONTINUE,
            stopped=() if stopped is None else (*stopped.asked, *stopped.ended),
            new=new,
        )

    async def _accept(self, new: NewRun, on_disconnect: OnDisconnect) -> AcceptAnswer:
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
            at = await self._standings.of_waiting(new.key, accepted.position)
            self._streams.queued(new.run_id, at.position, at.estimated_wait_s, at.why, at.input_requests)
        return accepted


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Note that whoever asked knows of a failure, or is not there any more."""
    if not task.cancelled():
        task.exception()
