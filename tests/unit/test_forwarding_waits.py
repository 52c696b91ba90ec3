"""Clients that wait for runs of other servers while these change: those that leave, that want a limit, and many."""

import asyncio
import gc
import os
from typing import Any

import httpx
import pytest

from cluster_support import Served, Servers, pair, run, until
from strandline._agents.port import Attempt
from strandline._http.forwarding.envelope import Left, signed
from strandline._model import OnDisconnect, RunStatus
from strandline.testing import Gate

STREAM = {"Accept": "text/event-stream"}
BODIES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/chat", {"session_id": "s", "message": "hello"}, {}),
    ("/chat", {"session_id": "s", "message": "hello"}, STREAM),
    ("/v1/sessions/s/runs", {"input": "hello"}, STREAM),
]


async def statuses(server: Served) -> list[RunStatus]:
    """Return the statuses of all runs that a server has in storage."""
    page = await server.service.runs_of((await server.service.sessions(None)).sessions[0].key.principal)
    return [each.run.status for each in page.runs]


@pytest.mark.parametrize(("path", "body", "headers"), BODIES, ids=["chat", "chat events", "events"])
@pytest.mark.parametrize("says", ["the request", "the setting"])
def test_a_client_that_leaves_while_its_runs_server_changes_is_lost_for_the_next_one(
    path: str, body: dict[str, Any], headers: dict[str, str], says: str
) -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(_: Attempt) -> str:
            await gate.wait()
            return "done"

        given: dict[str, Any] = {"cancel_grace_s": 0.0}
        sent = body
        if says == "the request":
            sent = {**body, "on_disconnect": "cancel"}
        else:
            given["on_disconnect"] = OnDisconnect.CANCEL
        async with pair(held, lease_s=20.0, **given) as (found, first, owner, client):
            asked = asyncio.create_task(read(client, path, sent, headers))
            await until(gate.reached.is_set, "it executes")
            await owner.kill()
            refreshed = found.town.refreshed
            await until(lambda: found.town.refreshed > refreshed, "its server looks for the next one")
            asked.cancel()
            await asyncio.wait([asked])
            await until(lambda: forwards_left(first), "its server has noticed")
            heir = await found.take_over(owner, held, **given)
            await until(lambda: heir.service.health().lost_clients, "the next one learns of it")
            await until(lambda: not heir.service.health().running, "the run is cancelled")

            assert await statuses(heir) == [RunStatus.CANCELLED]
            gate.open()

    run(scene)


def forwards_left(server: Served) -> bool:
    """Return whether no client of a server is connected."""
    (web, _), *_ = server._webs
    return not web.server_state.connections


async def read(client: httpx.AsyncClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    async with client.stream("POST", path, json=body, headers=headers) as answer:
        await answer.aread()


def test_a_client_that_leaves_as_its_request_is_sent_is_lost_for_the_other_server() -> None:
    """The news may be there before the request, which takes another connection."""

    async def scene() -> None:
        gate = Gate()

        async def held(_: Attempt) -> str:
            await gate.wait()
            return "never"

        async with pair(held, on_disconnect=OnDisconnect.CANCEL, cancel_grace_s=0.0) as (found, first, owner, client):
            others = first.forwarder._others
            send = others.send

            async def late(upstream: Any, peer: Any, make: Any, body: bytes) -> Any:
                left = Left(first.id, owner.id, others._number + 2, others._now(peer), others._number + 1)
                others._number += 2
                async with httpx.AsyncClient(trust_env=False) as other:
                    content = signed(found.town.secret, left)
                    assert (await other.post(f"http://{owner.address}/forward", content=content)).status_code == 204
                others._number -= 2
                try:
                    return await send(upstream, peer, make, body)
                finally:
                    others._number += 1

            others.send = late  # type: ignore[method-assign]
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(lambda: owner.service.health().lost_clients, "the owner has learned of it")
            await until(lambda: not owner.service.health().running, "the run is cancelled")
            gate.open()
            asked.cancel()

            assert await statuses(owner) == [RunStatus.CANCELLED]

    run(scene)


@pytest.mark.parametrize("kind", ["POST", "GET"])
def test_a_client_that_wants_to_wait_is_answered_after_two_moves(kind: str) -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(_: Attempt) -> str:
            await gate.wait()
            return "done"

        async with pair(held) as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            if kind == "POST":
                prefer = {"Prefer": "wait=20"}
                asked = client.post("/v1/sessions/s/runs", json={"input": "hi"}, headers=prefer)
            else:
                begun = await client.post("/v1/sessions/s/runs", json={"input": "hi"})
                asked = client.get(f"/v1/runs/{begun.json()['run_id']}", headers={"Prefer": "wait=20"})
            waits = asyncio.create_task(asked)
            for _ in range(2):
                await until(lambda: owner.service.vitals().subscribers, "it waits")  # noqa: B023
                owner = await moved(found, owner, held)
            await until(lambda: owner.service.vitals().subscribers, "it waits there")
            gate.open()
            answer = await waits

            assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (200, "succeeded", "done")
            assert answer.headers["preference-applied"] == "wait=20"
            assert first.recorder.accepts == 0

    run(scene)


@pytest.mark.parametrize("kind", ["POST", "GET"])
def test_a_client_that_waits_for_some_seconds_waits_no_longer_over_two_moves(kind: str) -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            await client.post("/v1/sessions/s/pause")
            prefer = {"Prefer": "wait=2"}
            begun = await client.post("/v1/sessions/s/runs", json={"input": "hi"})
            if kind == "POST":
                asked = client.post("/v1/sessions/s/runs", json={"input": "ho"}, headers=prefer)
            else:
                asked = client.get(f"/v1/runs/{begun.json()['run_id']}", headers=prefer)
            began = asyncio.get_running_loop().time()
            waits = asyncio.create_task(asked)
            for _ in range(2):
                await until(lambda: owner.service.vitals().subscribers, "it waits")  # noqa: B023
                owner = await moved(found, owner)
            answer = await waits
            took_s = asyncio.get_running_loop().time() - began

            assert (answer.status_code, answer.json()["status"]) == (202 if kind == "POST" else 200, "queued")
            assert 1.9 < took_s < 8.0

    run(scene)


async def moved(found: Servers, owner: Served, *behaviour: Any) -> Served:
    """Have the owner lost, and another one take over."""
    await owner.kill()
    return await found.take_over(owner, *behaviour)


def test_a_hundred_streams_of_runs_of_another_server_end_and_leave_nothing() -> None:
    async def scene() -> None:
        gate = Gate()

        async def speak(attempt: Attempt) -> str:
            attempt.add_text("one ")
            await gate.wait()
            return "one two"

        async with pair(speak, max_running=100) as (_, first, owner, client):
            await client.post("/v1/sessions/x/pause")
            before = descriptors(), tasks()
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=first.url, timeout=30, trust_env=False, limits=limits) as many:

                async def stream(number: int) -> str:
                    path = f"/v1/sessions/s{number}/runs"
                    async with many.stream("POST", path, json={"input": "hi"}, headers=STREAM) as answer:
                        return "".join([text async for text in answer.aiter_text()])

                asked = [asyncio.create_task(stream(number)) for number in range(100)]
                await until(lambda: owner.service.vitals().subscribers == 100, "all are followed")
                during = descriptors()
                gate.open()
                found = await asyncio.gather(*asked)

            assert all(text.count("event: run.finished\n") == 1 for text in found)
            assert during - before[0] <= 4 * 100 + 8  # (each is two connections, both ends of which are here)
            assert not first.forwarder._at_others
            assert len(first.forwarder._others.pool) <= 64
            first.forwarder._others.pool.close()
            await until(lambda: tasks() <= before[1] + 2, "their tasks have ended")
            await until(lambda: descriptors() <= before[0] + 8, "their connections are closed")

    run(scene)


def test_a_hundred_streams_whose_clients_leave_leave_nothing_at_either_server() -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(_: Attempt) -> str:
            await gate.wait()
            return "done"

        async with pair(held, max_running=100) as (_, first, owner, client):
            await client.post("/v1/sessions/x/pause")
            before = descriptors(), tasks()
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=first.url, timeout=30, trust_env=False, limits=limits) as many:
                asked = [
                    asyncio.create_task(read(many, f"/v1/sessions/s{number}/runs", {"input": "hi"}, STREAM))
                    for number in range(100)
                ]
                await until(lambda: owner.service.vitals().subscribers == 100, "all are followed")
                for each in asked:
                    each.cancel()
                await asyncio.wait(asked)
            await until(lambda: not owner.service.vitals().subscribers, "the owner follows none")
            await until(lambda: not owner.apps.inner._under_way, "nothing is under way")  # type: ignore[union-attr]

            assert owner.service.health().lost_clients == 100
            assert not first.forwarder._at_others
            gate.open()
            await until(lambda: not owner.service.health().running, "all runs have ended")
            first.forwarder._others.pool.close()
            await until(lambda: tasks() <= before[1] + 2, "their tasks have ended")
            await until(lambda: descriptors() <= before[0] + 8, "their connections are closed")

    run(scene)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return len(asyncio.all_tasks())
