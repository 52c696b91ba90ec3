"""SIGTERM while requests are still coming: each is refused as one that a stopping server takes no more, in its form."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until

LARGE: Final = 200_000
"""More than a connection reads ahead of what an answer is made of, and more than `MAX_BODY_BYTES`."""
MAX_BODY_BYTES: Final = 100_000
RESPONSE_S: Final = 5.0
"""Well before a drain with a grace of a minute is over."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


Dialect = tuple[str, Callable[[Any], str]]
"""A media type, and where the code of an error stands."""
PROBLEM: Final[Dialect] = ("application/problem+json", lambda body: body["code"])
OPENAI: Final[Dialect] = ("application/json", lambda body: body["error"]["code"])
AGENTCORE: Final[Dialect] = ("application/json", lambda body: body["error"])
FORMS: Final[dict[str, tuple[Dialect, dict[str, Any]]]] = {
    "/chat": (PROBLEM, {"message": "late", "session_id": "late"}),
    "/v1/sessions/late/runs": (PROBLEM, {"input": "late"}),
    "/v1/runs/run_none/cancel": (PROBLEM, {"force": True}),
    "/v1/chat/completions": (OPENAI, {"messages": [{"role": "user", "content": "late"}], "user": "late"}),
    "/invocations": (AGENTCORE, {"prompt": "late", "session_id": "late"}),
}
"""For each path a request, and the form of its refusals."""


class Connection:
    """A client that sends bytes, of whatever kind."""

    def __init__(self, server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
        self._read = self.socket.makefile("rb")

    def send(self, data: bytes) -> "Connection":
        self.socket.sendall(data)
        return self

    def response(self) -> Response:
        """Return the next answer."""
        status = int(self._read.readline().split()[1])
        if status == 100:
            assert self._read.readline() == b"\r\n"
            return self.response()
        headers = {}
        while (line := self._read.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return Response(status, headers, json.loads(self._read.read(int(headers["content-length"]))))

    def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        return self._read.read()

    def close(self) -> None:
        self._read.close()
        self.socket.close()


@contextmanager
def connected(server: Server, *names: str) -> Iterator[dict[str, Connection]]:
    """Open a connection for each name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(closing(Connection(server))) for name in names}


def head(path: str, length: int | None, *more: str) -> bytes:
    how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", how, *more]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def check(connection: Connection, path: str) -> None:
    """Check that a client was refused because the server stops, in the form of its path, and may retry."""
    (media_type, code_of), _ = FORMS[path]
    response = connection.response()
    assert (response.status, response.headers["content-type"]) == (503, media_type), response
    assert code_of(response.body) == "draining"
    assert int(response.headers["retry-after"]) >= 1
    assert response.headers["connection"] == "close"
    assert connection.rest() == b""


WAYS: Final = ("announced", "begun", "in chunks", "expect", "large")


def begun(path: str, way: str) -> bytes:
    """Return a part of a request, which goes no further than its head or within its body."""
    body = json.dumps(FORMS[path][1]).encode()
    match way:
        case "announced":
            return head(path, len(body))
        case "begun":
            return head(path, len(body)) + body[:-1]
        case "in chunks":
            return head(path, None) + b"%x\r\n%s\r\n" % (len(body), body)
        case "expect":
            return head(path, len(body), "Expect: 100-continue")
        case _:
            sent = body[:-2] + b" " * (LARGE - len(body)) + body[-2:]
            return head(path, MAX_BODY_BYTES - 1) + sent[: MAX_BODY_BYTES - 2]


def test_a_request_whose_body_is_still_coming_is_refused_in_the_form_of_its_route(
    at: Checkpoints, tmp_path: Path
) -> None:
    """However its body comes, and nothing of it was accepted; nothing else is said to anybody."""
    cases = [(path, way) for path in FORMS for way in WAYS]
    with serving(
        TARGETS / "function.py:answer",
        "--max-body-bytes",
        str(MAX_BODY_BYTES),
        folder=tmp_path,
        variables=at.environment,
    ) as server:
        with connected(server, *map(" ".join, cases)) as clients:
            for path, way in cases:
                clients[f"{path} {way}"].send(begun(path, way))
            server.health()
            server.terminate()
            for path, way in cases:
                check(clients[f"{path} {way}"], path)
        assert server.ended() == 0
        assert server.stored() == []


def test_a_request_whose_head_is_not_whole_is_refused_too(at: Checkpoints, tmp_path: Path) -> None:
    """In the form of its route, if it has said which; a connection that has asked nothing is closed without a word."""
    with serving(TARGETS / "function.py:answer", folder=tmp_path, variables=at.environment) as server:
        with connected(server, *FORMS, "nowhere", "silent", "answered") as clients:
            answered = clients["answered"].send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered.response().status == 200
            for path in FORMS:
                clients[path].send(head(path, 100)[:-2])
            clients["nowhere"].send(b"POST /ch")
            server.health()
            server.terminate()
            for path in FORMS:
                check(clients[path], path)
            assert clients["nowhere"].response().body["code"] == "draining"
            assert [clients["silent"].rest(), answered.rest()] == [b"", b""]
        assert server.ended() == 0


def test_during_a_drain_requests_are_refused_even_while_they_arrive(at: Checkpoints, tmp_path: Path) -> None:
    """Also on connections that were kept alive; none of them waits for the end of the drain, and none is kept alive."""
    with serving(TARGETS / "agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        one = server.line_up("one", session_id="s")[0]
        at.reached("one model 0")
        with (
            connected(server, *FORMS) as kept,
            connected(server, *FORMS) as slow,
            connected(server, "silent", "steady") as others,
        ):
            for each in (*kept.values(), others["steady"]):
                each.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = each.response()
                assert (answer.status, answer.headers.get("connection")) == (200, None)
            server.terminate()
            until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
            for path in FORMS:
                if path != "/v1/runs/run_none/cancel":  # (cancels are taken: what executes ends the sooner for it)
                    body = json.dumps(FORMS[path][1]).encode()
                    check(kept[path].send(head(path, len(body)) + body), path)
                slow[path].socket.settimeout(RESPONSE_S)
                slow[path].send(begun(path, "begun"))
            for path in FORMS:
                check(slow[path], path)
            assert server.health()["running"] == 1
            # What has asked nothing is not refused, and is answered if it asks after all.
            for name in ("silent", "steady"):
                others[name].send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = others[name].response()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
            at.release()
        assert one.result(DEADLINE_S).json()["response"] == "one"
        assert server.ended() == 0
        server.start()
        assert texts(server.history("late"), "user") == []


def test_a_body_that_comes_in_time_is_answered_while_the_server_stops(at: Checkpoints, tmp_path: Path) -> None:
    """As any other request: a key that is known has the answer of its run."""
    key = "Idempotency-Key: again"
    body = json.dumps({"message": "one", "session_id": "s"}).encode()
    with serving(TARGETS / "agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment) as server:
        at.hold("two model 0")
        with connected(server, "first", "again") as clients:
            assert clients["first"].send(head("/chat", len(body), key) + body).response().body["response"] == "one"
            server.line_up("two", session_id="t")
            at.reached("two model 0")
            clients["again"].send(head("/chat", len(body), key) + body[:-1])
            server.health()
            server.terminate()
            until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
            response = clients["again"].send(body[-1:]).response()
            assert (response.status, response.body["response"], response.headers["connection"]) == (200, "one", "close")
        at.release()
        assert server.ended() == 0
