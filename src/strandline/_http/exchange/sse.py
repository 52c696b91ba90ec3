"""Events on the wire: server-sent events (WHATWG HTML, section 9.2), one response per subscriber.

An event's `id` is its number, its `event` the type, its `data` one line of JSON that has the type, the run and the time
too. What is told in passing has no id, so that nobody resumes after it. Nothing is kept for a subscriber: one that
reads slowly is slowed by its own connection.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from strandline._encoding import encode
from strandline._engine.events import Event, Numbered, type_of
from strandline._engine.streams import LARGE, RunStream, Subscription, as_last
from strandline._http import wire
from strandline._http.exchange.input_requests import HowToAnswer, how_to_answer, open_requests
from strandline._model import RunId, SessionId
from strandline.errors import Invalid

MEDIA_TYPE: Final = "text/event-stream"
FIRST_S: Final = 0.1
"""How long the first event is waited for before a comment is sent; that of a run that starts at once takes a commit."""
ALIVE_S: Final = 15.0
"""How long nothing is sent before a comment is, for proxies that end what is silent."""
_ALIVE: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n"
"""Milliseconds after which a client that lost its connection is to come back. It stands in the block of the first
event: on its own it is a block that some readers (httpx-sse) hand on as an event without data."""
AT_ONCE_BYTES: Final = LARGE
"""How much is sent in one go, at most: what a client that reads nothing has waiting for it."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventResponse(Response):
    """A response that goes on as long as its subscription does, or its client.

    `frame` makes bytes of an event, which may be none; `left` is told whether the client was lost. `opening` is sent
    before all events, `closing()` after the last one. Without an `opening` the first event says when to come back, and
    where none comes soon a comment is sent, for proxies that hold back headers until a body begins.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: Subscription,
        frame: Callable[[Numbered], bytes],
        left: Callable[[bool], None],
        headers: Mapping[str, str] | None = None,
        *,
        opening: bytes = b"",
        closing: Callable[[], bytes] = bytes,
    ) -> None:
        self._events = events
        self._opening = opening
        self._closing = closing
        self._frame = frame
        self._left = left
        self.status_code = wire.OK
        self.background = None
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Their end, or that of the connection, ends the response."""
        events = self._events
        if scope["method"] == "HEAD":  # which is answered with headers alone, and would never know that it is over
            events.close()
        gone = asyncio.ensure_future(disconnected(receive))
        gone.add_done_callback(lambda _: events.close())
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            before, wait_s = _RETRY, FIRST_S
            if self._opening:
                await send(_part(self._opening))
                before, wait_s = b"", ALIVE_S
            while not events.is_over:
                if numbered := await events.next(wait_s):
                    for portion in _portions(b"".join([before, *map(self._frame, numbered)])):
                        await send(_part(portion))
                        before = b""
                    if events.is_behind:
                        await asyncio.sleep(0)  # who has much to catch up with leaves the loop to others in between
                elif not events.is_over:
                    await send(_part(_ALIVE))
                wait_s = ALIVE_S
            if not gone.done():
                await send(_part(self._closing(), more=False))
        finally:
            self._left(gone.done() and not events.is_read)  # (who leaves at the end, as browsers do, is not lost)
            gone.cancel()


class RunEvents:
    """Writes the events of a run in our own form, for the client of a request."""

    def __init__(self, stream: RunStream, scope: Scope) -> None:
        self._stream = stream
        self._scope = scope

    def opening(self) -> bytes:
        """Return nothing: the first event is the first that is sent."""
        return b""

    def of(self, numbered: Numbered) -> bytes:
        """Return an event. One that says how to answer is made anew: clients may reach this app by several paths."""
        if open_requests(numbered.event):
            stream = self._stream
            return framed(numbered, stream.run_id, _answer(self._scope, stream.key.session_id, numbered.event))
        return self._stream.encode_once(numbered, self._framed)

    def _framed(self, numbered: Numbered) -> bytes:
        return framed(as_last(numbered), self._stream.run_id)

    def closing(self) -> bytes:
        """Return nothing: the end is an event."""
        return b""


def framed_change(numbered: Numbered, scope: Scope) -> bytes:
    """Return an event of any run or session as it looks on the wire."""
    if numbered.session_id is not None and open_requests(numbered.event):
        return framed(numbered, numbered.run_id, _answer(scope, numbered.session_id, numbered.event))
    return framed(numbered, numbered.run_id)


def framed(numbered: Numbered, run_id: RunId | None, answer: HowToAnswer | None = None) -> bytes:
    """Return an event as it looks on the wire; `answer` is how to answer what its run waits for."""
    event = numbered.event
    about = b"" if run_id is None else b',"run_id":"%b"' % run_id.encode()
    if numbered.session_id is not None:
        about += b',"session_id":"%b"' % numbered.session_id.encode()
    if answer is not None:
        about += b',"answer":' + encode(answer)
    number = b"" if numbered.number is None else b"id: %d\n" % numbered.number
    line = (number, type_of(event).encode(), encode(event)[:-1], about, encode(wire.timestamp(numbered.at)))
    return b'%bevent: %b\ndata: %b%b,"at":%b}\n\n' % line


def wants_events(request: Request) -> bool:
    """Return whether the client would rather have events than one answer."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    if MEDIA_TYPE not in accepted:  # (as of nearly all)
        return False
    weights = {MEDIA_TYPE: 0.0, "application/json": 0.0}
    for entry in accepted.split(","):
        kind, *parameters = [each.strip() for each in entry.split(";")]
        if kind in weights:
            weights[kind] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights[MEDIA_TYPE] > 0 and weights[MEDIA_TYPE] >= weights["application/json"]


def last_event_id(request: Request) -> int:
    """Return the number after which a client goes on; 0 is from the beginning. Raises `Invalid`."""
    if (number := _event_id(request)) is None:
        raise Invalid("Last-Event-ID must be the id of an event, as it was sent with it")
    return number


def resumed_after(request: Request) -> int:
    """Return the number after which the client of a request for a run goes on; 0 is from the beginning.

    Its id may be one of another run, and as far as it cannot be told from one of this run, it counts.
    """
    return _event_id(request) or 0


def _event_id(request: Request) -> int | None:
    """Return the number in `Last-Event-ID`, 0 without one, None if no event of ours can have it."""
    text = request.headers.get("last-event-id", "").strip() or "0"
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 17 else None


def _portions(body: bytes) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `AT_ONCE_BYTES` at most; nothing of nothing."""
    for start in range(0, len(body), AT_ONCE_BYTES):
        yield body[start : start + AT_ONCE_BYTES]


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _answer(scope: Scope, session: SessionId, event: Event) -> HowToAnswer:
    return how_to_answer(scope, session, open_requests(event))


def _part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def disconnected(receive: Receive) -> None:
    """Return when the client has left; whatever still comes of its request is of no interest."""
    while (await receive())["type"] != "http.disconnect":
        pass
