"""Callers of several servers: each sees its own, whichever server it uses, and one key is one run on all of them."""

import asyncio
from typing import Any

import httpx
import pytest

from cluster_support import pair, run, servers
from strandline._access.keyring import new_key
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
