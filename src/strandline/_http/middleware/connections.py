"""The connections of a server in its own process: limits their number, their time, and the size of request heads.

uvicorn limits none of these: a client that sends nothing, a byte a minute or an endless header would keep a file
descriptor and memory forever. While we wait for a request (none or only a part has arrived, or the last one is
answered), it is the client's turn: its time is limited, and at the limit of connections the longest-idle one is closed.
Once the request has arrived it is our turn, and the connection stays open until it is answered, unless the client reads
nothing of the answer for too long. While the server stops, requests have less time to arrive, and are then refused like
other requests to a stopping server: nothing of them was accepted.

Knows bytes and time, and of a request only its path, which decides the format of errors. In another program's server
(`asgi`), that server's own limits apply.
"""

import asyncio
import contextlib
import math
import sys
import urllib.parse
from typing import Any, Final

from httptools import HttpParserError, HttpParserInvalidURLError, HttpParserUpgrade, parse_url
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from strandline._compat import uvicorn
from strandline._http import wire
from strandline._http.middleware.connection_limiter import (
    FOR_PROBES,
    ConnectionLimiter,
    OnEnd,
    Render,
    ignore_end,
    plain,
)
from strandline._http.middleware.guard import EXEMPT
from strandline.errors import StrandlineError

CUT: Final = "strandline.cut"
"""The key of a function in a request's scope that closes its connection although its response is not complete."""
MAX_HEAD_BYTES: Final = 16 * 1024
"""Maximum of a request's line and headers. Other servers and proxies allow 8 to 64 KiB."""
MAX_HEADS_BYTES: Final = 8 * 1024 * 1024
"""Maximum of all incomplete heads together, whose callers are not known yet."""
MAX_HEADERS: Final = 200
"""Maximum of a request's headers: one of four bytes takes a hundred in memory, and as much time as a long one."""
HEADER_BYTES: Final = 150
"""Memory for a header besides its own bytes."""
MAX_BEHIND: Final = 16
"""Maximum of pipelined requests: one of 18 bytes takes some KB in memory, and 14,000 can arrive at once."""
OF_FILES: Final = 3 / 4
"""The share of a process's file limit for connections; journal and agents open files too."""


class Connection(uvicorn.Connection):
    """One connection: uvicorn's, with limits."""

    # (In uvicorn's own attribute dictionary these would take 1.2 KB more per connection.)
    __slots__ = (
        "_before",
        "_bytes_to_read",
        "_head_bytes",
        "_in_body",
        "_in_head",
        "_limiter",
        "_unanswered",
        "_unread",
        "_upgrading",
        "probes_only",
    )

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: uvicorn.ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limiter: ConnectionLimiter,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limiter = limiter
        self._unread = 0
        """Bytes received since the last complete head or piece of body: part of a head or of trailers."""
        self._before = 0
        """Further bytes that may belong to the head, which began within the previous piece."""
        self._head_bytes = 0
        """The size of the incomplete head that was last reported to the limiter."""
        self._in_head = False
        """Also true if it may be in trailers."""
        self._in_body = False
        self._upgrading: str | None = None
        """The HTTP version of a request that asks for another protocol."""
        self._unanswered: list[uvicorn.ServedRequest] = []
        self._bytes_to_read = 0
        """Bytes that the client had not read when its time began."""
        self.probes_only = False
        self.url = b""

    # -- requests and answers ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection."""
        super().connection_made(transport)
        self._limiter.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the connection."""
        self._limiter.left(self)
        for each in (
            self._unanswered
        ):  # (uvicorn notifies only the latest one; earlier ones would write to a closed connection)
            uvicorn.mark_disconnected(each)
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """Close it once the client has read everything."""
        super().eof_received()
        self._expect_reading()

    def on_message_begin(self) -> None:
        """A request begins, and its time too, unless an earlier one is still being answered."""
        super().on_message_begin()
        self._in_head = True
        self._in_body = False
        self._upgrading = None
        if not self.has_unanswered_request():
            self._limiter.expects_request(self)

    def on_message_complete(self) -> None:
        """A request has arrived."""
        if self._upgrading is not None:
            return
        super().on_message_complete()
        self._in_head = self._in_body = False
        self._unread = self._before = 0
        if self.has_unanswered_request():
            self._limiter.has_request(self)

    def on_response_complete(self) -> None:
        """A request is answered."""
        self._unanswered.pop(0)
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reading()
        elif not self.has_unanswered_request():
            self._limiter.expects_request(self)

    # -- reading by the client ----------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client does not keep up with reading."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """The client has read most of it. (Before a close, it must read the rest too.)"""
        super().resume_writing()
        if not self.transport.is_closing():
            self._limiter.has_read(self)

    def timeout_keep_alive_handler(self) -> None:
        """Close it: it is idle."""
        super().timeout_keep_alive_handler()
        self._expect_reading()

    def took_too_little(self) -> None:
        """Close it if the client has read nothing at all; slow clients may stay."""
        if self._unread_bytes() < self._bytes_to_read:
            self._expect_reading()
        else:
            if not self.transport.is_closing():  # (else it was already closing)
                self._limiter.on_end("not_taken")
            self.cut()

    def _expect_reading(self) -> None:
        self._bytes_to_read = self._unread_bytes()
        self._limiter.expects_reading(self)

    def _unread_bytes(self) -> int:
        """Return how many bytes the client has not read, including those in the kernel's buffer."""
        size = self.transport.get_write_buffer_size()
        if sys.platform == "linux":
            import fcntl
            import termios

            # (closed, so without a descriptor, or another kind of connection)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                file = self.transport.get_extra_info("socket").fileno()
                size += int.from_bytes(fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return size

    # -- sizes ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read data. A request for another protocol is answered in this one, as HTTP requires."""
        if self.transport.is_closing():
            return
        self.stop_keeping_alive()
        rest = memoryview(data)
        while rest:  # (one read may have several heads, whose sizes are known only as each ends)
            if not self._read(rest[:MAX_HEAD_BYTES]):
                return
            rest = rest[MAX_HEAD_BYTES:]
        head_bytes = self._unread + self._before
        if self._in_head:
            head_bytes += HEADER_BYTES * len(self.headers)
        if head_bytes != self._head_bytes:
            self._head_bytes = head_bytes
            self._limiter.keeps(self, head_bytes)

    def _read(self, piece: memoryview) -> bool:
        """Parse a piece; return whether to continue."""
        size = len(piece)
        self._unread += size
        try:
            while piece:
                try:
                    self.parser.feed_data(piece)
                    break
                except HttpParserUpgrade as upgrade:
                    piece = piece[upgrade.args[0] :]
                    self.parser.feed_data(self._head_without_upgrade())
        except HttpParserError:
            self.send_400_response("")
            return False
        if self._unread > MAX_HEAD_BYTES:
            self._refuse_head()
            return False
        if self._in_head and not self._unread:
            self._before = size
        return not self.transport.is_closing()

    def on_headers_complete(self) -> None:
        """The head is complete. An exception makes `data_received` refuse it."""
        self._in_head = False
        if self._unread + self._before > MAX_HEAD_BYTES:  # (or part of it is body)
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                self._refuse_head()
                raise wire.HeadTooLarge
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise wire.Malformed
            self._upgrading = self.parser.get_http_version()
            self._before = 0
            return
        if self.behind() == MAX_BEHIND:
            self._limiter.on_end("too_many_behind")
            self._close()
            raise wire.Malformed
        self._unread = self._before = 0
        self._in_body = True
        self.scope[CUT] = self.cut_answer  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if self._limiter.stops:
            self.close_after_response()

    def _head_without_upgrade(self) -> bytes:
        """Return the head without `Upgrade`, which makes the parser treat the body as another protocol.

        The body would be lost, or be parsed as a next request that no proxy has checked.
        """
        fields = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        first = (self.parser.get_method(), self.url, str(self._upgrading).encode())
        return b"%b %b HTTP/%b\r\n%b\r\n" % (*first, fields)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Accept a header, but not a trailer, which proxies do not check."""
        if self._in_body:
            return
        if len(self.headers) == MAX_HEADERS:
            self._refuse_head()
            raise wire.HeadTooLarge
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk of a body begins, or its trailers."""
        self._in_head = True

    def on_body(self, body: bytes) -> None:
        """Accept a piece of a body."""
        self._unread = self._before = 0
        self._in_head = False
        super().on_body(body)

    # -- closing --------------------------------------------------------------------------------------

    def took_too_long(self, reason: StrandlineError) -> None:
        """Close it: its request did not arrive in time. An answer that has already begun continues."""
        request = self.latest_request()
        if request is not None and not request.response_complete:
            if request.response_started:
                return
            if uvicorn.is_body_paused(self, request) and not self._limiter.stops:
                self._limiter.expects_request(self)  # the app does not read the body yet: it is our turn
                return
            uvicorn.mark_disconnected(request)  # so that the app stops waiting for the body
        elif not self._unread:
            if request is None and not self._limiter.stops:
                self.cut()
            elif request is None or self.is_kept_alive():
                self._limiter.expects_request(self)  # answered and idle: uvicorn has a timer (`keep_alive`)
            else:
                self._close()  # answered early, while its body arrives: uvicorn has no timer
            return
        self.refuse(reason)

    def shutdown(self) -> None:
        """Close it, now or after its answer. A request whose head is incomplete gets an error when its time is over."""
        if not (self._limiter.stops and self._in_head and self._unread):
            super().shutdown()

    def cut(self) -> None:
        """Close it without an answer."""
        self.transport.abort()

    def cut_answer(self) -> None:
        """Close it in the middle of an answer that must not look complete. What was sent still arrives."""
        if (request := self.latest_request()) is not None:
            uvicorn.mark_disconnected(request)
        self.transport.close()

    def take_probes_only(self, most: int) -> None:
        """Answer probes; refuse all other requests."""
        self.probes_only = True
        app = self.app

        async def probes(scope: Scope, receive: Receive, send: Send) -> None:
            if wire.inner_path(scope) in EXEMPT:
                await app(scope, receive, send)
            else:
                self._limiter.on_end(wire.NoConnectionLeft.code)
                answer = self._limiter.render(wire.error_response(wire.NoConnectionLeft(most)), wire.inner_path(scope))
                answer.headers["connection"] = "close"
                answer.raw_headers.append(wire.NOSNIFF)
                await answer(scope, receive, send)

        self.app = probes

    def refuse(self, error: StrandlineError) -> None:
        """Send an error and close it."""
        if self.transport.is_closing():
            return
        self._limiter.on_end(error.code)
        if not self.has_unanswered_request():  # (else it would be in the middle of an answer)
            self.transport.write(_as_bytes(self._limiter.render(wire.error_response(error), self._path())))
        self._close()

    def _path(self) -> str:
        """Return the path of the arriving request, as far as it is known."""
        try:
            path = parse_url(self.url).path if self.url else None
        except HttpParserInvalidURLError:
            path = None
        return urllib.parse.unquote((path or b"").decode("latin-1"))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the format of other errors."""
        self.refuse(wire.Malformed("this is not an HTTP request"))

    def _close(self) -> None:
        self.transport.close()
        self._expect_reading()
        # Free its head now: many connections may close before `connection_lost` is called for any.
        self.discard_head()

    def _refuse_head(self) -> None:
        most = f"at most {MAX_HEAD_BYTES} bytes, and at most {MAX_HEADERS} headers"
        self.refuse(wire.HeadTooLarge(f"the line and headers of a request may have {most}"))


class Connections:
    """Creates the connections of one server; `patience_s` is how long a request may take to arrive.

    `on_end` is called with the reason of each early close; `render` formats an error for the request's path.
    """

    def __init__(self, *, most: int, patience_s: float, on_end: OnEnd = ignore_end, render: Render = plain) -> None:
        self.most = most
        self._limiter = ConnectionLimiter(
            most=most, most_head_bytes=MAX_HEADS_BYTES, patience_s=patience_s, on_end=on_end, render=render
        )

    def __call__(
        self,
        config: uvicorn.Config,
        server_state: uvicorn.ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """Create a connection. uvicorn calls this for each one."""
        return Connection(config, server_state, app_state, _loop, limiter=self._limiter)

    def stop(self, error: StrandlineError, patience_s: float) -> None:
        """Refuse with `error` requests that have not arrived within `patience_s`, and close answered connections."""
        self._limiter.stop(error, patience_s)


def allowed(most: int, *, files_each: int = 1) -> int:
    """Return how many of `most` connections the system allows, after raising the limit of open files.

    `files_each` is how many files a connection may take, with those that are opened because of it.
    """
    if sys.platform == "win32":
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = math.ceil((most * files_each + FOR_PROBES) / OF_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # (the system may refuse)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (int(soft * OF_FILES) - FOR_PROBES) // files_each))


def _as_bytes(response: Response) -> bytes:
    head = b"".join(b"%s: %s\r\n" % pair for pair in (*response.raw_headers, wire.NOSNIFF, (b"connection", b"close")))
    return b"".join((uvicorn.status_line(response.status_code), head, b"\r\n", bytes(response.body)))
