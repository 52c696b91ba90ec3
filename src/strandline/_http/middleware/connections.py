"""The connections of a server's own process: how many there may be, how long each may take, how large a head may be.

uvicorn bounds none of that: a client that sends nothing, a byte a minute or an endless header would keep a file
descriptor and memory for good. What is owed decides. As long as a connection owes us a request (it has sent none, a
part of one, or has been answered) it is the client's turn: it has so much time, and among too many the one that has
taken longest goes. Once the request is here it is our turn, and the connection stays until it is answered; but whoever
takes nothing of an answer in that time is let go, too. When the server stops a request has less time to be here, and is
then refused as the routes refuse what comes while it stops: nothing of it was accepted.

Knows bytes and time, and nothing of what is asked but where, since that decides the form in which it is refused.
`asgi` in a server of somebody else has what that one offers.
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

MAX_HEAD_BYTES: Final = 16 * 1024
"""Of a request's line and headers; what servers and proxies allow is 8 to 64 KiB."""
MAX_HEADS_BYTES: Final = 8 * 1024 * 1024
"""Of all heads that are not whole yet, together: until they are, nobody knows whose they are."""
MAX_HEADERS: Final = 200
"""Of a request: one of four bytes takes a hundred in memory, and as long to read as a long one."""
HEADER_BYTES: Final = 150
"""What a header takes in memory besides its own bytes."""
MAX_BEHIND: Final = 16
"""Requests behind the one in work: one of 18 bytes takes some KB in memory, and they come 14,000 at a time."""
OF_FILES: Final = 3 / 4
"""Part of the files that a process may open which connections may be; journal and agents open files too."""


class Connection(uvicorn.Connection):
    """One connection: uvicorn's, with bounds."""

    # (With these in the dictionary of uvicorn's own attributes it would be 1.2 KB larger, for each connection.)
    __slots__ = (
        "_before",
        "_head_bytes",
        "_in_body",
        "_in_head",
        "_left_bytes",
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
        """How many bytes have come since a head was whole or a body grew: of a head, or of trailers, that never end."""
        self._before = 0
        """How many of a head there may be besides: it began behind something else, in the same piece."""
        self._head_bytes = 0
        """How much the limiter was told that this connection keeps of a head that is not whole."""
        self._in_head = False
        """Or in trailers, as far as anybody knows."""
        self._in_body = False
        self._upgrading: str | None = None
        """The version of HTTP of a request that wants another protocol."""
        self._unanswered: list[uvicorn.ServedRequest] = []
        self._left_bytes = 0
        """How much of what was written had not been taken when its time began."""
        self.probes_only = False
        self.url = b""

    # -- what is owed ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._limiter.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._limiter.left(self)
        for each in self._unanswered:  # (uvicorn tells the latest one only, and an earlier one would write to nobody)
            uvicorn.mark_disconnected(each)
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """End, once all that was written has been taken."""
        super().eof_received()
        self._has_to_take()

    def on_message_begin(self) -> None:
        """A request begins: its time does too, unless another one is still to be answered."""
        super().on_message_begin()
        self._in_head = True
        self._in_body = False
        self._upgrading = None
        if not self.has_unanswered_request():
            self._limiter.expects_request(self)

    def on_message_complete(self) -> None:
        """A request is here."""
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
            self._has_to_take()
        elif not self.has_unanswered_request():
            self._limiter.expects_request(self)

    # -- what is to be taken ----------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Much has been written that is not taken yet."""
        super().pause_writing()
        self._has_to_take()

    def resume_writing(self) -> None:
        """Most of it has been taken. (Of what is closed the rest has to be, too.)"""
        super().resume_writing()
        if not self.transport.is_closing():
            self._limiter.has_read(self)

    def timeout_keep_alive_handler(self) -> None:
        """Close it: nothing was asked any more."""
        super().timeout_keep_alive_handler()
        self._has_to_take()

    def took_too_little(self) -> None:
        """Close it if nothing was taken all the time; who is slow may be slow."""
        if self._not_taken() < self._left_bytes:
            self._has_to_take()
        else:
            if not self.transport.is_closing():  # (else it had ended before)
                self._limiter.on_end("not_taken")
            self.cut()

    def _has_to_take(self) -> None:
        self._left_bytes = self._not_taken()
        self._limiter.expects_reading(self)

    def _not_taken(self) -> int:
        """Return how many bytes wait for the client, those in the system too: it takes them in large portions."""
        size = self.transport.get_write_buffer_size()
        if sys.platform == "linux":
            import fcntl
            import termios

            # (closed by now, which has no descriptor, or a connection of another kind)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                file = self.transport.get_extra_info("socket").fileno()
                size += int.from_bytes(fcntl.ioctl(file, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return size

    # -- how large ------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Read on. Whoever wants another protocol is answered in this one, as all that do not know it have to."""
        if self.transport.is_closing():
            return
        self.stop_keeping_alive()
        rest = memoryview(data)
        while rest:  # (a read may be larger than any head, and what is behind one is not known to begin before it ends)
            if not self._read(rest[:MAX_HEAD_BYTES]):
                return
            rest = rest[MAX_HEAD_BYTES:]
        kept = self._unread + self._before
        if self._in_head:
            kept += HEADER_BYTES * len(self.headers)
        if kept != self._head_bytes:
            self._head_bytes = kept
            self._limiter.keeps(self, kept)

    def _read(self, piece: memoryview) -> bool:
        """Read a piece; return whether there is any use in reading on."""
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
        """The head is whole. What raises here makes `data_received` refuse it."""
        self._in_head = False
        if self._unread + self._before > MAX_HEAD_BYTES:  # (or a body came with it)
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
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if self._limiter.stops:
            self.close_after_response()

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was read, without what makes the parser take its body for another protocol.

        It would be lost, or be read as the next request: one that no proxy in front has looked at.
        """
        fields = b"".join(b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        first = (self.parser.get_method(), self.url, str(self._upgrading).encode())
        return b"%b %b HTTP/%b\r\n%b\r\n" % (*first, fields)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header in; not if it comes behind a body, where no proxy has looked at it."""
        if self._in_body:
            return
        if len(self.headers) == MAX_HEADERS:
            self._refuse_head()
            raise wire.HeadTooLarge
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """A chunk of a body begins, or trailers do."""
        self._in_head = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body in."""
        self._unread = self._before = 0
        self._in_head = False
        super().on_body(body)

    # -- farewells ------------------------------------------------------------------------------------

    def took_too_long(self, reason: StrandlineError) -> None:
        """Close it: the client has had its time. An answer that has begun without the whole body goes on."""
        request = self.latest_request()
        if request is not None and not request.response_complete:
            if request.response_started:
                return
            if uvicorn.is_body_paused(self, request) and not self._limiter.stops:
                self._limiter.expects_request(self)  # nobody has asked for its body yet: the time that passes is ours
                return
            uvicorn.mark_disconnected(request)  # so that whoever reads the body hears that there is no more
        elif not self._unread:
            if request is None and not self._limiter.stops:
                self.cut()
            elif request is None or self.is_kept_alive():
                self._limiter.expects_request(
                    self
                )  # it was answered, and stays for `keep_alive`: uvicorn has a timer for that
            else:
                self._close()  # it was answered early, and its body goes on, or has: uvicorn has no timer for that
            return
        self.refuse(reason)

    def shutdown(self) -> None:
        """Close it, now or once it has its answer; whose head is not whole yet hears why, in its time."""
        if not (self._limiter.stops and self._in_head and self._unread):
            super().shutdown()

    def cut(self) -> None:
        """Close it without a word: nothing was asked."""
        self.transport.abort()

    def take_probes_only(self, most: int) -> None:
        """Answer probes, and say to all others that there is no room."""
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
        """Say why, and close it."""
        if self.transport.is_closing():
            return
        self._limiter.on_end(error.code)
        if not self.has_unanswered_request():  # (else it would stand in the middle of an answer)
            self.transport.write(_as_bytes(self._limiter.render(wire.error_response(error), self._path())))
        self._close()

    def _path(self) -> str:
        """Return where the request goes that is coming, as far as it has said so."""
        try:
            path = parse_url(self.url).path if self.url else None
        except HttpParserInvalidURLError:
            path = None
        return urllib.parse.unquote((path or b"").decode("latin-1"))

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, as all errors are said."""
        self.refuse(wire.Malformed("this is no HTTP request"))

    def _close(self) -> None:
        self.transport.close()
        self._has_to_take()
        # It keeps nothing from here on: many more may be closed before any of them hears of its end.
        self.discard_head()

    def _refuse_head(self) -> None:
        most = f"at most {MAX_HEAD_BYTES} bytes, and there may be {MAX_HEADERS} of them"
        self.refuse(wire.HeadTooLarge(f"line and headers of a request may have {most}"))


class Connections:
    """Makes the connections of one server; `patience_s` is how long a request may take to come.

    `on_end` is told of each that is ended before its time, why; `render` puts what its client is told into the form of
    the path that it has asked at.
    """

    def __init__(self, *, most: int, patience_s: float, on_end: OnEnd = ignore_end, render: Render = plain) -> None:
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
        """Make one; uvicorn calls this for each that comes."""
        return Connection(config, server_state, app_state, _loop, limiter=self._limiter)

    def stop(self, error: StrandlineError, patience_s: float) -> None:
        """Refuse with `error` what is not here within `patience_s`, and keep no connection that was answered."""
        self._limiter.stop(error, patience_s)


def allowed(most: int) -> int:
    """Return how many of `most` connections the system lets this process have, after asking it for more files."""
    if sys.platform == "win32":
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = math.ceil((most + FOR_PROBES) / OF_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # (what a system does not grant, it does not grant)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, int(soft * OF_FILES) - FOR_PROBES))


def _as_bytes(response: Response) -> bytes:
    head = b"".join(b"%s: %s\r\n" % pair for pair in (*response.raw_headers, wire.NOSNIFF, (b"connection", b"close")))
    return b"".join((uvicorn.status_line(response.status_code), head, b"\r\n", bytes(response.body)))
