"""Servers of two versions, as during an upgrade of one after another: nothing is lost, and what one cannot do waits.

What a later version may change: fields are added at the end of an envelope, with defaults, and headers between servers.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec import Struct
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from cluster_support import Served, pair, partition, run, until
from strandline._access.tokens import Token
from strandline._http.forwarding import envelope
from strandline._http.forwarding.envelope import Envelope, Forward, ForwardOfToken, Inbox, Left
from strandline._http.forwarding.inner import InnerApp
from strandline._http.middleware.access import StartWait
from strandline._http.middleware.token_scope import TokenScope
from strandline._model import SessionId
from strandline._webhooks.signing import new_secret

SECRET = b"s" * 32


def of_another_version(message: Struct, fields: int) -> bytes:
    """Return a signed message with more fields than ours has, or fewer."""
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    array = [*array, *[{"later": True}] * fields] if fields > 0 else array[:fields]
    encoded = msgspec.msgpack.encode(array)
    return len(encoded).to_bytes(4, "big") + envelope._mac(SECRET, encoded) + encoded


def forward(number: int) -> Forward:
    return Forward(
        sender=7, receiver=1, number=number, at=0.0, method="GET", path=b"/", query=b"", headers=[], size=0, digest=b"",
        client="", principal="ada", operator=False, key_id=b"", run_id=None,
    )  # fmt: skip


def test_a_message_of_a_later_version_is_read_without_its_further_fields_and_one_of_an_earlier_with_defaults() -> None:
    inbox = Inbox(SECRET, 1, lambda: 0.0)
    lefts = [Left(sender=7, receiver=1, number=number, at=0.0, of=1) for number in (3, 4)]
    for sent, fields in ((forward(1), 2), (forward(2), -2), (lefts[0], 1), (lefts[1], -1)):
        content = of_another_version(sent, fields)
        assert inbox.open(content[4:36], content[36:]) == sent


def test_a_request_under_a_token_is_not_read_by_a_server_that_would_not_keep_to_it() -> None:
    sent = ForwardOfToken(7, 1, 1, 0.0, Token(0.0, (SessionId("s"),)), forward(1))
    encoded = msgspec.msgpack.encode(sent)
    assert msgspec.msgpack.decode(encoded, type=Envelope) == sent
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(encoded, type=Forward | Left)


def inner_of(server: Served) -> InnerApp:
    assert isinstance(server.apps.inner, InnerApp)
    return server.apps.inner


def without(server: Served, path: str, method: str) -> None:
    """Have a server not know a method of a path for other servers' clients, as an earlier version."""
    waits = inner_of(server)._app
    assert isinstance(waits, StartWait)
    assert isinstance(waits._app, TokenScope)
    router = waits._app._app
    assert isinstance(router, Router)
    kept: list[Any] = []
    for each in router.routes:
        assert isinstance(each, Route)
        if each.path != path:
            kept.append(each)
        elif each.methods is not None and (methods := each.methods - {method, "HEAD"}):
            kept.append(Route(each.path, each.endpoint, methods=[*methods]))
    assert len(router.routes) - len(kept) == (0 if "{session_id}/runs" in path else 1)
    inner_of(server)._app = StartWait(Router(kept, redirect_slashes=False), server.service, 1.0)


UNKNOWN = [
    ("POST", "/v1/sessions/{session_id}/pause", None, 200),
    ("POST", "/v1/sessions/{session_id}/runs", {"input": "hi"}, 202),
    ("GET", "/v1/sessions/{session_id}/runs", None, 200),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), UNKNOWN, ids=[f"{m} {p}" for m, p, *_ in UNKNOWN])
def test_what_the_sessions_server_does_not_know_waits_for_one_that_does(
    method: str, path: str, body: Any, status: int
) -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            without(owner, path, method)
            asked = asyncio.create_task(client.request(method, path.format(session_id="s"), json=body))
            await until(lambda: first.recorder.forwards["moved"] or asked.done(), "the owner does not know it")
            await owner.kill()
            await found.take_over(owner)
            answer = await asked

            assert answer.status_code == status, answer.text

    run(scene)


def test_what_no_server_in_time_knows_is_503_moved_and_not_404() -> None:
    async def scene() -> None:
        async with pair(lease_s=-2.9) as (_, _first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            without(owner, "/v1/sessions/{session_id}/pause", "POST")
            answer = await client.post("/v1/sessions/s/pause")

            assert (answer.status_code, answer.json()["code"]) == (503, "moved")

    run(scene)


def test_a_server_of_another_protocol_is_not_reached_and_its_sessions_are_answered_once_they_have_moved(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            inner_of(owner)._inbox = Inbox(b"t" * 32, owner.id, inner_of(owner)._clock.now)
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(lambda: first.recorder.forwards["unreached"], "it is refused")
            found.town.give(first, partition("s"))

            assert (await asked).json()["response"] == "echo hello"
            assert [first.recorder.accepts, owner.recorder.accepts] == [1, 0]
            assert "it does not accept our signature" in caplog.text

    run(scene)


def test_headers_between_servers_that_only_a_later_version_knows_reach_no_client() -> None:
    async def scene() -> None:
        async with pair() as (_, _first, owner, client):
            app = inner_of(owner)._app

            async def later(scope: Scope, receive: Receive, send: Send) -> None:
                async def more(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        message["headers"] = [*message["headers"], (b"strandline-later", b"1")]
                    await send(message)

                await app(scope, receive, more)

            inner_of(owner)._app = later
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})

            assert answer.json()["response"] == "echo hello"
            assert "strandline-later" not in answer.headers

    run(scene)


SENDER = {"sender": {"id": "U1", "name": "Ada"}}
NEWER = [
    ("POST", "/v1/sessions/s/runs", {"input": "hi", "not_before": "2036-01-01T09:00:00Z"}, "not_before"),
    ("POST", "/v1/sessions/s/runs", {"input": "hi", "if_busy": "steer"}, "steer"),
    ("POST", "/v1/sessions/s/runs", {"input": "hi", **SENDER}, "sender"),
    ("POST", "/v1/sessions/s/runs", {"input": "hi", "after": None}, "after"),
    ("POST", "/v1/sessions/s/fork", {"session_id": "s2"}, "fork"),
    ("POST", "/v1/sessions/s/runs", {"input": "hi", "webhook": {"url": "https://127.0.0.1/"}}, "webhook"),
    ("PATCH", "/v1/sessions/s", {"options": {"priority": 2}}, "options"),
    ("PATCH", "/v1/sessions/s", {"options": {"webhook": {"url": "https://127.0.0.1/"}}}, "webhook"),
    ("POST", "/v1/schedules", {"session_id": "s", "input": "hi", "every": 3600}, "schedules"),
    ("POST", "/v1/sessions/s/files", {"any": "content"}, "files"),
]


@pytest.mark.parametrize("is_owner", [True, False])
@pytest.mark.parametrize(("method", "path", "body", "feature"), NEWER, ids=[f"{m} {f}" for m, _, _, f in NEWER])
def test_what_an_older_server_would_do_otherwise_is_refused_while_one_is_there(
    method: str, path: str, body: Any, feature: Any, is_owner: bool, tmp_path: Path
) -> None:
    """It would start a delayed run at once, or take it for damaged when the session becomes its own."""

    async def scene() -> None:
        secrets = tmp_path / "secrets"
        secrets.write_text(f"anonymous {new_secret()}\n")
        async with pair(trusted_senders=True, files=tmp_path / "files", webhook_secrets=str(secrets)) as (
            found,
            first,
            owner,
            client,
        ):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            if is_owner:
                client = httpx.AsyncClient(base_url=owner.url, trust_env=False)
            found.town.unknown = {feature}
            answer = await client.request(method, path, json=body)
            server = owner if is_owner else first

            assert (answer.status_code, answer.json()["code"]) == (503, "older_server"), answer.text
            assert feature in answer.json()["detail"]
            assert answer.headers["retry-after"] == "10"
            assert first.recorder.accepts + owner.recorder.accepts == 1
            assert server.recorder.refusals["older_server"] == (
                1
                if feature in ("not_before", "steer", "sender", "after") or (method, feature) == ("POST", "webhook")
                else 0
            )
            assert (await client.post("/chat", json={"session_id": "s", "message": "on"})).status_code == 200
            found.town.unknown = set()
            assert (await client.request(method, path, json=body)).is_success
            if is_owner:
                await client.aclose()

    run(scene)


FUNCTION = {"name": "weather", "description": "d", "parameters": {}}
ASKED = {"id": "m", "role": "user", "content": "hi"}
WANTS: list[tuple[str, dict[str, Any], str]] = [
    (
        "/v1/chat/completions",
        {"user": "s", "messages": [ASKED], "tools": [{"type": "function", "function": FUNCTION}]},
        "tools",
    ),
    ("/v1/responses", {"conversation": "s", "input": "hi", "tools": [{"type": "function", **FUNCTION}]}, "tools"),
    ("/agui", {"threadId": "s", "runId": "r", "messages": [ASKED], "tools": [FUNCTION]}, "tools"),
    (
        "/v1/chat/completions",
        {"user": "s", "messages": [ASKED], "response_format": {"type": "json_object"}},
        "response_format",
    ),
    (
        "/v1/responses",
        {"conversation": "s", "input": "hi", "text": {"format": {"type": "json_object"}}},
        "response_format",
    ),
]


@pytest.mark.parametrize("is_owner", [True, False])
@pytest.mark.parametrize(("path", "body", "feature"), WANTS, ids=[f"{path} {feature}" for path, _, feature in WANTS])
def test_what_a_client_wants_of_the_agent_is_refused_while_an_older_server_would_leave_it_out(
    path: str, body: dict[str, Any], feature: Any, is_owner: bool
) -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            if is_owner:
                client = httpx.AsyncClient(base_url=owner.url, trust_env=False)
            found.town.unknown = {feature}
            answer = await client.post(path, json=body)
            assert answer.status_code == 503, answer.text
            assert f"does not know {feature}" in answer.text
            assert "older_server" in answer.text
            assert first.recorder.accepts + owner.recorder.accepts == 0
            found.town.unknown = set()
            assert (await client.post(path, json=body)).status_code != 503
            assert first.recorder.accepts + owner.recorder.accepts == 1
            if is_owner:
                await client.aclose()

    run(scene)


def test_no_run_is_replaced_while_an_older_server_would_continue_with_it_at_the_end_of_history() -> None:
    async def scene() -> None:
        async with pair() as (found, _, owner, client):
            answer = await client.post("/chat", json={"session_id": "s", "message": "before"})
            path = f"/v1/runs/{answer.json()['run_id']}/again"
            async with httpx.AsyncClient(base_url=owner.url, trust_env=False) as there:
                found.town.unknown = {"after"}
                answer = await there.post(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "older_server"), answer.text
                assert owner.recorder.accepts == 1
                found.town.unknown = set()
                assert (await there.post(path)).is_success

    run(scene)


@pytest.mark.parametrize("is_owner", [True, False])
def test_no_list_takes_a_conversation_back_while_an_older_server_is_there(is_owner: bool) -> None:
    async def scene() -> None:
        async with pair() as (found, _, owner, client), httpx.AsyncClient(base_url=owner.url, trust_env=False) as there:
            asked = there if is_owner else client

            async def listing(*texts: str) -> httpx.Response:
                messages = [{"role": "user", "content": text} for text in texts]
                headers = {"X-Session-Id": "s", "X-Client-History": "follow"}
                body = {"model": "x", "messages": messages}
                return await asked.post("/v1/chat/completions", json=body, headers=headers)

            assert (await listing("one")).status_code == 200
            found.town.unknown = {"after"}
            accepted = owner.recorder.accepts
            answer = await listing("another")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "older_server"), answer.text
            assert owner.recorder.accepts == accepted
            assert (await listing("one", "two")).status_code == 200, "it only continues"
            found.town.unknown = set()
            back = (await listing("another")).json()["strandline"]
            assert (back["after"], len(back["superseded"])) == (None, 2)

    run(scene)
