"""Hostile or broken clients: they cost little, get an explanation, and disturb nobody else."""

import json
import re
import resource
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts
from strandline._http.middleware.connection_limiter import FOR_PROBES

PATIENCE_S: Final = 0.6
MOST: Final = 24
IDLE: Final = 10_000
HEALTH_P99_S: Final = 0.5
"""A generous bound: it is a few milliseconds, also on a busy machine."""


class Answer(NamedTuple):
    status: int
    headers: str
    body: str

    @property
    def code(self) -> str:
        assert "application/problem+json" in self.headers, self
        code: str = json.loads(self.body)["code"]
        return code


class Client:
    """A client that sends bytes, of whatever kind."""

    def __init__(self, server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=DEADLINE_S)

    def send(self, data: bytes) -> "Client":
        self._socket.sendall(data)
        return self

    def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        got = b""
        while True:
            try:
                piece = self._socket.recv(65536)
            except ConnectionResetError:
                return got  # it had not read all that was sent
            if not piece:
                return got
            got += piece

    def answer(self) -> Answer:
        """Return the first answer, without waiting for what comes behind it."""
        got = b""
        while (found := re.match(rb"HTTP/1.1 (\d+) .*?\r\n(.*?)\r\n\r\n(.*)", got, re.DOTALL)) is None or len(
            found[3]
        ) < int((re.search(rb"content-length: (\d+)", found[2]) or [b"", b"0"])[1]):
            piece = self._socket.recv(65536)
            assert piece, f"closed after {got!r}"
            got += piece
        return Answer(int(found[1]), found[2].decode(), found[3].decode())

    def close(self) -> None:
        self._socket.close()


def post(body: bytes, *headers: str, path: str = "/chat") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(message: str, session_id: str) -> bytes:
    return post(json.dumps({"message": message, "session_id": session_id}).encode())


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(client := Client(server))
            stack.callback(client.close)
        yield made


def resident_kb(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


# -- many -------------------------------------------------------------------------------------------------


def test_ten_thousand_clients_that_only_sit_there_slow_nobody_down(at: Checkpoints, tmp_path: Path) -> None:
    """A third of them has sent nothing, a third a part of a head, a third a part of a body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = IDLE if hard == resource.RLIM_INFINITY else min(IDLE, hard // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    parts = (b"", b"GET /health HTTP/1.1\r\nHost: local", post(b"x" * 100)[:-50])
    try:
        with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
            at.hold("q1 model 0")
            running, waiting = server.line_up("q1", "q2", session_id="s")
            before = resident_kb(server)
            with clients(server, count) as idle:
                for number, client in enumerate(idle):
                    client.send(parts[number % 3])
                took = []
                for _ in range(100):
                    began = time.perf_counter()
                    server.health()
                    took.append(time.perf_counter() - began)
                each_kb = (resident_kb(server) - before) / count
                # With a connection of its own, which the server has to accept.
                with clients(server, 1) as (late,):
                    assert late.send(chat("late", "other")).answer().status == 200
                assert server.health()["queue_depth"] == 1
                # None of them was let go: the first one still gets its answer.
                assert idle[1].send(b"host\r\n\r\n").answer().status == 200
                at.release()
                assert [each.result(DEADLINE_S).json()["response"] for each in (running, waiting)] == ["q1", "q2"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    p50, p99 = statistics.median(took), sorted(took)[-2]
    sys.stdout.write(
        f"/health beside {count} idle clients: p50 {p50 * 1000:.1f}, p99 {p99 * 1000:.1f} ms; {each_kb:.1f} KB each\n"
    )
    assert p99 < HEALTH_P99_S
    assert each_kb < 50


HEADS: Final = 3_000
HEADS_MB: Final = 36
"""What thousands of heads that do not end may take of memory, all together: 8 MiB, and what is around them."""
SHAPES: Final = {
    "one long header": b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 16_000,
    "a long path": b"GET /" + b"x" * 16_000,
    "many headers": b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 190,
    "a trailer": b"POST /chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    + b"x" * 16_000,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_thousands_of_unfinished_heads_take_little_memory_and_others_are_answered(
    tmp_path: Path, at: Checkpoints, shape: str
) -> None:
    """Without a key for any of them: who may ask is only known when a head is whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = HEADS if hard == resource.RLIM_INFINITY else min(HEADS, hard // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
    try:
        with (
            serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
            clients(server, count) as all_of_them,
            clients(server, 1) as (last,),
        ):
            assert last.send(chat("before", "s")).answer().status == 200, "all those before it are connected"
            before = resident_kb(server)
            for each in all_of_them:
                with suppress(ConnectionError):  # (it may have been let go by now)
                    each.send(SHAPES[shape])
            with clients(server, 1) as (late,):
                assert late.send(chat("meanwhile", "s")).answer().status == 200
            took_mb = (resident_kb(server) - before) / 1024
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    sys.stdout.write(f"{count} heads that do not end, {shape}: {took_mb:.0f} MB\n")
    assert took_mb < HEADS_MB


# -- wrong ------------------------------------------------------------------------------------------------

DEEP: Final = 100_000
WRONG: Final = {
    "deep JSON": (post(b'{"message": ' + b"[" * DEEP + b"]" * DEEP + b"}"), 422, "invalid"),
    "deep JSON in a key that nobody reads": (
        post(b'{"message": "x", "more": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
        400,
        "malformed",
    ),
    "Latin-1": (post('{"message": "ä"}'.encode("latin-1")), 400, "malformed"),
    "UTF-16": (post('{"message": "x"}'.encode("utf-16")), 400, "malformed"),
    "half a surrogate pair": (post(b'{"message": "\\ud800"}'), 400, "malformed"),
    "compressed": (post(bytes.fromhex("1f8b08000000"), "Content-Encoding: gzip"), 400, "malformed"),
    "a number that is none": (post(b'{"message": NaN}'), 400, "malformed"),
    "a body too large, announced": (
        b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        413,
        "body_too_large",
    ),
    "two lengths": (post(b"{}", "Content-Length: 3"), 400, "malformed"),
    "two ways to state the length": (post(b"{}", "Transfer-Encoding: chunked"), 400, "malformed"),
    "a length below zero": (b"POST /chat HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, "malformed"),
    "a chunk without a size": (
        b"POST /chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "malformed",
    ),
    "a path beyond ASCII": ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400, "malformed"),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed"),
    "one large header": (
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        431,
        "head_too_large",
    ),
    "many headers": (
        b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-Y: 0123456789\r\n" * 6_000 + b"\r\n",
        431,
        "head_too_large",
    ),
    "many small headers": (b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a:\r\n" * 1_000, 431, "head_too_large"),
    "a header without an end": (b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431, "head_too_large"),
    "a long path": (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, "head_too_large"),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Checkpoints]]:
    """A server with few connections and little patience."""
    flags = ("--receive-timeout", str(PATIENCE_S), "--max-connections", str(MOST))
    folder = tmp_path_factory.mktemp("hostile")
    with (
        checkpoints() as at,
        serving(TARGETS / "agent.py", *flags, folder=folder, variables=at.environment) as server,
    ):
        yield server, at


@pytest.mark.parametrize("case", WRONG)
def test_malformed_requests_are_explained_and_have_no_effect(served: tuple[Server, Checkpoints], case: str) -> None:
    server, at = served
    sent, status, code = WRONG[case]
    before = at.steps
    with clients(server, 1) as (client,):
        answer = client.send(sent).answer()
    assert (answer.status, answer.code) == (status, code)
    assert server.chat("q1", "wrong")["response"] == "q1"
    assert len(at.steps) == len(before) + 1


def test_a_header_behind_a_body_is_none(served: tuple[Server, Checkpoints]) -> None:
    """No proxy looks there: it could not have taken away what only proxies may say."""
    server, _ = served
    body = b'{"input": "trailing"}'
    chunked = (
        b"POST /v1/sessions/trailers/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nIdempotency-Key: behind\r\n\r\n" % (len(body), body)
    )
    with clients(server, 2) as (first, second):
        ids = [json.loads(each.send(chunked).answer().body)["run_id"] for each in (first, second)]
    assert ids[0] != ids[1]


ROUTES: Final[dict[str, tuple[dict[str, object], int]]] = {
    "/chat": ({"message": "deep"}, 422),
    "/v1/sessions/deep/runs": ({"input": "deep"}, 422),
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": "deep"}]}, 400),
    "/invocations": ({"prompt": "deep"}, 400),
}


@pytest.mark.parametrize("path", ROUTES)
def test_deep_metadata_is_refused_by_every_route_and_what_is_taken_fails_no_run(
    served: tuple[Server, Checkpoints], path: str
) -> None:
    server, at = served
    body, status = ROUTES[path]

    def sent(levels: int) -> Answer:
        metadata = '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)
        payload = f'{json.dumps(body)[:-1]}, "metadata": {metadata}}}'.encode()
        with clients(server, 1) as (client,):
            headers = ("Content-Type: application/json", "Prefer: wait=20", "X-Session-Id: deep")
            return client.send(post(payload, *headers, path=path)).answer()

    server.quiet()
    before = len(at.steps)
    for levels in (101, 940):
        answer = sent(levels)
        assert answer.status == status
        assert "metadata must be nested at most 100 levels deep" in answer.body
        assert "make it flatter" in answer.body
    assert len(at.steps) == before
    answer = sent(100)
    assert answer.status == 200
    assert "agent_error" not in answer.body, answer
    assert len(at.steps) > before


ACTING: Final[list[dict[str, object]]] = [
    {"image": {"format": "png", "source": {"location": {"type": "s3", "uri": "s3://payroll/may.png"}}}},
    {"type": "image_url", "image_url": {"url": "s3://payroll/may.png"}},
    {"guardContent": {"text": {"text": "harmless"}}},
    {"cachePoint": {"type": "default"}},
    {"reasoningContent": {"reasoningText": {"text": "I may"}}},
    {"text": None},
    {"type": "text", "text": None},
    {"toolResult": {"toolUseId": "1", "status": "success", "content": []}},
]


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_takes_content_that_acts_for_the_server(served: tuple[Server, Checkpoints], path: str) -> None:
    server, at = served
    body, status = ROUTES[path]
    ((field, _),) = body.items()
    server.quiet()
    before = len(at.steps)
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for block in ACTING:
            content: object = [{"text": "acting", "type": "text"}, block] if "type" in block else [block]
            value = [{"role": "user", "content": content}] if field == "messages" else content
            answer = client.post(path, json={field: value}, headers={"X-Session-Id": "acting"})
            assert answer.status_code == status, f"{block}: {answer.text}"
        for session in ("acting", "deep", "default"):
            history = client.get(f"/v1/sessions/{session}/history").text
            assert "payroll" not in history
            assert "harmless" not in history
    assert len(at.steps) == before


# -- slow -------------------------------------------------------------------------------------------------


def test_who_takes_too_long_is_let_go_and_who_waits_for_an_answer_is_not(served: tuple[Server, Checkpoints]) -> None:
    server, at = served
    at.hold("held model 0")
    begun = post(b'{"message": "never whole"}')
    with clients(server, 6) as (silent, head, body, dripping, again, waiting):
        waiting.send(chat("held", "slow"))
        at.reached("held model 0")
        head.send(begun[:30])
        body.send(begun[:-5])
        dripping.send(b"\r\n")
        assert again.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status == 200
        again.send(begun[:30])

        assert silent.rest() == b""
        for client in (head, body, dripping, again):
            answer = client.answer()
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert client.rest() == b""
        at.release()
        assert json.loads(waiting.answer().body)["response"] == "held"
        # An answered connection may stay for longer: its request is complete.
        assert waiting.send(chat("more", "slow")).answer().status == 200
    assert "never whole" not in texts(server.history("slow"), "user")
    assert server.health()["lost_clients"] == 0


def test_the_connections_that_ask_nothing_make_room_for_those_that_do(served: tuple[Server, Checkpoints]) -> None:
    """If all of them wait for answers, others are refused; but probes are answered."""
    server, at = served
    at.hold(*(f"c{number} model 0" for number in range(MOST)))
    with clients(server, MOST) as idle, clients(server, MOST) as busy:
        for number, client in enumerate(busy):
            client.send(chat(f"c{number}", f"crowd-{number}"))
        at.reached(*(f"c{number} model 0" for number in range(MOST)))
        assert [client.rest() for client in idle] == [b""] * MOST

        with clients(server, 2) as (probe, late):
            assert probe.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status == 200
            answer = late.send(chat("late", "late")).answer()
            assert (answer.status, answer.code) == (503, "no_connection_left")
            assert "retry-after: 1" in answer.headers
            assert late.rest() == b""
        with clients(server, FOR_PROBES + 1) as flood:  # too many for that, too: refused before they send
            assert flood[-1].answer().code == "no_connection_left"
        at.release()
        assert [json.loads(client.answer().body)["response"] for client in busy] == [f"c{n}" for n in range(MOST)]
    assert server.history("late") == []
