"""What a token allows and what it does not, over all routes, asked as an ASGI app is asked."""

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest

from strandline._access.keyring import Keyring
from strandline._access.source import Keys
from strandline._access.tokens import Token, opened, signed
from strandline._clock import SystemClock
from strandline._engine.service import Service
from strandline._http.app.openapi import OPERATIONS
from strandline._http.middleware.auth import Access
from strandline._http.middleware.token_scope import ROUTES
from strandline._model import RunId, Sender, SessionId
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotReady
from unit.test_access import ADA, BOB, BODY, LINES, OPEN, OPS, OneKey, World, filled, run, served

PAGE: Final = "https://app.example.com"
SECRET: Final = b"s" * 32
S: Final = SessionId("s")


@asynccontextmanager
async def served_with_page(folder: Path, **settings: Any) -> AsyncIterator[World]:
    async with served(folder, cors_origins=[PAGE], **settings) as world:
        yield world


async def token_of(world: World, key: str = ADA[0], **wanted: Any) -> str:
    """Return a token, by default for session `s` and pages of `PAGE`."""
    body = {"origin": PAGE, **({} if "run_id" in wanted else {"sessions": ["s"]}), **wanted}
    async with world.client(key) as client:
        answer = await client.post("/v1/tokens", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return str(answer.json()["token"])


def page(world: World, token: str, origin: str = PAGE) -> httpx.AsyncClient:
    return world.client(token, Origin=origin)


async def one_run(client: httpx.AsyncClient, session: str = "s", message: str = "hello") -> str:
    answer = await client.post(f"/v1/sessions/{session}/runs", json={"input": message}, headers={"Prefer": "wait=20"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["run_id"])


# -- what is signed --------------------------------------------------------------------------------------


def test_a_token_is_read_by_its_key_and_secret_alone() -> None:
    token = Token(1.5, (S,), ("POST /chat",), PAGE, RunId("r"), Sender("u", "Ursula"))
    shown = signed(SECRET, ADA[1], token).encode()
    assert opened(SECRET, Keyring([BOB[1], ADA[1]]), shown) == (ADA[1], token)
    assert opened(b"t" * 32, Keyring([ADA[1]]), shown) is None, "of another journal"
    assert opened(SECRET, Keyring([BOB[1]]), shown) is None, "its key is gone"
    for place in range(len("strandline_token_"), len(shown)):
        other = b"A" if shown[place : place + 1] != b"A" else b"B"
        found = opened(SECRET, Keyring([ADA[1]]), shown[:place] + other + shown[place + 1 :])
        assert found is None or place == len(shown) - 1, "only the unused bits at the end may differ"
    for odd in (b"", b"strandline_token_", b"strandline_token_A", b"strandline_token_\xff\xff", shown[:-9], shown * 2):
        assert opened(SECRET, Keyring([ADA[1]]), odd) is None


# -- what it allows --------------------------------------------------------------------------------------


def test_a_page_with_a_token_has_a_conversation_in_its_sessions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path) as world, page(world, await token_of(world)) as client:
            run_id = await one_run(client)
            said = (await client.post("/chat", json={"message": "again", "session_id": "s"})).json()
            assert said["response"] == "said again"
            history = (await client.get("/v1/sessions/s/history")).json()["messages"]
            assert [each["content"][0]["text"] for each in history] == ["hello", "said hello", "again", "said again"]
            assert (await client.get(f"/v1/runs/{run_id}")).json()["output"] == "said hello"
            async with world.client(ADA[0]) as key:
                assert len((await key.get("/v1/sessions/s/runs")).json()["runs"]) == 2, "they are the caller's"

    run(main())


def test_other_sessions_and_their_runs_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path) as world:
            async with world.client(ADA[0]) as key:
                others = await one_run(key, "other")
            async with page(world, await token_of(world)) as client:
                for method, path, body in (
                    ("POST", "/v1/sessions/other/runs", {"input": "m"}),
                    ("GET", "/v1/sessions/other/history", None),
                    ("POST", "/chat", {"message": "m", "session_id": "other"}),
                    ("GET", "/history?session_id=other", None),
                    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "m"}], "user": "other"}),
                    ("GET", "/v1/events?session_id=s&session_id=other", None),
                    ("GET", f"/v1/runs/{others}", None),
                    ("GET", f"/v1/runs/{others}/events", None),
                    ("POST", f"/v1/runs/{others}/cancel", {}),
                    ("POST", f"/v1/runs/{others}/again", {}),
                ):
                    refused = await client.request(method, path, json=body)
                    assert refused.status_code == 403, (path, refused.text)
                    assert "token_forbidden" in refused.text, path
                assert (await client.get("/v1/runs/run_none")).status_code == 404
            async with page(world, await token_of(world, BOB[0])) as bob:
                assert (await bob.get(f"/v1/runs/{others}")).status_code == 404, "another caller's is not there"
            async with world.client(ADA[0]) as key:
                assert len((await key.get("/v1/sessions/other/runs")).json()["runs"]) == 1

    run(main())


def test_every_route_that_no_token_can_be_for_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path) as world, page(world, await token_of(world, OPS[0])) as client:
            asked = 0
            for each in OPERATIONS:
                route, path = f"{each.method} {each.path}", filled(each.path)
                if path in OPEN or route in ROUTES:
                    continue
                refused = await client.request(each.method, path, json=BODY if each.body else None)
                assert refused.status_code == 403, (route, refused.text)
                asked += 1
            assert asked > 20
            for path in ("/nothing", "/v1/sessions/s/runs/", "/V1/sessions/s/runs", "//v1/sessions/s/runs"):
                assert (await client.get(path)).status_code == 403, path
            assert "callers" not in (await client.get("/health")).json(), "nor is it an operator's"

    run(main())


def test_all_routes_that_a_token_can_be_for_are_there_and_it_can_be_for_some_alone(tmp_path: Path) -> None:
    assert set(ROUTES) <= {f"{each.method} {each.path}" for each in OPERATIONS}

    async def main() -> None:
        async with served_with_page(tmp_path) as world:
            token = await token_of(world, routes=["POST /chat", "GET /v1/sessions/{session_id}/history"])
            async with page(world, token) as client:
                said = await client.post("/chat", json={"message": "m", "session_id": "s"})
                assert said.status_code == 200
                assert (await client.get("/v1/sessions/s/history")).status_code == 200
                assert (await client.head("/v1/sessions/s/history")).status_code == 200
                refused = await client.post("/v1/sessions/s/runs", json={"input": "m"})
                assert refused.json()["detail"] == "this token does not allow POST /v1/sessions/{session_id}/runs"

    run(main())


def test_what_only_keys_may_want_of_a_route_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served_with_page(tmp_path, trusted_senders=True) as world,
            page(world, await token_of(world)) as client,
        ):
            run_id = await one_run(client)
            runs = "/v1/sessions/s/runs"
            for path, body in (
                (runs, {"input": "m", "webhook": {"url": "https://example.com"}}),
                (runs, {"input": "m", "not_before": "2096-10-02T07:06:40Z"}),
                (runs, {"input": "m", "sender": {"id": "eve"}}),
                (f"/v1/runs/{run_id}/cancel", {"force": True}),
                ("/v1/sessions/s/cancel", {"force": True}),
            ):
                refused = await client.post(path, json=body)
                assert (refused.status_code, refused.json()["code"]) == (403, "token_forbidden"), body
            assert len((await client.get(runs)).json()["runs"]) == 1

    run(main())


def test_what_is_sent_with_a_token_is_of_its_sender(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path, trusted_senders=True) as world:
            token = await token_of(world, sender={"id": "u7", "name": "Ursula"})
            async with page(world, token) as client:
                run_id = await one_run(client)
                assert (await client.get(f"/v1/runs/{run_id}")).json()["sender"] == {"id": "u7", "name": "Ursula"}
        async with served_with_page(tmp_path) as world, world.client(ADA[0]) as key:
            refused = await key.post("/v1/tokens", json={"sessions": ["s"], "origin": PAGE, "sender": {"id": "u7"}})
            assert refused.status_code == 422
            assert "trusted_senders" in refused.json()["detail"]

    run(main())


def test_the_feed_has_the_sessions_of_the_token_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def changes(_: Service, principal: str, after: int, *, sessions: set[str], types: list[str]) -> Any:
        asked.append((principal, sessions))
        raise Invalid("enough")

    monkeypatch.setattr(Service, "changes", changes)

    async def main() -> None:
        async with served_with_page(tmp_path) as world:
            async with page(world, await token_of(world, sessions=["s", "t"])) as client:
                await client.get("/v1/events")
                await client.get("/v1/events?session_id=t")
                assert (await client.get("/v1/events?session_id=u")).status_code == 403
            assert asked == [("ada", {"s", "t"}), ("ada", {"t"})]

    run(main())


# -- for how long, and where -----------------------------------------------------------------------------


def test_a_token_is_valid_until_it_expires_and_as_long_as_its_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"

    async def main() -> None:
        keys.write_text("\n".join(LINES))
        async with served_with_page(tmp_path, api_keys=[], api_keys_file=str(keys)) as world:
            assert world.app._lifespan is not None
            secret, now = world.app._lifespan.service.secret, time.time()
            for expires_at, status in ((now - 0.001, 401), (now + 60, 200)):
                async with page(world, signed(secret, ADA[1], Token(expires_at, (S,)))) as client:
                    answer = await client.get("/v1/sessions/s/runs")
                    assert answer.status_code == status, answer.text
                    assert status == 200 or "expired" in answer.json()["detail"]
            token = await token_of(world)
            keys.write_text("\n".join(each for each in LINES if not each.startswith("ada")))
            assert world.app._keys is not None
            await world.app._keys.reload()
            async with page(world, token) as client:
                assert (await client.get("/v1/sessions/s/runs")).status_code == 401

    run(main())


def test_a_token_counts_for_pages_of_its_origin_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, cors_origins=[PAGE, "https://other.example.com"]) as world:
            token = await token_of(world)
            for headers, status in (
                ({"Origin": PAGE}, 200),
                ({"Origin": PAGE.upper()}, 200),
                ({"Origin": "https://other.example.com"}, 403),
                ({"Origin": "http://127.0.0.1"}, 403),
                ({"Sec-Fetch-Site": "same-site"}, 403),
                ({"Sec-Fetch-Site": "same-origin"}, 200),
                ({}, 200),
            ):
                async with world.client(token, **headers) as client:
                    assert (await client.get("/v1/sessions/s/runs")).status_code == status, headers
            async with page(world, await token_of(world, origin=None), "https://other.example.com") as client:
                assert (await client.get("/v1/sessions/s/runs")).status_code == 200

    run(main())


def test_a_token_for_the_events_of_a_run_may_stand_in_their_url_and_no_other_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with served_with_page(tmp_path) as world, world.client(ADA[0]) as key:
            run_id, other = await one_run(key), await one_run(key)
            token = await token_of(world, run_id=run_id)
            async with world.client(None, Origin=PAGE) as client:
                events = await client.get(f"/v1/runs/{run_id}/events?x=1&token={token}")
                assert events.status_code == 200
                assert "event: run.finished" in events.text
                assert events.headers["referrer-policy"] == "no-referrer"
                for path, status in (
                    (f"/v1/runs/{other}/events?token={token}", 403),
                    (f"/v1/runs/{run_id}?token={token}", 401),
                    (f"/v1/runs/{run_id}/events?token={token}&token={token}", 401),
                    (f"/v1/runs/{run_id}/events?token={await token_of(world)}", 403),
                    (f"/v1/runs/{run_id}/events?token={ADA[0]}", 401),
                ):
                    assert (await client.get(path)).status_code == status, path
            async with page(world, token) as client:
                assert (await client.get(f"/v1/runs/{run_id}/events")).status_code == 200
                assert (await client.get(f"/v1/runs/{run_id}")).status_code == 403
            async with page(world, await token_of(world)) as client:
                refused = await client.post("/v1/tokens", json={"run_id": run_id, "origin": PAGE})
                assert refused.status_code == 403, "a token makes no other"
            logged = [each.getMessage() for each in caplog.records if each.name != "httpx"]
            assert not [each for each in logged if "strandline_token_" in each]
            assert [each for each in logged if f"made a token for run {run_id}" in each]

    run(main())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"origin": PAGE}, "names neither or both"),
        ({"origin": PAGE, "sessions": ["s"], "run_id": "run_1"}, "names neither or both"),
        ({"sessions": ["s"]}, "origin"),
        ({"origin": PAGE, "sessions": []}, "sessions"),
        ({"origin": PAGE, "sessions": ["not one"]}, "session"),
        ({"origin": PAGE, "sessions": ["s"], "session": "t"}, "session"),
        ({"origin": f"{PAGE}/path", "sessions": ["s"]}, "a scheme and a host"),
        ({"origin": "null", "sessions": ["s"]}, "a scheme and a host"),
        ({"origin": PAGE, "sessions": ["s"], "expires_in": 0}, "expires_in"),
        ({"origin": PAGE, "sessions": ["s"], "routes": []}, "at least one"),
        ({"origin": PAGE, "sessions": ["s"], "routes": ["POST /v1/tokens"]}, "cannot have 'POST /v1/tokens'"),
        ({"origin": PAGE, "sessions": [f"s{number:0>200}" for number in range(100)]}, "name fewer sessions"),
    ],
)
def test_what_no_token_can_be_made_of_is_refused_with_the_reason(body: Any, said: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path) as world, world.client(ADA[0]) as key:
            refused = await key.post("/v1/tokens", json=body)
            assert refused.status_code == 422, refused.text
            assert said in refused.json()["detail"]

    run(main())


def test_a_token_for_a_run_is_for_a_minute_at_most_and_for_a_run_of_the_caller(tmp_path: Path) -> None:
    async def main() -> None:
        async with served_with_page(tmp_path, max_token_lifetime=30) as world, world.client(ADA[0]) as key:
            run_id = await one_run(key)
            made = (await key.post("/v1/tokens", json={"run_id": run_id, "origin": None})).json()
            left_s = datetime.fromisoformat(made["expires_at"]).timestamp() - time.time()
            assert 50 < left_s <= 60
            assert made["sessions"] == ["s"]
            for wanted, most_s in (
                ({"run_id": run_id, "expires_in": 61}, 60),
                ({"sessions": ["s"]}, 30),
                ({"sessions": ["s"], "expires_in": 31}, 30),
                ({"sessions": ["s"], "expires_in": 5, "origin": "http://[::1]:3000"}, 5),
            ):
                made = (await key.post("/v1/tokens", json={"origin": None, **wanted})).json()
                left_s = datetime.fromisoformat(made["expires_at"]).timestamp() - time.time()
                assert most_s - 5 < left_s <= most_s, wanted
            async with world.client(BOB[0]) as bob:
                assert (await bob.post("/v1/tokens", json={"run_id": run_id, "origin": None})).status_code == 404

    run(main())


def test_without_keys_there_are_no_tokens(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, api_keys=[]) as world, world.client(None) as client:
            refused = await client.post("/v1/tokens", json={"sessions": ["s"], "origin": None})
            assert refused.status_code == 422
            assert "requires no key" in refused.json()["detail"]

    run(main())


def test_a_token_that_cannot_be_checked_yet_is_told_to_come_again() -> None:
    access = Access(cast("Keys", OneKey()), AppSettings(), bytes, SystemClock())
    shown = signed(SECRET, ADA[1], Token(math.inf, (S,)))
    scope = {"type": "http", "path": "/chat", "headers": [(b"authorization", f"Bearer {shown}".encode())]}
    with pytest.raises(NotReady):
        access.admit(scope)
