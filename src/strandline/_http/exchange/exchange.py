"""One exchange for all dialects: submit the run, then wait for its end or stream its events.

A dialect reads a request into a `RunRequest` and writes the answer. Everything between is only here: idempotency keys,
disconnects, resumed streams, and a stopping server. Knows no dialect.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from strandline._engine.admission import Ticket
from strandline._engine.events import Numbered
from strandline._engine.reading import RunView
from strandline._engine.service import Service
from strandline._engine.streams import Later, RunStream
from strandline._http import wire
from strandline._http.audit import interrupted
from strandline._http.caller import principal_of
from strandline._http.exchange.idempotency import REPLAYED, idempotency_key
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, RunRequest, under_token
from strandline._http.exchange.sse import EventResponse, RunEvents, disconnected
from strandline._http.forwardable import Forwardable, counts_client, forwardable, left_of
from strandline._model import OnDisconnect, Outcome, RunId
from strandline.errors import JournalUnavailable, NotOwner

T = TypeVar("T")


class Accepted(Struct, frozen=True):
    """An accepted run and its request."""

    request: Request
    run_request: RunRequest
    ticket: Ticket
    keyed: bool
    """Whether the request has an idempotency key, so that it can be repeated for the same run."""

    @property
    def location(self) -> str:
        """The path of the run for its client."""
        return wire.client_path(self.request.scope, f"/v1/runs/{self.ticket.run_id}")

    def come_back(self, retry_after_s: float) -> dict[str, str]:
        """Return the headers with the path of the run, and when to read it."""
        return {"Location": self.location, **wire.retry_after(retry_after_s)}

    @property
    def replayed(self) -> Mapping[str, str]:
        """The header for a run that had already ended, under the same key."""
        return REPLAYED if self.ticket.replayed else {}


class Frames(Protocol):
    """Encodes the events of one run for one client."""

    def opening(self) -> bytes:
        """Return the bytes before all events, often none."""
        ...

    def of(self, numbered: Numbered) -> bytes:
        """Return the bytes of an event, often none."""
        ...

    def closing(self) -> bytes:
        """Return the bytes after the last event."""
        ...


@runtime_checkable
class EndingFrames(Frames, Protocol):
    """Frames whose last bytes need something that has to be read first."""

    async def before_closing(self) -> None:
        """Read it, after the last event."""
        ...


class Dialect(Protocol):
    """A protocol in which clients submit runs and get answers."""

    async def parse(self, request: Request) -> RunRequest:
        """Return the run request in an HTTP request. Raises `CallerError`."""
        ...

    def accepted(self, run: Accepted) -> None:
        """Called when a run is accepted. It may have ended since."""
        return

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the answer. `Later`: the run has not ended, and continues here or after a restart."""
        ...

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the encoder of a run's events, and the headers of their response."""
        ...


class ClientsServerStops(Exception):
    """The server of a client of another server stops: the answer is that the run continues."""


class Exchange:
    """Submits runs to the service, and returns their answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, dialect: Dialect, request: Request) -> Response:
        """Answer a request for a run. Once accepted, it survives its client unless `on_disconnect` says otherwise."""
        run_request = under_token(request, await dialect.parse(request))
        key = idempotency_key(request) or run_request.key_in_body
        passed = forwardable(request.scope)
        run_id = None if passed is None else self._run_id(passed, run_request)
        waited_s = passed.waited_s if passed is not None and passed.again else None
        if run_request.options.on_disconnect is not OnDisconnect.CONTINUE:  # (the session's options may have another)
            counts_client(request)
        try:
            ticket = await self._service.submit(
                run_request.for_service(key),
                run_id=run_id,
                sent_before_s=waited_s,
                resolution=run_request.resolution,
                again=run_request.again,
                listed=run_request.listed,
                unless_last=run_request.unless_last,
            )
        except JournalUnavailable as error:
            if waited_s is None:
                raise
            raise wire.AnswerLost(f"whether the run was accepted before cannot be read now: {error}") from error
        if passed is not None:
            passed.again = passed.accepted = True
        interrupted(request, ticket)
        run = Accepted(request, run_request, ticket, key is not None)
        dialect.accepted(run)
        if run_request.as_events:
            frames, headers = dialect.events(run)
            return self.stream(ticket.stream, frames, headers, after=_had(ticket, run_request.after))
        end: Outcome | Later = Later.LATER
        if run_request.wait_s is not None:
            answer = _end_of(ticket.stream, left_of(request, run_request.wait_s))
            with suppress(ClientsServerStops):
                end = await self.while_connected(request, ticket.run_id, answer)
            if passed is not None and (moved := self.continues_elsewhere(passed, ticket.stream)) is not None:
                raise moved
        return await dialect.answer(run, end)

    def _run_id(self, passed: Forwardable, run_request: RunRequest) -> RunId:
        """Return the id for a requested run, which another server may have to answer."""
        if passed.run_id is None:
            passed.run_id = self._service.new_run_id(run_request.key)
        return passed.run_id

    def continues_elsewhere(self, passed: Forwardable, stream: RunStream) -> NotOwner | None:
        """Return the error if the run of a stream that has ended continues at another server, or will soon.

        A server that stops sends the requests of other servers back to them, and its own clients away.
        """
        stops = passed.forwarded and self._service.stopping
        if stream.is_postponed and (stops or not self._service.ownership.owns(stream.key)):
            return self._service.ownership.moved(stream.key)
        return None

    def _sends_away(self, request: Request) -> bool:
        """Return whether a server that stops sends a request back to the server that it came from."""
        passed = forwardable(request.scope)
        return passed is not None and passed.forwarded and self._service.stopping

    async def while_connected(self, request: Request, run_id: RunId, answer: "asyncio.Future[T]") -> T:
        """Return the result of `answer`. Raises `ClientDisconnect` if the client disconnects first.

        `answer` is then cancelled, which frees its memory at once. Raises `ClientsServerStops` likewise.
        """
        gone = asyncio.ensure_future(disconnected(request.receive))
        gone.add_done_callback(lambda _: answer.cancel())
        if (passed := forwardable(request.scope)) is not None:
            passed.on_leave = answer.cancel
            if passed.is_leaving:
                answer.cancel()
        self._service.joined(run_id)
        lost = False
        try:
            return await answer
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                lost = True
                raise ClientDisconnect from gone.exception()
            if passed is not None and passed.is_leaving:
                raise ClientsServerStops from None
            raise
        finally:
            self._service.left(run_id, lost=lost)
            gone.cancel()

    async def run(self, request: Request, run_id: RunId, wait_s: float | None) -> RunView:
        """Return a run; with `wait_s`, once it has ended or after so many seconds. Raises `NotFound`, `NotOwner`."""
        principal = principal_of(request)
        if wait_s is not None:
            counts_client(request)
        view = await self._service.run(
            principal, run_id
        )  # (fails for another caller's run, before this client is counted)
        if wait_s is not None and view.run.outcome is None:
            waiting = asyncio.ensure_future(self._service.wait(principal, run_id, left_of(request, wait_s)))
            with suppress(ClientsServerStops):
                view = await self.while_connected(request, run_id, waiting)
            if view.run.outcome is None and self._sends_away(request):
                raise self._service.ownership.moved(view.run.key)
        return view

    def stream(self, stream: RunStream, frames: Frames, headers: Mapping[str, str], *, after: int) -> Response:
        """Return the events of a run after number `after`; 204 if the client has read them all."""
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
            before_closing=frames.before_closing if isinstance(frames, EndingFrames) else None,
            continues=partial(self.continues_elsewhere, stream=stream) if isinstance(frames, RunEvents) else None,
        )


def _had(ticket: Ticket, after: int) -> int:
    """Return the last event of the run that its client has read; 0: none.

    An id sent with a new run belongs to another run, and so does one that the run has not published.
    """
    stream = ticket.stream
    return after if ticket.attached and (after <= stream.last or stream.is_read(after)) else 0


def _end_of(stream: RunStream, wait_s: float) -> "asyncio.Future[Outcome | Later]":
    """Return a future of the run's end, or of `Later` after `wait_s` seconds."""
    end = stream.outcome()
    return end if wait_s == UNTIL_IT_ENDS else asyncio.ensure_future(_within(end, wait_s))


async def _within(end: "asyncio.Future[Outcome | Later]", wait_s: float) -> Outcome | Later:
    try:
        return await asyncio.wait_for(end, wait_s)
    except TimeoutError:
        return Later.LATER
