"""Streams of runs of another server: passed on as they come, and resumed where their run continues."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cluster_support import Served, pair, run, until
from engine_support import prompt_of
from strandline._agents.port import Attempt
from strandline._engine.streams import LAST
from strandline._http.forwarding.client_request import ClientRequest
from strandline._http.forwarding.envelope import Forward
from strandline._http.forwarding.upstream import UpstreamLost
from strandline._http.forwarding.whole_events import WholeEvents
from strandline.testing import Gate

STREAM = {"Accept": "text/event-stream"}


class Event:
    """An event as a client reads it."""

    def __init__(self, block: str) -> None:
        lines = [line.partition(": ") for line in block.split("\n")]
        found = {name: value for name, _, value in lines}
        self.id = int(found["id"]) if "id" in found else None
        self.data: dict[str, Any] = json.loads(found["data"]) if "data" in found else {}
        self.type: str | None = found.get("event")


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    """Yield the events of a response. Fails if it ends in the middle of one."""
    rest = ""
    async for text in answer.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for block in blocks:
            if not block.startswith(":"):
                yield Event(block)
    assert rest == ""


def speaking(gate: Gate) -> Any:
    """Return a behaviour that says one word, and another one once the gate is open."""

    async def speak(attempt: Attempt) -> str:
        attempt.add_text("one ")
        await gate.wait()
        attempt.add_text("two")
        return "one two"

    return speak


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/sessions/s/runs", {"input": "hello"}),
    ("/chat", {"session_id": "s", "message": "hello"}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=[path for path, _ in REQUESTS])
def test_a_stream_is_the_same_by_way_of_another_server(path: str, body: dict[str, Any]) -> None:
    async def scene() -> None:
        gate = Gate()
        gate.open()
        async with pair(speaking(gate)) as (_, _first, owner, client):
            async with client.stream("POST", path, json=body, headers=STREAM) as answer:
                forwarded = [each async for each in events(answer)]
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert answer.headers["location"].startswith("/v1/runs/run_")
                assert not [each for each in answer.headers if each.startswith("strandline-")]
            async with client.stream("POST", owner.url + path, json=body, headers=STREAM) as answer:
                there = [each async for each in events(answer)]

            assert [each.type for each in forwarded] == [each.type for each in there]
            assert forwarded[-1].id == LAST

    run(scene)


@pytest.mark.parametrize(("path", "body"), REQUESTS, ids=[path for path, _ in REQUESTS])
def test_a_stream_is_resumed_at_the_server_that_takes_over_and_its_client_keeps_its_connection(
    path: str, body: dict[str, Any]
) -> None:
    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (found, _first, owner, client):
            seen: list[Event] = []
            async with client.stream("POST", path, json=body, headers=STREAM) as answer:
                async for each in events(answer):
                    seen.append(each)
                    if each.type == "text.delta" and len(seen) < 4:
                        await owner.kill()
                        gate.open()
                        await found.take_over(owner, speaking(gate))

            types = [each.type for each in seen]
            assert types.count("run.restarted") == 1
            assert types[-1] == "run.finished"
            assert seen[-1].data["output"] == "one two"
            ids = [each.id for each in seen if each.id is not None]
            assert ids == sorted(set(ids))
            assert owner.recorder.accepts == 1

    run(scene)


def test_a_stream_whose_connection_is_lost_continues_with_the_next_event() -> None:
    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (_, first, owner, client):
            seen: list[Event] = []
            async with client.stream("POST", "/chat", json=REQUESTS[1][1], headers=STREAM) as answer:
                async for each in events(answer):
                    seen.append(each)
                    if each.type == "text.delta" and not gate_is_open(gate):
                        first.forwarder._others.pool.fail(owner.address, UpstreamLost("cut"))
                        await until(lambda: first.recorder.forwards["lost"], "the connection is lost")
                        gate.open()

            types = [each.type for each in seen]
            assert types.count("run.started") == 1
            assert "run.restarted" not in types
            assert "".join(each.data["text"] for each in seen if each.type == "text.delta") == "one two"
            assert types[-1] == "run.finished"

    run(scene)


def gate_is_open(gate: Gate) -> bool:
    return gate._opened.is_set()


def test_a_stream_is_resumed_where_its_partition_was_handed_over_by_the_server_of_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = envelopes(monkeypatch)

    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (found, _first, owner, client):
            seen: list[Event] = []
            at_owner = owner.url + "/v1/sessions/s/runs"
            async with client.stream("POST", at_owner, json={"input": "hi"}, headers=STREAM) as answer:
                async for each in events(answer):
                    seen.append(each)
                    if each.type == "text.delta" and len(seen) < 4:
                        await hand_over(owner, await found.take_over(owner, speaking(gate), stays=True))
                        gate.open()

            types = [each.type for each in seen]
            assert (types.count("run.restarted"), types[-1]) == (1, "run.finished")
            before = max(each.id or 0 for each in seen[: types.index("run.restarted")])
            assert (b"last-event-id", b"%d" % before) in sent[0].headers
            assert owner.recorder.forwards["answered"] == 1

    run(scene)


def test_the_events_of_an_ended_run_are_after_a_move_what_they_are_after_a_restart() -> None:
    """Its end with the whole answer, behind a gap: also if the former server only handed the session over."""

    async def scene() -> None:
        gate = Gate()
        gate.open()
        async with pair(speaking(gate)) as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            run_id = (await client.post("/chat", json=REQUESTS[1][1])).json()["run_id"]
            path = f"/v1/runs/{run_id}/events"
            whole = await read_events(client, path)
            assert [each.type for each in whole][-2:] == ["message.added", "run.finished"]
            await owner.kill()
            restarted = await found.take_over(owner, speaking(gate))
            after_a_restart = await read_events(client, restarted.url + path)
            assert [each.type for each in after_a_restart] == ["stream.gap", "run.finished"]
            assert after_a_restart[-1].data["output"] == whole[-1].data["output"] == "one two"

            await hand_over(restarted, await found.take_over(restarted, speaking(gate), stays=True))
            moved = await read_events(client, path)
            assert [each.__dict__ for each in moved] == [each.__dict__ for each in after_a_restart]
            assert (await client.get(path, headers={"Last-Event-ID": str(LAST)})).status_code == 204

    run(scene)


async def read_events(client: httpx.AsyncClient, path: str) -> list[Event]:
    async with client.stream("GET", path) as answer:
        return [each async for each in events(answer)]


def envelopes(monkeypatch: pytest.MonkeyPatch) -> list[Forward]:
    """Return what is sent to other servers, as it is sent."""
    sent: list[Forward] = []
    make = ClientRequest.envelope

    def noted(request: ClientRequest, *given: Any) -> Forward:
        envelope = make(request, *given)
        assert isinstance(envelope, Forward)
        sent.append(envelope)
        return envelope

    monkeypatch.setattr(ClientRequest, "envelope", noted)
    return sent


async def hand_over(former: Served, owner: Served) -> None:
    """Have the former owner of all runs learn that it has none any more."""
    former.service._streams.stop()


def test_a_waiting_client_is_answered_by_the_server_that_its_session_was_handed_to() -> None:
    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (found, _first, owner, client):
            body = {"session_id": "s", "message": "hi"}
            waiting = asyncio.create_task(client.post(owner.url + "/chat", json=body))
            await until(gate.reached.is_set, "it executes")
            await hand_over(owner, await found.take_over(owner, speaking(gate), stays=True))
            gate.open()

            assert (await waiting).json()["response"] == "one two"

    run(scene)


def test_a_stream_that_cannot_be_resumed_is_cut_and_does_not_look_complete() -> None:
    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (_found, _first, owner, client):
            body = {"model": "x", "user": "s", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                pieces = answer.aiter_text()
                while "one" not in await anext(pieces):
                    pass
                await owner.kill()
                with pytest.raises(httpx.RemoteProtocolError):
                    await anext(pieces)

    run(scene)


def test_a_stream_is_cut_in_time_after_a_whole_event_and_its_last_id_is_known() -> None:
    found = WholeEvents()
    assert found.take(b"retry: 1000\nid: 1\nevent: a\ndata: {}") == b""
    assert found.last_id == 0
    assert found.take(b"\n\nid: 2\nda") == b"retry: 1000\nid: 1\nevent: a\ndata: {}\n\n"
    assert found.last_id == 1
    assert found.take(b'ta: {"t":"id: 9"}\n\nevent: b\ndata: {}\n\n: alive\n\nid') == (
        b'id: 2\ndata: {"t":"id: 9"}\n\nevent: b\ndata: {}\n\n: alive\n\n'
    )
    assert found.last_id == 2
    assert found.take(b": 3\n\n") == b"id: 3\n\n"
    assert found.last_id == 3


def test_a_prompt_is_passed_on_whole() -> None:
    async def scene() -> None:
        async def length(attempt: Attempt) -> str:
            return str(len(prompt_of(attempt)))

        async with pair(length, max_body_bytes=10**7) as (_, _first, _owner, client):
            answer = await client.post("/chat", json={"session_id": "s", "message": "x" * 3_000_000})
            assert answer.json()["response"] == "3000000"

    run(scene)


def test_the_clients_of_a_server_that_stops_learn_that_their_runs_continue_elsewhere() -> None:
    async def scene() -> None:
        gate = Gate()
        async with pair(speaking(gate)) as (_, first, owner, client):
            chat = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hi"}))
            await until(gate.reached.is_set, "it executes")
            run_id = (await client.get("/v1/sessions/s")).json()["running"]
            prefer = {"Prefer": "wait=60"}
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            read = asyncio.create_task(client.get(f"/v1/runs/{run_id}", headers=prefer))
            here = asyncio.create_task(client.post("/v1/sessions/t/runs", json={"input": "hi"}, headers=prefer))
            own = client.stream("POST", "/v1/sessions/u/runs", json={"input": "hi"}, headers=STREAM)
            body = {"model": "x", "user": "v", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            openai = client.stream("POST", "/v1/chat/completions", json=body)
            async with own as in_ours, openai as in_openais:
                pieces = in_openais.aiter_text()
                while "one" not in await anext(pieces):
                    pass
                await until(lambda: owner.recorder.accepts == 4, "all are accepted")
                assert first.apps.forwarder is not None
                await first.apps.forwarder.leave()
                ended = [each.type async for each in events(in_ours)]
                rest = "".join([text async for text in pieces])

            answer = await chat
            assert (answer.status_code, answer.json()["status"], answer.json()["run_id"]) == (202, "queued", run_id)
            assert (await here).status_code == 202
            assert [(await read).status_code, (await read).json()["status"]] == [200, "running"]
            assert ended[-1] == "text.delta"
            assert ("goes_on_later" in rest, rest.endswith("data: [DONE]\n\n")) == (True, True)
            assert owner.service.health().running == 4
            gate.open()

    run(scene)
