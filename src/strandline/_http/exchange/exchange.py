"""One exchange for every dialect: the run is submitted, its end is waited for or its events are streamed.

A dialect reads a request into a `RunRequest`, and writes what comes of the run. Everything between is here and nowhere
else: the key under which a request may be sent again, clients that are lost, where a stream goes on, and a server that
stops. No dialect is known here.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol, TypeVar

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from strandline._engine.admission import Ticket
from strandline._engine.events import Numbered
from strandline._engine.service import Service
from strandline._engine.streams import Later, RunStream
from strandline._http import wire
from strandline._http.audit import interrupted
from strandline._http.exchange.idempotency import REPLAYED, idempotency_key
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, RunRequest
from strandline._http.exchange.sse import EventResponse, disconnected
from strandline._model import Outcome, RunId

T = TypeVar("T")


class Accepted(Struct, frozen=True):
    """A run that was accepted for a request."""

    request: Request
    run_request: RunRequest
    ticket: Ticket
    keyed: bool
    """Whether the same request, sent again, is answered by this run: it has an `Idempotency-Key`."""

    @property
    def location(self) -> str:
        """Where its client reads it."""
        return wire.place(self.request.scope, f"/v1/runs/{self.ticket.run_id}")

    def come_back(self, retry_after_s: float) -> dict[str, str]:
        """Return the headers that tell a client where and when to ask for the end."""
        return {"Location": self.location, **wire.retry_after(retry_after_s)}

    @property
    def replayed(self) -> Mapping[str, str]:
        """The header that says so if it had ended before, under the same key."""
        return REPLAYED if self.ticket.replayed else {}


class Frames(Protocol):
    """Writes the events of one run for one client."""

    def opening(self) -> bytes:
        """Return what is sent before all events, often nothing."""
        ...

    def of(self, numbered: Numbered) -> bytes:
        """Return what is sent of an event, often nothing."""
        ...

    def closing(self) -> bytes:
        """Return what ends the stream."""
        ...


class Dialect(Protocol):
    """How clients of one kind ask for runs, and are answered."""

    async def parse(self, request: Request) -> RunRequest:
        """Return what a request asks for. Raises errors of the caller."""
        ...

    def accepted(self, run: Accepted) -> None:
        """Note that a run was accepted; it may have ended by now."""
        return

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the one answer. `Later`: the run goes on, here or after a restart."""
        ...

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return what writes the events of a run, and the headers of the answer that has them."""
        ...


class Exchange:
    """Asks the service for what clients want."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, dialect: Dialect, request: Request) -> Response:
        """Answer a request for a run. Once it is accepted, a client that leaves ends it only if it wants that."""
        run_request = await dialect.parse(request)
        key = idempotency_key(request)
        ticket = await self._service.submit(run_request.for_service(key))
        interrupted(request, ticket)
        run = Accepted(request, run_request, ticket, key is not None)
        dialect.accepted(run)
        if run_request.as_events:
            frames, headers = dialect.events(run)
            return self.stream(ticket.stream, frames, headers, after=_had(ticket, run_request.after))
        end: Outcome | Later = Later.LATER
        if run_request.wait_s is not None:
            end = await self.while_connected(request, ticket.run_id, _end_of(ticket.stream, run_request.wait_s))
        return await dialect.answer(run, end)

    async def while_connected(self, request: Request, run_id: RunId, answer: "asyncio.Future[T]") -> T:
        """Return what `answer` comes to, for which a client waits. Raises `ClientDisconnect` if it leaves before.

        Nobody is left to be answered then: `answer` is cancelled, and what it takes in memory is free at once.
        """
        gone = asyncio.ensure_future(disconnected(request.receive))
        gone.add_done_callback(lambda _: answer.cancel())
        self._service.joined(run_id)
        lost = False
        try:
            return await answer
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                lost = True
                raise ClientDisconnect from gone.exception()
            raise
        finally:
            self._service.left(run_id, lost=lost)
            gone.cancel()

    def stream(self, stream: RunStream, frames: Frames, headers: Mapping[str, str], *, after: int) -> Response:
        """Return the events of a run after number `after`; nothing, with a status that says so, if all are read."""
        if stream.is_read(after):
            return Response(status_code=wire.NO_CONTENT, headers=headers)
        run_id = stream.run_id
        self._service.joined(run_id)
        return EventResponse(
            stream.subscribe(after),
            frames.of,
            lambda lost: self._service.left(run_id, lost=lost),
            headers,
            opening=frames.opening(),
            closing=frames.closing,
        )


def _had(ticket: Ticket, after: int) -> int:
    """Return the last event that the client of a request has had of its run; 0: none.

    An id that comes with a new run is one of another run, and so is one that its run has not told yet.
    """
    stream = ticket.stream
    return after if ticket.attached and (after <= stream.last or stream.is_read(after)) else 0


def _end_of(stream: RunStream, wait_s: float) -> "asyncio.Future[Outcome | Later]":
    """Return a future of the end of a run, or of `Later` after `wait_s` seconds."""
    end = stream.outcome()
    return end if wait_s == UNTIL_IT_ENDS else asyncio.ensure_future(_within(end, wait_s))


async def _within(end: "asyncio.Future[Outcome | Later]", wait_s: float) -> Outcome | Later:
    try:
        return await asyncio.wait_for(end, wait_s)
    except TimeoutError:
        return Later.LATER
