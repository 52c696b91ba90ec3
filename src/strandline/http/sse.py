"""The events of a run on the wire: server-sent events (WHATWG HTML, section 9.2), one response per subscriber.

An event's `id` is its number, its `event` the type, its `data` one line of JSON that has the type, the run and the time
too. What is told in passing has no id, so that nobody resumes after it. Nothing is kept for a subscriber: one that
reads slowly is slowed by its own connection.
"""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from strandline.encoding import encode, encode_messages
from strandline.engine.asked import Ticket
from strandline.engine.events import Numbered, TextDelta
from strandline.engine.service import Service
from strandline.engine.stream import Subscription
from strandline.errors import Invalid
from strandline.http import wire
from strandline.http.keys import REPLAYED
from strandline.model import RunId

MEDIA_TYPE: Final = "text/event-stream"
ALIVE_S: Final = 15.0
"""How long nothing is sent before a comment is, for proxies that end what is silent."""
_ALIVE: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds after which a client that lost its connection is to come back."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventResponse(Response):
    """A response that goes on as long as its subscription does, or its client."""

    media_type = MEDIA_TYPE

    def __init__(self, service: Service, events: Subscription, headers: dict[str, str] | None = None) -> None:
        self._service = service
        self._events = events
        self.status_code = wire.OK
        self.background = None
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Their end, or that of the connection, ends the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send(_part(_RETRY))
        events, run_id = self._events, self._events.run_id
        gone = asyncio.ensure_future(_gone(receive))
        gone.add_done_callback(lambda _: events.close())
        self._service.joined(run_id)
        try:
            while not events.is_over:
                told = await events.next(ALIVE_S)
                if told:
                    await send(_part(b"".join([frame(run_id, each) for each in told])))
                elif not events.is_over:
                    await send(_part(_ALIVE))
            if not gone.done():
                await send(_part(b"", more=False))
        finally:
            self._service.left(run_id, lost=gone.done())
            gone.cancel()


def event_response(service: Service, events: Subscription, headers: dict[str, str] | None = None) -> Response:
    """Return the response for whoever subscribes: nothing more, with a status that says so, once all has been read."""
    if events.has_read_the_end:
        return Response(status_code=wire.NO_CONTENT, headers=headers)
    return EventResponse(service, events, headers)


def ticket_events(service: Service, request: Request, ticket: Ticket) -> Response:
    """Return the events of a run that was asked for just now, or before under the same key."""
    headers = {"Location": wire.place(request.scope, f"/v1/runs/{ticket.run_id}")}
    if ticket.replayed:
        headers |= REPLAYED
    return event_response(service, ticket.stream.subscribe(last_event_id(request)), headers)


def frame(run_id: RunId, told: Numbered) -> bytes:
    """Return an event as it looks on the wire."""
    event = told.event
    data = encode(event) if isinstance(event, TextDelta) else encode_messages(event)
    at = encode(wire.timestamp(told.at))
    number = b"" if told.number is None else b"id: %d\n" % told.number
    kind = type(event).__struct_config__.tag
    return b'%bevent: %b\ndata: %b,"run_id":"%b","at":%b}\n\n' % (
        number, str(kind).encode(), data[:-1], run_id.encode(), at,
    )  # fmt: skip


def wants_events(request: Request) -> bool:
    """Tell whether the client would rather have events than one answer."""
    weights = {MEDIA_TYPE: 0.0, "application/json": 0.0}
    for entry in ",".join(request.headers.getlist("accept")).split(","):
        kind, *parameters = [each.strip().lower() for each in entry.split(";")]
        if kind in weights:
            weights[kind] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights[MEDIA_TYPE] > 0 and weights[MEDIA_TYPE] >= weights["application/json"]


def last_event_id(request: Request) -> int:
    """Return the number after which a client goes on; 0 is from the beginning. Raises `Invalid`."""
    text = request.headers.get("last-event-id", request.query_params.get("after", "")).strip() or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise Invalid("Last-Event-ID must be the id of an event of this run")
    return int(text)


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
