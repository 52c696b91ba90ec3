"""Events on the wire: server-sent events (WHATWG HTML, section 9.2), one response per subscriber.

An event's `id` is its number, `event` its type, `data` one line of JSON, which also has the type, the run and the time.
A transient event has no id, so that no client resumes after it. Nothing is buffered per subscriber: backpressure slows
only its own connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from strandline._encoding import encode
from strandline._engine.events import Event, Numbered, type_of
from strandline._engine.streams import LARGE, RunStream, Subscription, as_last
from strandline._http import wire
from strandline._http.exchange.input_requests import HowToAnswer, how_to_answer, open_requests
from strandline._http.forwardable import Forwardable, forwardable
from strandline._model import RunId, SessionId
from strandline.errors import Invalid, NotOwner

MEDIA_TYPE: Final = "text/event-stream"
FIRST_S: Final = 0.1
"""How long to wait for the first event before sending a comment. If the run starts at once, it takes one commit."""
ALIVE_S: Final = 15.0
"""The silence after which a comment is sent, for proxies that close silent connections."""
ALIVE: Final = b": alive\n\n"
_RETRY: Final = b"retry: 1000\n"
"""Milliseconds after which a disconnected client should reconnect. Sent in the block of the first event, because some
clients (httpx-sse) report a block of its own as an event without data."""
AT_ONCE_BYTES: Final = LARGE
"""Maximum of one write: what is buffered for a client that does not read."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventResponse(Response):
    """A response that streams a subscription until it or the connection ends.

    `frame` encodes an event, perhaps as no bytes; `left` is called with whether the client disconnected. `opening` is
    sent before all events, `closing()` after the last, when `before_closing` has returned. Without an `opening` the
    first event has `retry`, and a comment is sent if no event comes soon, for proxies that hold headers back until a
    body begins. With `continues` another server can resume the stream; at its end, the error that it returns is raised,
    and the response has no end.
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
        before_closing: Callable[[], Awaitable[None]] | None = None,
        continues: Callable[[Forwardable], NotOwner | None] | None = None,
    ) -> None:
        self._continues = continues
        self._events = events
        self._opening = opening
        self._closing = closing
        self._before_closing = before_closing
        self._frame = frame
        self._left = left
        self.status_code = wire.OK
        self.background = None
        self.init_headers({**_HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they or the connection end."""
        events = self._events
        passed = forwardable(scope)
        if scope["method"] == "HEAD":  # answered with headers only, which would never end: there is nothing to resume
            events.close()
            passed = None
        if passed is not None:
            passed.resumable = self._continues is not None
            passed.on_leave = events.close
            if passed.is_leaving:
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
                    if passed is not None and passed.resumable:
                        passed.last_id = _last_id(numbered, passed.last_id)
                    if events.is_behind:
                        await asyncio.sleep(0)  # a subscriber that catches up yields to others
                elif not events.is_over:
                    await send(_part(ALIVE))
                wait_s = ALIVE_S
            if passed is not None and self._continues is not None and (moved := self._continues(passed)) is not None:
                raise moved
            if not gone.done():
                if self._before_closing is not None:
                    await self._before_closing()
                await send(_part(self._closing(), more=False))
        finally:
            self._left(
                gone.done() and not events.is_read
            )  # (closing after the end, as browsers do, is not a disconnect)
            gone.cancel()


class RunEvents:
    """Encodes the events of a run in our own format, for the client of a request."""

    def __init__(self, stream: RunStream, scope: Scope) -> None:
        self._stream = stream
        self._scope = scope

    def opening(self) -> bytes:
        """Return nothing: the stream begins with the first event."""
        return b""

    def of(self, numbered: Numbered) -> bytes:
        """Return an encoded event. One with `answer` is not shared: its path depends on the client's request."""
        if open_requests(numbered.event):
            stream = self._stream
            return framed(numbered, stream.run_id, _answer(self._scope, stream.key.session_id, numbered.event))
        if self._stream.successor is not None:  # (most are those of another run, whose clients get another id)
            return self._framed(numbered)
        return self._stream.encode_once(numbered, self._framed)

    def _framed(self, numbered: Numbered) -> bytes:
        return framed(as_last(numbered), self._stream.run_id)

    def closing(self) -> bytes:
        """Return nothing: the last event is the end."""
        return b""


def framed_change(numbered: Numbered, scope: Scope) -> bytes:
    """Return an event of `/v1/events` in wire format."""
    if numbered.session_id is not None and open_requests(numbered.event):
        return framed(numbered, numbered.run_id, _answer(scope, numbered.session_id, numbered.event))
    return framed(numbered, numbered.run_id)


def framed(numbered: Numbered, run_id: RunId | None, answer: HowToAnswer | None = None) -> bytes:
    """Return an event in wire format; `answer` is how to answer the input requests that its run waits for."""
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
    """Return whether the client prefers events to a single answer."""
    accepted = ",".join(request.headers.getlist("accept")).lower()
    if MEDIA_TYPE not in accepted:  # (nearly all requests)
        return False
    weights = {MEDIA_TYPE: 0.0, "application/json": 0.0}
    for entry in accepted.split(","):
        kind, *parameters = [each.strip() for each in entry.split(";")]
        if kind in weights:
            weights[kind] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    return weights[MEDIA_TYPE] > 0 and weights[MEDIA_TYPE] >= weights["application/json"]


def last_event_id(request: Request) -> int:
    """Return the number after which a stream resumes; 0: from the beginning. Raises `Invalid`."""
    if (number := _event_id(request)) is None:
        raise Invalid("Last-Event-ID must be the id of an event, as sent with it")
    return number


def resumed_after(request: Request) -> int:
    """Return the number after which the stream of a requested run resumes; 0: from the beginning.

    The id may belong to another run: the exchange ignores those that this run cannot have sent.
    """
    return _event_id(request) or 0


def _event_id(request: Request) -> int | None:
    """Return the number in `Last-Event-ID`, 0 without one, None if it is not a possible id."""
    text = request.headers.get("last-event-id", "").strip() or "0"
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 17 else None


def _last_id(numbered: list[Numbered], before: int) -> int:
    """Return the last id among events as they are sent; `before` if none has one."""
    return next((number for each in reversed(numbered) if (number := as_last(each).number) is not None), before)


def _portions(body: bytes) -> Iterator[bytes]:
    """Yield the bytes in pieces of at most `AT_ONCE_BYTES`; none if they are empty."""
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
    """Return when the client disconnects; ignore the rest of its request."""
    while (await receive())["type"] != "http.disconnect":
        pass
