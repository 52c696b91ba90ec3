"""What a connection does with what it reads, and when it ends: on virtual time, without sockets."""

import asyncio
import json
import logging
import re
import resource
import socket
from collections.abc import Callable
from typing import Any, Final, cast

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from logged import ours
from strandline._http.middleware import connections as room
from strandline._http.middleware.connection_limiter import FOR_PROBES
from strandline._http.middleware.connections import (
    HEADER_BYTES,
    MAX_BEHIND,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    Connection,
    Connections,
    allowed,
)
from strandline._telemetry.recorder import MetricsRecorder
from strandline.errors import Draining
from strandline.testing._virtual import VirtualClock, run_virtual


def test_connections_get_three_quarters_of_the_files_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.__setitem__(slice(None), new))
    assert allowed(600) == 600
    assert limits == [1024, 4096]
    assert allowed(1_000) == 1_000
    assert limits == [1467, 4096]
    assert allowed(12_000) == 4096 * 3 // 4 - FOR_PROBES
    assert limits == [4096, 4096]
    assert allowed(12_000, files_each=3) == (4096 * 3 // 4 - FOR_PROBES) // 3


# -- one connection ---------------------------------------------------------------------------------------


class Wire:
    """A transport whose client takes what it is allowed to, and whose end a test decides."""

    def __init__(self) -> None:
        self.written = b""
        self.waits = 0
        """How many bytes of it the client has not taken."""
        self.ended: str = ""
        self.socket: socket.socket | None = None

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.socket if name == "socket" else None

    def write(self, data: bytes) -> None:
        assert not self.ended, "written to nobody"
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.waits

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "cut"

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def connected(
    app: ASGIApp,
    patience_s: float = 10,
    keep_alive_s: int = 1000,
    made_by: Callable[..., HttpToolsProtocol] | None = None,
) -> tuple[Wire, Connection]:
    config = Config(app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s)
    config.load()
    made = (made_by or Connections(most=10, patience_s=patience_s))(config, ServerState(), {})
    wire = Wire()
    made.connection_made(cast("asyncio.Transport", wire))
    return wire, cast("Connection", made)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    calls = b"[%s %s %s]" % (scope["method"].encode(), scope["path"].encode(), body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(calls))]})
    await send({"type": "http.response.body", "body": calls})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def finish() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_connection_whose_socket_is_closed_by_now_is_given_up_without_a_word() -> None:
    async def life(clock: VirtualClock) -> None:
        wire, connection = connected(echo)
        closed = socket.socket()
        closed.close()
        wire.socket = closed
        connection.timeout_keep_alive_handler()
        assert wire.ended

    run_virtual(life)


NO_HTTP: Final = (
    b"no HTTP at all\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # (TLS)
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n: nameless\r\n\r\n",
    b"GET / HTTP/1.1\r\nnone\x00: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
)


@pytest.mark.parametrize("sent", NO_HTTP)
def test_nobody_fills_the_log_with_what_is_no_request(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def life(clock: VirtualClock) -> None:
        recorder = MetricsRecorder()
        wire, connection = connected(echo, made_by=Connections(most=10, patience_s=10, on_end=recorder.cut_off))
        connection.data_received(sent)
        await finish()
        if not wire.ended:
            assert b" 200 " in wire.written
        else:
            assert recorder.cuts["malformed"] == 1
        wire.close()
        connection.connection_lost(None)
        await finish()

    with caplog.at_level(logging.WARNING):
        run_virtual(life)
    assert not ours(caplog)


def test_every_early_close_is_counted_under_a_known_reason() -> None:
    async def life(clock: VirtualClock) -> None:
        recorder, endless = MetricsRecorder(), asyncio.Event()
        begins = dict(recorder.cuts)

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            await endless.wait()
            await echo(scope, receive, send)

        for app, most, sent, reason in (
            (echo, 10, b"no HTTP at all\r\n\r\n", "malformed"),
            (echo, 10, b"GET / HTTP/1.1\r\nx: " + bytes(70_000), "malformed"),
            (echo, 10, b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000, "head_too_large"),
            (echo, 10, b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (MAX_HEADERS + 2), "head_too_large"),
            (slow, 10, INNER * (MAX_BEHIND + 2), "too_many_behind"),
            (echo, 10, b"GET / HTTP/1.1\r\n", "request_timeout"),
            (echo, 10, b"", None),
            (echo, 10, INNER, None),
            (slow, 1, INNER, "no_connection_left"),
            (echo, 1, b"", "idle"),
        ):
            before = dict(recorder.cuts)
            make = Connections(most=most, patience_s=10, on_end=recorder.cut_off)
            _, first = connected(app, made_by=make)
            first.data_received(sent)
            await finish()
            if most == 1:
                _, second = connected(app, made_by=make)
                second.data_received(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
                await finish()
                assert recorder.cuts["no_connection_left"] == before["no_connection_left"], "a probe is answered"
                if reason == "no_connection_left":
                    _, third = connected(app, made_by=make)
                    third.data_received(INNER)
                    await finish()
            await asyncio.sleep(11)
            assert {each: n - before[each] for each, n in recorder.cuts.items() if n != before[each]} == (
                {} if reason is None else {reason: 1}
            )
        make = Connections(most=1, patience_s=10, on_end=recorder.cut_off)
        wire, connection = connected(echo, made_by=make)
        wire.waits = 100
        connection.pause_writing()
        await asyncio.sleep(11)
        assert recorder.cuts["not_taken"] == 1
        for _ in range(FOR_PROBES):  # (beside the previous one, whose end was not reported)
            _, connection = connected(slow, made_by=make)
            connection.data_received(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        connected(slow, made_by=make)
        assert recorder.cuts["no_connection_left"] == 2, "more than there is room for probes"
        assert recorder.cuts.keys() == begins.keys()
        assert set(begins.values()) == {0}
        endless.set()
        await finish()

    run_virtual(life)


INNER = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"POST /outer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n%s" % (len(INNER), INNER)
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(INNER), INNER)


@pytest.mark.parametrize("body", [LENGTH, CHUNKS])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_who_wants_another_protocol_is_answered_in_this_one_and_its_body_is_no_request(
    body: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A parser that leaves the rest to the other protocol would lose the body, or read it as the next request."""

    async def life(clock: VirtualClock) -> None:
        wire, connection = connected(echo)
        sent = UPGRADE + body + UPGRADE + body + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        for start in range(0, len(sent), size):
            connection.data_received(sent[start : start + size])
            await finish()
        assert wire.written.count(b"HTTP/1.1 200") == 3
        assert wire.written.count(b"[POST /outer %s]" % INNER) == 2
        assert wire.written.endswith(b"[GET /next ]")
        connection.data_received(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"HTTP/1.1 400" in wire.written

    run_virtual(life)
    assert not ours(caplog), "nobody fills a log with that"


def test_an_answer_before_the_body_does_not_keep_the_connection_for_good() -> None:
    async def life(clock: VirtualClock) -> None:
        wire, connection = connected(refuse)
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        await finish()
        assert b"401" in wire.written
        connection.data_received(b"x")
        await asyncio.sleep(11)
        assert wire.ended == "closed"
        assert wire.written.count(b"HTTP/1.1") == 1, "no second answer"

        wire, connection = connected(refuse, keep_alive_s=25)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(24)
        ends = [wire.ended]
        await asyncio.sleep(2)
        assert [*ends, wire.ended] == ["", "closed"], "an idle one stays for its time"

    run_virtual(life)


def test_an_answer_that_has_begun_before_the_whole_body_was_here_goes_on() -> None:
    """An error cannot be sent within an answer, and the answer may depend on the body."""

    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await send({"type": "http.response.body", "body": b"all [%s]" % message.get("body", b"gone")})

    async def life(clock: VirtualClock) -> None:
        wire, connection = connected(early)
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx")
        await asyncio.sleep(30)
        assert not wire.ended
        connection.data_received(b"y")
        await finish()
        connection.data_received(b"z")
        await finish()
        assert wire.written.endswith(b"all [z]")
        assert wire.written.count(b"HTTP/1.1") == 1

    run_virtual(life)


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_client_whose_body_the_app_did_not_read_does_not_time_out(expects: bytes) -> None:
    """As while a server starts, when requests wait before their bodies are read."""

    async def life(clock: VirtualClock) -> None:
        let = asyncio.Event()

        async def waits_first(scope: Scope, receive: Receive, send: Send) -> None:
            await let.wait()
            await echo(scope, receive, send)

        wire, connection = connected(waits_first)
        body = b"x" * 100_000
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\n%bContent-Length: 100000\r\n\r\n" % expects)
        if not expects:
            connection.data_received(body[:-1])
        await asyncio.sleep(35)
        assert (wire.ended, wire.written) == ("", b"")
        let.set()
        await finish()
        connection.data_received(body if expects else body[-1:])
        await finish()
        assert wire.written.endswith(b"[POST / %b]" % body)

        wire, connection = connected(waits_first)
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
        await asyncio.sleep(21)
        assert re.findall(rb"HTTP/1.1 (\d+)", wire.written) == [b"408"], (
            "and once the app reads it, the client has the usual time"
        )

    run_virtual(life)


def closed_by_client(wire: Wire, connection: Connection) -> None:
    connection.eof_received()
    wire.close()


LATE: Final = Draining("the server is stopping", retry_after_s=7)


def in_words(problem: Response, path: str) -> Response:
    """Render an error with its path, in a format of its own."""
    code = json.loads(bytes(problem.body))["code"]
    return Response(f"{code} at {path}", problem.status_code, {"Retry-After": problem.headers.get("retry-after", "")})


@pytest.mark.parametrize(
    ("sent", "calls"),
    [
        (b"POST /a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12", "/a b"),
        (b"POST /head HTTP/1.1\r\nHost: a\r\n", "/head"),
        (b"POST /pa", "/pa"),
        (b"PO", ""),
    ],
)
def test_a_late_request_is_refused_in_the_format_of_its_path_also_while_the_server_stops(
    sent: bytes, calls: str
) -> None:
    async def life(clock: VirtualClock) -> None:
        for stops, status, code in ((False, 408, "request_timeout"), (True, 503, "draining")):
            recorder = MetricsRecorder()
            make = Connections(most=10, patience_s=10, on_end=recorder.cut_off, render=in_words)
            wire, connection = connected(echo, made_by=make)
            connection.data_received(sent)
            await asyncio.sleep(5)
            if stops:
                make.stop(LATE, 1)
                await asyncio.sleep(0.9)
                assert not wire.written
                await asyncio.sleep(0.2)
                assert b"Retry-After: 7".lower() in wire.written.lower()
            else:
                await asyncio.sleep(5.1)
            assert wire.written.startswith(b"HTTP/1.1 %d" % status)
            assert wire.written.endswith(f"{code} at {calls}".encode())
            assert wire.ended == "closed"
            assert recorder.cuts[code] == 1

    run_virtual(life)


def test_while_a_server_stops_each_request_has_a_moment_of_its_own_and_no_connection_is_kept_after_it() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(5)
        await echo(scope, receive, send)

    async def life(clock: VirtualClock) -> None:
        make = Connections(most=10, patience_s=10, render=in_words)
        silent, kept, before = (connected(echo, made_by=make) for _ in range(3))
        in_work, in_work_behind = connected(slow, made_by=make), connected(slow, made_by=make)
        before[1].data_received(b"POST / HTTP/1.1\r\n")
        kept[1].data_received(INNER)
        in_work[1].data_received(INNER)
        in_work_behind[1].data_received(INNER * 2)
        await finish()
        assert b"connection: close" not in kept[0].written
        make.stop(LATE, 1)
        await asyncio.sleep(0.6)
        make.stop(LATE, 1)
        later = connected(echo, made_by=make)
        later[1].data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n1")
        await asyncio.sleep(0.6)
        assert not later[0].written, "it has begun 0.6 s ago"
        assert before[0].written.startswith(b"HTTP/1.1 503")
        await asyncio.sleep(0.5)
        assert later[0].written.startswith(b"HTTP/1.1 503")
        await asyncio.sleep(30)
        for (wire, _), count in ((in_work, 1), (in_work_behind, 2)):
            assert (wire.written.count(b"HTTP/1.1 200"), wire.written.count(b"connection: close")) == (count, 1)
            assert wire.ended
        for wire, connection in (silent, kept):
            assert not wire.ended, "it asks nothing"
            connection.data_received(INNER)
            await finish()
            assert wire.written.endswith(b"[GET /inner ]")
            assert b"connection: close" in wire.written
            assert wire.ended

    run_virtual(life)


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_body_that_nobody_reads_yet_keeps_no_server_from_stopping(expects: bytes) -> None:
    async def life(clock: VirtualClock) -> None:
        read = []

        async def waits_first(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.sleep(20)
            read.append((await receive())["type"])
            await send({"type": "http.response.start", "status": 499, "headers": []})

        make = Connections(most=10, patience_s=10)
        wire, connection = connected(waits_first, made_by=make)
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\n%bContent-Length: 100000\r\n\r\n" % expects)
        if not expects:
            connection.data_received(b"x" * 99_999)
        await finish()
        make.stop(LATE, 1)
        await asyncio.sleep(1.1)
        assert wire.written.startswith(b"HTTP/1.1 503")
        assert wire.ended
        await asyncio.sleep(20)
        assert read == ["http.disconnect"], "and what would have answered it hears that its client is gone"

    run_virtual(life)


def test_a_connection_in_the_middle_of_a_head_is_left_for_its_moment_when_all_others_are_closed() -> None:
    async def life(clock: VirtualClock) -> None:
        make = Connections(most=10, patience_s=10)
        silent, coming = connected(echo, made_by=make), connected(echo, made_by=make)
        coming[1].data_received(b"POST / HT")
        make.stop(LATE, 1)
        for _, connection in (silent, coming):
            connection.shutdown()
        assert [bool(wire.ended) for wire, _ in (silent, coming)] == [True, False]
        coming[1].data_received(b"TP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1")
        await finish()
        assert coming[0].written.endswith(b"[POST / 1]")
        assert coming[0].ended

    run_virtual(life)


WAYS_TO_CLOSE: dict[str, Callable[[Wire, Connection], Any]] = {
    "kept alive long enough": lambda wire, connection: connection.timeout_keep_alive_handler(),
    "refused": lambda wire, connection: connection.send_400_response(""),
    "no more is asked": closed_by_client,
    "still open": lambda wire, connection: connection.pause_writing(),
}


@pytest.mark.parametrize("way", WAYS_TO_CLOSE)
def test_who_takes_nothing_of_an_answer_is_let_go_and_who_takes_it_slowly_is_not(way: str) -> None:
    async def life(clock: VirtualClock) -> None:
        for slowly in (True, False):
            wire, connection = connected(echo)
            connection.data_received(INNER)
            await finish()
            wire.waits = 100
            WAYS_TO_CLOSE[way](wire, connection)
            for _ in range(5):
                await asyncio.sleep(9)
                wire.waits -= slowly
            assert (wire.ended == "cut") is not slowly
            if slowly and way == "still open":
                connection.resume_writing()
                await asyncio.sleep(100)
                assert wire.ended != "cut", "it has taken enough"

    run_virtual(life)


def test_what_is_closed_has_to_be_taken_to_its_end() -> None:
    """Also the last bytes, below the mark where a transport says that it can be written to again."""

    async def life(clock: VirtualClock) -> None:
        wire, connection = connected(echo)
        connection.data_received(INNER.replace(b"Host", b"Connection: close\r\nHost"))
        await finish()
        assert wire.ended == "closed"
        wire.waits = 10
        connection.pause_writing()
        connection.resume_writing()
        await asyncio.sleep(11)
        assert wire.ended == "cut"

        wire, connection = connected(echo)
        wire.waits = 10
        connection.data_received(INNER.replace(b"Host", b"Connection: close\r\nHost"))
        await asyncio.sleep(11)
        assert wire.ended == "cut", "little as it is"

    run_virtual(life)


def test_who_leaves_with_several_requests_in_work_is_missed_by_each_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also by the first one, which is answered while the others wait: its run hears that its client is lost."""

    async def life(clock: VirtualClock) -> None:
        heard: list[str] = []

        async def until_it_leaves(scope: Scope, receive: Receive, send: Send) -> None:
            while (message := await receive())["type"] == "http.request":
                pass
            heard.append(message["type"])
            await send({"type": "http.response.start", "status": 499, "headers": []})

        wire, connection = connected(until_it_leaves)
        connection.data_received(INNER * 2)
        await finish()
        wire.close()
        connection.connection_lost(None)
        await finish()
        assert heard == ["http.disconnect"]

    with caplog.at_level(logging.ERROR):
        run_virtual(life)
    assert not ours(caplog)


def test_a_connection_with_a_request_behind_the_one_in_work_waits_for_us_and_is_forgotten_at_its_end() -> None:
    async def life(clock: VirtualClock) -> None:
        let, begun = asyncio.Event(), []

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(scope["path"])
            if len(begun) == 2:
                await let.wait()
            await echo(scope, receive, send)

        wire, connection = connected(slow)
        connection.data_received(INNER * 2 + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
        await asyncio.sleep(30)
        ends = [wire.ended]
        let.set()
        await asyncio.sleep(11)
        assert [*ends, wire.ended] == ["", "closed"], "its time begins when the one before it is answered"
        assert re.findall(rb"HTTP/1.1 (\d+)", wire.written) == [b"200", b"200", b"408"]

        wire, connection = connected(echo)
        wire.waits = 100
        connection.pause_writing()
        connection.connection_lost(None)
        ends = [wire.ended]
        await asyncio.sleep(30)
        assert [wire.ended] == ends

    run_virtual(life)


def test_so_many_requests_may_wait_behind_the_one_in_work_and_no_more_are_kept() -> None:
    """A read brings 14,000 of the shortest, and each would take some KB until it is answered."""

    async def life(clock: VirtualClock) -> None:
        begun, let = [], asyncio.Event()

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            begun.append(scope["path"])
            await let.wait()
            await echo(scope, receive, send)

        wire, connection = connected(slow)
        connection.data_received(INNER * (MAX_BEHIND + 1))
        await finish()
        let.set()
        for _ in range(MAX_BEHIND):
            await finish()
        assert wire.written.count(b"HTTP/1.1 200 ") == len(begun) == MAX_BEHIND + 1, "all of them are answered"
        assert not wire.ended

        let.clear()
        wire, connection = connected(slow)
        connection.data_received(b"GET / HTTP/1.1\r\n\r\n" * 14_000)
        assert wire.ended == "closed"
        assert not wire.written, "nothing that could be taken for an answer"
        assert len(connection.pipeline) == MAX_BEHIND
        connection.connection_lost(None)
        let.set()
        await finish()

    run_virtual(life)


def test_a_request_has_so_many_headers_and_no_more_are_kept() -> None:
    async def life(clock: VirtualClock) -> None:
        for headers, status in ((MAX_HEADERS, b"200"), (MAX_HEADERS + 1, b"431"), (16_000, b"431")):
            wire, connection = connected(echo)
            connection.data_received(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * headers + b"\r\n")
            assert len(connection.headers) <= MAX_HEADERS
            await finish()
            assert wire.written.startswith(b"HTTP/1.1 %b " % status)

    run_virtual(life)


HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"


def padded(size: int, start: bytes = HEAD) -> bytes:
    """Return a head of so many bytes that has not come to its end."""
    return start + b"X: " + b"x" * (size - len(start) - 3)


@pytest.mark.parametrize("before", [b"", INNER, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"])
def test_a_head_has_16_kib_and_no_more_also_behind_another_request(before: bytes) -> None:
    assert MAX_HEAD_BYTES == 16 * 1024

    async def life(clock: VirtualClock) -> None:
        first = [b"200"] if before else []
        for size, fits in ((MAX_HEAD_BYTES - 4, True), (MAX_HEAD_BYTES + 200, False), (200_000, False)):
            for portion in (1_000_000, 5_000):
                wire, connection = connected(echo)
                sent = before + padded(size) + b"\r\n\r\n"
                for start in range(0, len(sent), portion):
                    connection.data_received(sent[start : start + portion])
                    await finish()
                answers = re.findall(rb"HTTP/1.1 (\d+)", wire.written)
                if before and not fits and portion > size:
                    assert answers == [], "the one before is not answered yet: it would read as a part of that answer"
                else:
                    assert answers == [*first, b"200" if fits else b"431"]
                assert bool(wire.ended) is not fits

    run_virtual(life)


def test_heads_that_are_not_whole_have_so_much_memory_together_and_those_go_that_took_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "MAX_HEADS_BYTES", 30_000)

    async def life(clock: VirtualClock) -> None:
        recorder = MetricsRecorder()
        make = Connections(most=100, patience_s=10, on_end=recorder.cut_off)

        def opened(sent: bytes) -> tuple[Wire, Connection]:
            wire, connection = connected(echo, made_by=make)
            connection.data_received(sent)
            return wire, connection

        body = [opened(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n" + b"x" * 8_999) for _ in range(9)]
        chunks = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunked = [opened(chunks + b"2328\r\n" + b"x" * 8_999) for _ in range(9)]
        first, second, third = (opened(padded(9_000)) for _ in range(3))
        for wire, _ in (*body, *chunked, first, second, third):
            assert not wire.ended, "bodies are no heads, and there is room for three of these"
        fourth = opened(padded(9_000))
        assert first[0].ended == "closed"
        assert b"HTTP/1.1 503 " in first[0].written
        assert b'"heads_full"' in first[0].written
        assert b"retry-after: 1" in first[0].written.lower()
        assert recorder.cuts["heads_full"] == 1
        assert not first[1].headers, "it keeps nothing from then on"
        first[1].connection_lost(None)
        second[1].data_received(b"\r\n\r\n")
        await finish()
        assert b"HTTP/1.1 200 " in second[0].written, "a head that is whole by now counts no more"
        fifth = opened(padded(9_000))
        third[1].connection_lost(None)
        kept = third[1]._limiter._heads
        assert list(kept) == [each for _, each in (fourth, fifth)], "nor does one count whose client has left"
        sixth = opened(padded(9_000))
        assert not any(wire.ended for wire, _ in (*body, *chunked, second, fourth, fifth, sixth))
        assert list(kept) == [each for _, each in (fourth, fifth, sixth)]
        small = [opened(HEAD + b"a:\r\n" * 100) for _ in range(30_000 // (100 * HEADER_BYTES) + 1)]
        assert [fourth[0].ended, fifth[0].ended, sixth[0].ended] == ["closed"] * 3, (
            "small headers take more than they are"
        )
        assert not small[-1][0].ended
        for _, connection in (*body, *chunked):
            connection.data_received(b"x" if connection in [each for _, each in body] else b"x\r\n0\r\n\r\n")
        await finish()
        assert all(b"HTTP/1.1 200 " in wire.written for wire, _ in (*body, *chunked))

    run_virtual(life)


def test_trailers_that_do_not_end_count_as_heads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come behind a body, in which there may be nothing, and before anybody has looked for a key."""
    monkeypatch.setattr(room, "MAX_HEADS_BYTES", 30_000)

    async def life(clock: VirtualClock) -> None:
        make = Connections(most=100, patience_s=10)
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
        wires = []
        for _ in range(3):
            wire, connection = connected(echo, made_by=make)
            connection.data_received(head + b"0\r\nX: " + b"x" * 12_000)
            wires.append(wire)
        assert [each.ended for each in wires] == ["closed", "", ""]
        await finish()
        wire, connection = connected(echo, made_by=make)
        connection.data_received(head + b"0\r\n\r\n")
        await finish()
        assert b"[POST / {}]" in wire.written

    run_virtual(life)
