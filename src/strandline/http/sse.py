"""Events on the wire: server-sent events (WHATWG HTML, section 9.2), one response per subscriber.

An event's `id` is its number, its `event` the type, its `data` one line of JSON that has the type, the run and the time
too. What is told in passing has no id, so that nobody resumes after it. Nothing is kept for a subscriber: one that
reads slowly is slowed by its own connection.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from strandline.encoding import encode, encode_messages, encode_told
from strandline.engine.asked import Ticket
from strandline.engine.eventlog import Subscription
from strandline.engine.events import Numbered, RunFinished, type_of
from strandline.engine.service import Service
from strandline.engine.stream import RunStream
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
AT_ONCE_BYTES: Final = 64 * 1024
"""How much is sent in one go, if an event is not larger: what a client that reads nothing has waiting for it."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventResponse(Response):
    """A response that goes on as long as its subscription does, or its client.

    `frame` makes bytes of an event; `left` is told whether the client was lost.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: Subscription,
        frame: Callable[[Numbered], bytes],
        left: Callable[[bool], None],
        headers: dict[str, str] | None = None,
    ) -> None:
        self._events = events
        self._frame = frame
        self._left = left
        self.status_code = wire.OK
        self.background = None
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Their end, or that of the connection, ends the response."""
        events, frame = self._events, self._frame
        if scope["method"] == "HEAD":  # which is answered with headers alone, and would never know that it is over
            events.close()
        gone = asyncio.ensure_future(_gone(receive))
        gone.add_done_callback(lambda _: events.close())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send(_part(_RETRY))
            while not events.is_over:
                if told := await events.next(ALIVE_S):
                    for part in _portions(told, frame):
                        await send(_part(part))
                elif not events.is_over:
                    await send(_part(_ALIVE))
            if not gone.done():
                await send(_part(b"", more=False))
        finally:
            self._left(gone.done())
            gone.cancel()


def run_events(
    service: Service, request: Request, stream: RunStream, headers: dict[str, str] | None = None
) -> Response:
    """Return the events of a run as a response; nothing, with a status that says so, once all has been read."""
    after = last_event_id(request)
    if stream.is_read(after):
        return Response(status_code=wire.NO_CONTENT, headers=headers)
    run_id = stream.run_id
    service.joined(run_id)
    return EventResponse(
        stream.subscribe(after),
        lambda told: framed(told, run_id),
        lambda lost: service.left(run_id, lost=lost),
        headers,
    )


def ticket_events(service: Service, request: Request, ticket: Ticket) -> Response:
    """Return the events of a run that was asked for just now, or before under the same key."""
    headers = {"Location": wire.place(request.scope, f"/v1/runs/{ticket.run_id}")}
    if ticket.replayed:
        headers |= REPLAYED
    return run_events(service, request, ticket.stream, headers)


def framed(told: Numbered, run_id: RunId | None) -> bytes:
    """Return an event as it looks on the wire."""
    event = told.event
    data = encode_messages(event) if isinstance(event, RunFinished) else encode_told(event)
    about = b"" if run_id is None else b',"run_id":"%b"' % run_id.encode()
    if told.session_id is not None:
        about += b',"session_id":"%b"' % told.session_id.encode()
    number = b"" if told.number is None else b"id: %d\n" % told.number
    at = encode(wire.timestamp(told.at))
    return b'%bevent: %b\ndata: %b%b,"at":%b}\n\n' % (number, type_of(event).encode(), data[:-1], about, at)


def wants_events(request: Request) -> bool:
    """Tell whether the client would rather have events than one answer.

    Raises `Invalid` if it would, after an id that is none: to be asked before anything is accepted.
    """
    weights = {MEDIA_TYPE: 0.0, "application/json": 0.0}
    for entry in ",".join(request.headers.getlist("accept")).split(","):
        kind, *parameters = [each.strip().lower() for each in entry.split(";")]
        if kind in weights:
            weights[kind] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    if not weights[MEDIA_TYPE] > 0 or weights[MEDIA_TYPE] < weights["application/json"]:
        return False
    last_event_id(request)
    return True


def last_event_id(request: Request) -> int:
    """Return the number after which a client goes on; 0 is from the beginning. Raises `Invalid`."""
    text = request.headers.get("last-event-id", "").strip() or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 17):
        raise Invalid("Last-Event-ID must be the id of an event, as it was sent with it")
    return int(text)


def _portions(told: list[Numbered], frame: Callable[[Numbered], bytes]) -> Iterator[bytes]:
    """Yield the events as bytes, many at once if they are small."""
    frames: list[bytes] = []
    size = 0
    for each in told:
        frames.append(frame(each))
        size += len(frames[-1])
        if size >= AT_ONCE_BYTES:
            yield b"".join(frames)
            frames, size = [], 0
    if frames:
        yield b"".join(frames)


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
