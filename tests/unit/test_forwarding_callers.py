"""Callers of several servers: each sees its own, whichever server it uses, and one key is one run on all of them."""

import asyncio
from typing import Any

import httpx
import pytest

from cluster_support import pair, run, servers
from strandline._access.keyring import new_key
from strandline._http.caller import Caller
from strandline._http.middleware.token_scope import TokenScope
from strandline._journal.partitions import PARTITIONS

OF_A_RUN = [
    ("GET", "", None),
    ("GET", "/events", None),
    ("HEAD", "/events", None),
    ("POST", "/cancel", {"force": True}),
    ("POST", "/move", {"front": True}),
    ("PATCH", "", {"input": "another"}),
]
OF_A_SESSION = [
    ("GET", "", None, 404),
    ("GET", "/runs", None, 200),
    ("GET", "/history", None, 200),
    ("POST", "/pause", None, 404),
    ("POST", "/resume", None, 404),
    ("POST", "/cancel", {"running": True, "force": True}, 404),
    ("DELETE", "", None, 404),
]


@pytest.mark.parametrize("moved", [False, True])
def test_no_caller_reaches_runs_or_sessions_of_another_by_way_of_another_server(moved: bool) -> None:
    async def scene() -> None:
        (a_key, a_kept), (b_key, b_kept) = new_key("a"), new_key("b")
        async with pair(api_keys=[a_kept.line(), b_kept.line()]) as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            a, b = {"Authorization": f"Bearer {a_key}"}, {"Authorization": f"Bearer {b_key}"}
            begun = await client.post("/chat", json={"session_id": "s", "message": "secret"}, headers=a)
            await client.post("/v1/sessions/s/pause", headers=a)
            waits = await client.post("/v1/sessions/s/runs", json={"input": "secret"}, headers=a)
            run_ids = [each.json()["run_id"] for each in (begun, waits)]
            if moved:
                await owner.kill()
                owner = await found.take_over(owner, api_keys=[a_kept.line(), b_kept.line()])
                first.journal._connection = owner.journal._connection
            for run_id in run_ids:
                for method, path, body in OF_A_RUN:
                    answer = await client.request(method, f"/v1/runs/{run_id}{path}", json=body, headers=b)
                    assert (answer.status_code, "secret" in answer.text) == (404, False), (method, path)
            for method, path, body, status in OF_A_SESSION:
                answer = await client.request(method, f"/v1/sessions/s{path}", json=body, headers=b)
                assert (answer.status_code, "secret" in answer.text) == (status, False), (method, path, answer.text)
            for path in ("/v1/runs", "/v1/sessions", "/history?session_id=s&count=0"):
                answer = await client.get(path, headers=b)
                assert (answer.status_code, "secret" in answer.text) == (200, False), path
            own = await client.get(f"/v1/runs/{run_ids[1]}", headers=a)
            assert (own.status_code, own.json()["status"]) == (200, "queued")

    run(scene)


@pytest.mark.parametrize("moved", [False, True])
def test_a_token_allows_no_more_by_way_of_another_server(moved: bool) -> None:
    async def scene() -> None:
        key, kept = new_key("a")
        async with pair(api_keys=[kept.line()]) as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            a = {"Authorization": f"Bearer {key}"}
            wanted = {"sessions": ["s"], "origin": None}
            made = (await client.post("/v1/tokens", json=wanted, headers=a)).json()
            token = {"Authorization": f"Bearer {made['token']}"}
            begun = await client.post("/chat", json={"session_id": "other", "message": "secret"}, headers=a)
            if moved:
                await owner.kill()
                owner = await found.take_over(owner, api_keys=[kept.line()])
                first.journal._connection = owner.journal._connection
            said = await client.post("/chat", json={"session_id": "s", "message": "hello"}, headers=token)
            assert (said.status_code, owner.recorder.accepts) == (200, 1 if moved else 2)
            run_id = begun.json()["run_id"]
            for method, path, body in (
                ("POST", "/chat", {"session_id": "other", "message": "hello"}),
                ("GET", "/v1/sessions/other/history", None),
                ("GET", f"/v1/runs/{run_id}", None),
                ("GET", f"/v1/runs/{run_id}/events", None),
                ("POST", f"/v1/runs/{run_id}/cancel", {}),
                ("POST", "/v1/sessions/s/cancel", {"force": True}),
                ("DELETE", "/v1/sessions/s", None),
            ):
                refused = await client.request(method, path, json=body, headers=token)
                assert (refused.status_code, "secret" in refused.text) == (403, False), (method, path, refused.text)
            assert (await client.get(f"/v1/runs/{said.json()['run_id']}", headers=token)).status_code == 200

    run(scene)


def test_the_owner_itself_refuses_what_a_token_does_not_allow_whatever_the_server_of_the_client_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        key, kept = new_key("a")
        async with pair(api_keys=[kept.line()]) as (_, _first, owner, client):
            wanted = {"sessions": ["s"], "origin": None}
            made = (await client.post("/v1/tokens", json=wanted, headers={"Authorization": f"Bearer {key}"})).json()
            check = TokenScope._check

            async def lax(scope: TokenScope, caller: Caller, request: Any) -> None:
                if scope._service is owner.service:
                    await check(scope, caller, request)

            monkeypatch.setattr(TokenScope, "_check", lax)
            refused = await client.delete("/v1/sessions/s", headers={"Authorization": f"Bearer {made['token']}"})
            assert (refused.status_code, refused.json()["code"]) == (403, "token_forbidden")

    run(scene)


def test_a_key_is_one_run_at_whichever_servers_it_is_sent_at_once_and_another_body_is_refused() -> None:
    async def scene() -> None:
        async with servers() as found:
            all_servers = [await found.start() for _ in range(3)]
            found.town.give(all_servers[1], *range(PARTITIONS))
            async with httpx.AsyncClient(trust_env=False, timeout=20) as client:

                async def sent(number: int, message: str) -> httpx.Response:
                    body = {"session_id": "s", "message": message}
                    url = all_servers[number % 3].url
                    return await client.post(f"{url}/chat", json=body, headers={"Idempotency-Key": "k"})

                same = await asyncio.gather(*(sent(number, "same") for number in range(12)))
                other = await asyncio.gather(*(sent(number, "other") for number in range(3)))
                again = await asyncio.gather(*(sent(number, "same") for number in range(3)))

            assert {each.status_code for each in same} == {200}
            assert len({each.json()["run_id"] for each in [*same, *again]}) == 1
            assert [(each.status_code, each.json()["code"]) for each in other] == [(422, "key_reused")] * 3
            assert [each.headers["idempotency-replayed"] for each in again] == ["true"] * 3
            assert [each.recorder.accepts for each in all_servers] == [0, 1, 0]

    run(scene)


def test_a_key_is_the_same_run_after_its_session_has_moved_twice() -> None:
    async def scene() -> None:
        async with pair() as (found, _first, owner, client):
            body: dict[str, Any] = {"session_id": "s", "message": "once"}
            run_ids = []
            for _ in range(3):
                answer = await client.post("/chat", json=body, headers={"Idempotency-Key": "k"})
                other = await client.post("/chat", json={**body, "message": "x"}, headers={"Idempotency-Key": "k"})
                assert (answer.status_code, other.status_code) == (200, 422)
                run_ids.append(answer.json()["run_id"])
                await owner.kill()
                owner = await found.take_over(owner)
            assert len(set(run_ids)) == 1

    run(scene)
