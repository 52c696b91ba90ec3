"""The listener for other servers believes their messages only, and each only once."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from cluster_support import Served, pair, run
from engine_support import Played, echo
from strandline._clock import SystemClock
from strandline._composition import build_http, build_service
from strandline._http.caller import CALLER, EVERYBODY
from strandline._http.forwarding.client_request import ClientRequest
from strandline._http.forwarding.envelope import (
    EARLY_S,
    LATE_S,
    MOST_SENDERS,
    REMEMBERED,
    Envelope,
    Forward,
    Inbox,
    Left,
    Mistimed,
    Untrusted,
    clock_read,
    digest_of,
    length_of,
    signed,
)
from strandline._http.forwarding.upstream import Upstream
from strandline._http.middleware.access import AccessMiddleware, StartWait
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS
from strandline._settings import Settings
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual

BODY = b'{"session_id": "s", "message": "hello"}'
SECRET = b"s" * 32


def message(receiver: int, number: int = 1, **changes: Any) -> Forward:
    """Return a request of ada, as server 7 sends it."""
    whole = Forward(
        sender=7,
        receiver=receiver,
        number=number,
        at=SystemClock().now(),
        method="POST",
        path=b"/chat",
        query=b"",
        headers=[(b"content-type", b"application/json")],
        size=len(BODY),
        digest=digest_of(BODY),
        client="192.0.2.1",
        principal="ada",
        operator=False,
        key_id=b"",
        run_id=None,
    )
    return replace(whole, **changes)


async def sent(server: Served, content: bytes, path: str = "/forward", method: str = "POST") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.request(method, f"http://{server.address}{path}", content=content)


Case = Callable[[Served], tuple[bytes, str, str]]


def _altered(server: Served) -> tuple[bytes, str, str]:
    head = signed(SECRET, message(server.id))
    return head.replace(b"ada", b"bob") + BODY, "/forward", "POST"


CASES: dict[str, Case] = {
    "a public request": lambda server: (BODY, "/chat", "POST"),
    "a probe": lambda server: (b"", "/health", "GET"),
    "nothing": lambda server: (b"", "/forward", "POST"),
    "noise": lambda server: (b"\0\0\1\0" + b"x" * 300, "/forward", "POST"),
    "a length without end": lambda server: (b"\xff\xff\xff\xff" + b"x" * 300, "/forward", "POST"),
    "another secret": lambda server: (signed(b"t" * 32, message(server.id)) + BODY, "/forward", "POST"),
    "another principal": _altered,
    "another body": lambda server: (
        signed(SECRET, message(server.id)) + BODY.replace(b"hello", b"hallo"), "/forward", "POST"
    ),
    "less of the body": lambda server: (signed(SECRET, message(server.id)) + BODY[:-1], "/forward", "POST"),
    "another receiver": lambda server: (signed(SECRET, message(server.id + 1)) + BODY, "/forward", "POST"),
    "another path": lambda server: (signed(SECRET, message(server.id)) + BODY, "/chat", "POST"),
    "a huge body": lambda server: (signed(SECRET, message(server.id, size=10**9)) + BODY, "/forward", "POST"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_inner_listener_refuses_whatever_no_server_of_the_cluster_has_signed(case: str) -> None:
    async def scene() -> None:
        async with pair() as (_, _first, owner, _client):
            content, path, method = CASES[case](owner)
            answer = await sent(owner, content, path, method)

            assert (answer.status_code, answer.content) == (403, b"")
            assert owner.recorder.accepts == 0
            assert owner.recorder.denials["no_server"] == 1

    run(scene)


def test_the_inner_listener_answers_a_signed_message_for_its_principal_and_only_once() -> None:
    async def scene() -> None:
        async with pair() as (_, _first, owner, _client):
            content = signed(SECRET, message(owner.id)) + BODY
            answer, again = await sent(owner, content), await sent(owner, content)

            assert answer.json()["response"] == "echo hello"
            assert (again.status_code, again.content) == (403, b"")
            assert [each.key.principal for each in (await owner.service.sessions(None)).sessions] == ["ada"]

    run(scene)


def test_a_server_whose_clock_is_wrong_by_minutes_is_believed_once_it_knows_the_time_here() -> None:
    async def scene() -> None:
        async with pair() as (_found, first, owner, client):
            first.forwarder._others.clock = Late()
            answers = [await client.post("/chat", json={"session_id": "s", "message": text}) for text in "ab"]

            assert [each.json()["response"] for each in answers] == ["echo a", "echo b"]
            assert owner.recorder.accepts == 2

    run(scene)


class Late(SystemClock):
    def now(self) -> float:
        return super().now() - 600.0


def opened(inbox: Inbox, content: bytes) -> Envelope:
    assert length_of(content) == len(content) - 36
    return inbox.open(content[4:36], content[36:])


def test_no_byte_of_a_message_can_be_changed() -> None:
    """Nor its caller's name and rights, the method, path or query, the digest of the body, nor the time."""
    inbox = Inbox(SECRET, 1, SystemClock().now)
    content = signed(SECRET, message(1, query=b"a=1", operator=False))
    for place in range(4, len(content)):
        for bit in (1, 128):
            altered = bytearray(content)
            altered[place] ^= bit
            with pytest.raises(Untrusted):
                inbox.open(bytes(altered[4:36]), bytes(altered[36:]))
    assert opened(inbox, content)


def test_what_was_heard_on_the_wire_is_believed_by_no_server_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    send = Upstream.send

    async def noted(upstream: Upstream, request: bytes, body: bytes) -> None:
        heard.append(request.partition(b"\r\n\r\n")[2] + body)
        await send(upstream, request, body)

    monkeypatch.setattr(Upstream, "send", noted)

    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            third = await found.start()
            await client.post("/chat", json={"session_id": "s", "message": "hello"})
            (content,) = heard
            answers = [await sent(server, content) for server in (first, owner, third)]

            assert [(each.status_code, each.content) for each in answers] == [(403, b"")] * 3
            assert [each.recorder.accepts for each in (first, owner, third)] == [0, 1, 0]

    run(scene)


@pytest.mark.parametrize("off_s", [-LATE_S - 5, EARLY_S + 5])
def test_a_message_of_another_time_is_answered_with_the_time_here_and_nothing_is_done(off_s: float) -> None:
    async def scene() -> None:
        async with pair() as (_, _first, owner, _client):
            content = signed(SECRET, message(owner.id, at=SystemClock().now() + off_s)) + BODY
            answer = await sent(owner, content)

            assert (answer.status_code, answer.content, owner.recorder.accepts) == (401, b"", 0)
            now = clock_read(SECRET, 1, answer.headers["strandline-clock"])
            assert now == pytest.approx(SystemClock().now(), abs=10)
            assert clock_read(SECRET, 2, answer.headers["strandline-clock"]) is None

    run(scene)


def test_a_message_counts_once_and_for_half_a_minute() -> None:
    now = [1000.0]
    inbox = Inbox(SECRET, 1, lambda: now[0])
    for at in (now[0] - LATE_S - 1, now[0] + EARLY_S + 1):
        with pytest.raises(Mistimed):
            opened(inbox, signed(SECRET, message(1, at=at)))
    left = Left(sender=7, receiver=1, number=2, at=now[0], of=1)
    assert opened(inbox, signed(SECRET, left)) == left
    with pytest.raises(Untrusted):
        opened(inbox, signed(SECRET, left))
    assert opened(inbox, signed(SECRET, replace(left, sender=8)))  # (numbers are each sender's own)


def test_what_is_remembered_of_numbers_is_bounded_and_what_is_forgotten_is_refused() -> None:
    inbox = Inbox(SECRET, 1, lambda: 0.0)
    for number in range(REMEMBERED + 2):
        inbox._note(7, number)
    floor, seen = inbox._seen[7]
    assert len(seen) <= REMEMBERED // 2 + 2
    with pytest.raises(Untrusted):
        inbox._note(7, floor)
    inbox._note(7, REMEMBERED + 2)


def test_without_other_servers_nothing_is_forwarded_and_there_is_no_inner_application() -> None:
    async def scene() -> None:
        settings, recorder = Settings(journal="memory:"), MetricsRecorder()
        clock = SystemClock()
        service = build_service(settings, Played(echo), MemoryJournal(clock), InlineLoops(), clock, recorder, Traces())
        apps = build_http(settings, service, recorder, Traces(), loopback=True, keys=None)
        assert apps.inner is None
        assert isinstance(apps.public, AccessMiddleware)
        assert isinstance(apps.public._app, StartWait)

    asyncio.run(scene())


def test_before_the_secret_is_known_nothing_is_believed() -> None:
    async def scene() -> None:
        async with pair() as (found, _, owner, _client):
            found.town.secret = b""
            answer = await sent(owner, signed(b"", message(owner.id)) + BODY)
            assert (answer.status_code, owner.recorder.accepts) == (403, 0)

    run(scene)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_client_waits_no_longer_than_it_wants_at_all_servers_together(method: str) -> None:
    async def scene() -> None:
        async with pair() as (_, first, owner, client):
            first.journal._connection = owner.journal._connection  # (where runs are stored, which all servers read)
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            await client.post("/v1/sessions/s/pause")
            waits = await client.post("/v1/sessions/s/runs", json={"input": "hello"})
            posts = method == "POST"
            body = b'{"input": "hello"}' if posts else b""
            again = message(
                owner.id,
                method=method,
                path=b"/v1/sessions/s/runs" if posts else f"/v1/runs/{waits.json()['run_id']}".encode(),
                headers=[(b"content-type", b"application/json"), (b"prefer", b"wait=300")],
                size=len(body),
                digest=digest_of(body),
                principal=ANONYMOUS,
                waited_s=299.9,
            )
            answer = await sent(owner, signed(SECRET, again) + body)

            assert answer.json()["status"] == "queued"
            assert answer.headers["preference-applied"] == "wait=300"

    run(scene)


def test_a_request_that_is_sent_again_says_how_long_its_client_has_waited() -> None:
    async def scene(_: VirtualClock) -> None:
        async def never() -> Any:
            await asyncio.Event().wait()

        async def nowhere(_: Any) -> None:
            raise AssertionError

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [],
            "client": None,
        }
        request = ClientRequest({**scope, CALLER: EVERYBODY}, never, nowhere)
        request._body = [b""]
        first = request.envelope(1, 2, 1, 0.0)
        await asyncio.sleep(7.0)
        second = request.envelope(1, 2, 2, 0.0)
        request.begin_again()

        assert isinstance(first, Forward)
        assert isinstance(second, Forward)
        assert first.waited_s == 0.0
        assert [second.waited_s, request.passed.waited_s] == pytest.approx([7.0, 7.0])

    run_virtual(scene)


def test_what_is_remembered_of_servers_does_not_grow_with_each_that_comes_and_goes() -> None:
    inbox = Inbox(SECRET, 1, lambda: 0.0)
    for sender in range(MOST_SENDERS + 5):
        for number in (3, 5):
            inbox._note(sender, number)
    assert len(inbox._seen) == MOST_SENDERS
    for number in (3, 4, 5):
        with pytest.raises(Untrusted):
            inbox._note(0, number)
    inbox._note(0, 6)
    with pytest.raises(Untrusted):
        inbox._note(0, 6)
