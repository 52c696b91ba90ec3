"""A request for a session of another server: real services, real HTTP, a cluster that the test moves about."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from cluster_support import cut_connections, pair, partition, run, servers, until
from engine_support import key, prompt_of
from logged import ours
from ports import reserved_port
from strandline._access.keyring import new_key
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._engine.admission import Ticket
from strandline._engine.reading import RunPage
from strandline._engine.requests import Request
from strandline._http.forwarding.client_request import ClientRequest
from strandline._http.forwarding.envelope import Forward
from strandline._journal.cluster import Peer
from strandline._journal.partitions import PARTITIONS, suffix_of
from strandline._journal.port import DeletedQuery, RunKeyQuery, RunQuery
from strandline._model import OnDisconnect, Principal, RunId
from strandline.errors import JournalUnavailable, NotFound, NotOwner
from strandline.testing import Gate


def test_a_chat_is_answered_by_the_server_that_has_its_session() -> None:
    async def scene() -> None:
        async with pair() as (_, first, owner, client):
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})

            assert answer.status_code == 200
            assert answer.json()["response"] == "echo hello"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert len(answer.headers.get_list("x-content-type-options")) == 1
            assert [first.recorder.accepts, owner.recorder.accepts] == [0, 1]
            assert first.recorder.forwards["answered"] == 1
            assert first.service.refused == 0

    run(scene)


ROUTES: list[tuple[str, str, Any, int]] = [
    ("POST", "/v1/sessions/s/runs", {"input": "hi"}, 202),
    ("GET", "/v1/sessions/s/runs", None, 200),
    ("GET", "/v1/sessions/s", None, 200),
    ("HEAD", "/v1/sessions/s", None, 200),
    ("POST", "/v1/sessions/s/pause", None, 200),
    ("POST", "/v1/sessions/s/resume", None, 200),
    ("POST", "/v1/sessions/s/cancel", {"running": True}, 200),
    ("POST", "/v1/chat/completions", {"model": "x", "user": "s", "messages": [{"role": "user", "content": "hi"}]}, 200),
    ("POST", "/chat", {"session_id": "s", "message": "hi"}, 200),
    ("DELETE", "/v1/sessions/s", None, 204),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ROUTES, ids=lambda each: str(each)[:40])
def test_every_route_of_a_session_is_forwarded(method: str, path: str, body: Any, status: int) -> None:
    async def scene() -> None:
        async with pair() as (_, first, owner, client):
            begun = await client.post("/chat", json={"session_id": "s", "message": "before"})
            assert begun.status_code == 200
            answer = await client.request(method, path, json=body)

            assert answer.status_code == status, answer.text
            await until(lambda: first.recorder.forwards["answered"] == 2, "both were answered by the owner")
            async with httpx.AsyncClient(base_url=owner.url, trust_env=False) as at_owner:
                same = await at_owner.request(method, path, json=body)
            assert same.status_code in (status, 404)
            assert sorted(same.headers) == sorted(answer.headers) or same.status_code == 404

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "", 200),
        ("POST", "/cancel", 409),
        ("POST", "/move", 409),
        ("PATCH", "", 409),
        ("GET", "/events", 200),
        ("HEAD", "/events", 200),
    ],
)
def test_every_route_of_a_run_is_forwarded(method: str, path: str, status: int) -> None:
    async def scene() -> None:
        async with servers() as found:
            first, owner = await found.start(), await found.start()
            found.town.give(owner, *range(PARTITIONS))
            # (its record is in storage, which all servers read: here in the owner's journal)
            first.journal._connection = owner.journal._connection
            async with httpx.AsyncClient(base_url=first.url, trust_env=False) as client:
                begun = await client.post("/chat", json={"session_id": "s", "message": "before"})
                body = {"front": True} if path == "/move" else {"priority": 1} if method == "PATCH" else None
                answer = await client.request(method, f"/v1/runs/{begun.json()['run_id']}{path}", json=body)

                assert answer.status_code == status, answer.text
                await until(lambda: first.recorder.forwards["answered"] == 2, "both were answered by the owner")

    run(scene)


@pytest.mark.parametrize("copied", [False, True])
def test_of_a_run_of_another_server_nothing_but_its_session_is_read(copied: bool) -> None:
    """Unless its id was copied from another journal, and names a part of this server."""

    async def scene() -> None:
        async with servers() as found:
            first, owner = await found.start(), await found.start()
            own = next(name for name in map(str, range(1000)) if partition(name) != partition("s"))
            found.town.give(owner, *range(PARTITIONS))
            found.town.give(first, partition(own))
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            named = RunId(f"run_1{suffix_of(key(own if copied else 's'))}")
            run_id = (await owner.service.submit(Request(key=key("s"), input="hi"), run_id=named)).run_id
            asked: list[Any] = []
            read = first.journal.read

            async def noted(query: Any) -> Any:
                asked.append(type(query))
                return await read(query)

            first.journal.read = noted  # type: ignore[method-assign]
            with pytest.raises(NotOwner):
                await first.service.run(key().principal, run_id)
            assert asked == [RunQuery if copied else RunKeyQuery]
            with pytest.raises(NotFound):
                await first.service.run(Principal("other"), run_id)
            found.town.give(first, partition("s"))
            del asked[:]
            if not copied:
                assert (await first.service.run(key().principal, run_id)).run.run_id == run_id
                assert asked == [RunQuery]

    run(scene)


LARGE = "x" * 1_000_000
LARGE_BODIES: list[tuple[str, Any]] = [
    ("/chat", {"session_id": "s", "message": LARGE}),
    ("/v1/sessions/s/runs", {"input": LARGE}),
    ("/invocations", {"prompt": LARGE}),
    ("/v1/chat/completions", {"model": "x", "user": "s", "messages": [{"role": "user", "content": LARGE}]}),
    (
        "/v1/chat/completions",
        {"model": "x", "user": "s", "messages": [{"role": "user", "content": text} for text in [LARGE, "hi"]]},
    ),
]


@pytest.mark.parametrize(("path", "body"), LARGE_BODIES, ids=lambda each: str(each)[:40])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_body_may_be_as_large_as_the_server_of_its_client_lets_it_be(path: str, body: Any, keyed: bool) -> None:
    async def scene() -> None:
        async def length(attempt: Attempt) -> str:
            return str(len(prompt_of(attempt)))

        async with servers() as found:
            first = await found.start(length, max_body_bytes=2_000_000, max_chat_body_bytes=4_000_000)
            owner = await found.start(length, max_body_bytes=1_000, max_chat_body_bytes=1_000)
            headers = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s" * 33, "Prefer": "wait=10"}
            if keyed:
                headers["Idempotency-Key"] = "k"
            async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=20) as client:
                found.town.give(owner, *range(PARTITIONS))
                answer = await client.post(first.url + path, json=body)
                assert (answer.status_code, owner.recorder.accepts) == (200, 1), answer.text
                assert "1000000" in answer.text or body["messages"][-1]["content"] == "hi"
                refused = await client.post(owner.url + path, json=body)
                found.town.give(first, *range(PARTITIONS))
                by_its_own = await client.post(owner.url + path, json=body)

            assert [refused.status_code, by_its_own.status_code] == [413, 413]
            assert first.recorder.accepts == 0

    run(scene)


def test_a_request_whose_answer_was_lost_is_sent_again_and_is_one_run() -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return f"echo {prompt_of(attempt)}"

        async with pair(held) as (_, first, owner, client):
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "once"}))
            await until(lambda: owner.recorder.accepts, "the run is accepted")
            cut_connections(owner)
            await until(lambda: first.recorder.forwards["lost"], "the answer is lost")
            gate.open()
            answer = await asked

            assert answer.json()["response"] == "echo once"
            assert "idempotency-replayed" not in answer.headers
            assert owner.recorder.accepts == 1

    run(scene)


@pytest.mark.parametrize("state", ["executes", "has ended"])
def test_a_request_that_is_overtaken_by_itself_is_still_one_run(state: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        gate, late = Gate(), Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return f"echo {prompt_of(attempt)}"

        async with pair(held) as (_, _first, owner, client):
            submit = owner.service.submit
            tickets: list[Ticket] = []

            async def overtaken(request: Any, **more: Any) -> Ticket:
                if more["sent_before_s"] is None:
                    cut_connections(owner)
                    await asyncio.shield(late.wait())
                tickets.append(await submit(request, **more))
                return tickets[-1]

            owner.service.submit = overtaken  # type: ignore[method-assign]
            first_one = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "once"}))
            await until(lambda: tickets, "the second one is accepted")
            if state == "has ended":
                gate.open()
                assert (await first_one).json()["response"] == "echo once"
            again = await submit(Request(key=key("s"), input="once"), run_id=tickets[0].run_id)
            gate.open()

            assert (again.run_id, again.attached) == (tickets[0].run_id, True)
            assert (await first_one).json()["response"] == "echo once"
            assert owner.recorder.accepts == 1
            assert [each.getMessage() for each in ours(caplog) if each.levelname == "ERROR"] == []
            late.open()

    run(scene)


@pytest.mark.parametrize("before", [0, 1])
def test_a_request_whose_answer_was_lost_and_that_nobody_takes_in_time_is_not_said_to_be_refused(
    before: int,
) -> None:
    """On a new connection, or on one that has answered `before`."""

    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            if prompt_of(attempt) == "once":
                await gate.wait()
            return "echo"

        async with pair(held, lease_s=-2.9) as (found, _first, owner, client):
            for _ in range(before):
                await client.post("/chat", json={"session_id": "s", "message": "before"})
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "once"}))
            await until(lambda: owner.recorder.accepts > before, "the run is accepted")
            found.town.owners[partition("s")] = None
            cut_connections(owner)
            answer = await asked
            gate.open()

            assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")

    run(scene)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/runs/{run}/cancel", (502, "answer_lost")),
        ("POST", "/v1/sessions/s/pause", (502, "answer_lost")),
        ("GET", "/v1/sessions/s", (503, "moved")),
    ],
)
def test_a_change_whose_answer_was_lost_and_that_nobody_takes_in_time_is_not_said_to_be_refused(
    method: str, path: str, expected: tuple[int, str]
) -> None:
    """What only reads has no effect, and may be refused."""

    async def scene() -> None:
        async with pair(lease_s=-2.9) as (found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            await client.post("/v1/sessions/s/pause")
            waits = await client.post("/v1/sessions/s/runs", json={"input": "x"}, headers={"Prefer": "respond-async"})
            at = path.format(run=waits.json()["run_id"])

            async def lose(*_: object, **__: object) -> None:
                found.town.owners[partition("s")] = None
                cut_connections(owner)
                await asyncio.Event().wait()

            for name in ("cancel", "pause", "session"):
                setattr(owner.service, name, lose)
            answer = await client.request(method, at)

            assert (answer.status_code, answer.json()["code"]) == expected

    run(scene)


def test_a_request_waits_for_the_next_owner_and_is_answered_by_it() -> None:
    async def scene() -> None:
        async with pair() as (found, _first, owner, client):
            lost = partition("s")
            found.town.owners[lost] = None
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(lambda: found.town.refreshed, "it waits")
            found.town.give(owner, lost)

            assert (await asked).json()["response"] == "echo hello"

    run(scene)


def test_a_server_that_becomes_the_owner_itself_answers_itself() -> None:
    async def scene() -> None:
        async with pair() as (found, first, _owner, client):
            lost = partition("s")
            found.town.owners[lost] = None
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(lambda: found.town.refreshed, "it waits")
            found.town.give(first, lost)

            assert (await asked).json()["response"] == "echo hello"
            assert first.recorder.accepts == 1

    run(scene)


def test_an_owner_that_has_lost_the_session_sends_the_request_away() -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, client):
            third = await found.start()
            views = first.journal.cluster
            real, stale = views.owner, found.town.peers[owner.id]
            found.town.give(third, partition("s"))

            def outdated(partition: int) -> Peer | None:
                return real(partition) if found.town.refreshed else stale

            views.owner = outdated  # type: ignore[method-assign]
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})

            assert answer.json()["response"] == "echo hello"
            assert first.recorder.forwards["moved"] == 1
            assert [owner.recorder.accepts, third.recorder.accepts] == [0, 1]

    run(scene)


@pytest.mark.parametrize("through", ["another", "its owner", "its owner, and back"])
def test_an_export_whose_session_moves_meanwhile_does_not_look_complete(through: str) -> None:
    async def scene() -> None:
        async with pair() as (found, _first, owner, client):
            third = await found.start()
            await client.post("/chat", json={"session_id": "s", "message": "hello"})

            async def moved(*given: Any, **more: Any) -> RunPage:
                found.town.give(owner if "back" in through else third, partition("s"))
                owner.service.runs = real
                raise NotOwner("s moves", retry_after_s=1.0, partition=partition("s"))

            real, owner.service.runs = owner.service.runs, moved
            url = "" if through == "another" else owner.url
            with pytest.raises(httpx.RemoteProtocolError, match="closed"):
                await client.get(f"{url}/v1/sessions/s/export")

    run(scene)


def test_without_an_owner_for_longer_than_a_lease_it_is_503_moved_in_the_form_of_the_path() -> None:
    async def scene() -> None:
        async with pair(lease_s=-2.9) as (found, first, _owner, client):
            found.town.owners[partition("s")] = None
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})
            body = {"model": "x", "user": "s", "messages": [{"role": "user", "content": "hi"}]}
            openai = await client.post("/v1/chat/completions", json=body)

            assert (answer.status_code, answer.json()["code"]) == (503, "moved")
            assert answer.headers["retry-after"] == "1"
            assert first.recorder.refusals["moved"] == 2
            assert (openai.status_code, openai.json()["error"]["code"]) == (503, "moved")

    run(scene)


def test_a_server_that_cannot_be_reached_is_503_moved_and_the_log_names_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with pair(lease_s=-2.8) as (found, first, owner, client):
            address = f"127.0.0.1:{reserved_port()}"
            found.town.peers = {**found.town.peers, owner.id: Peer(owner.id, address, "0")}
            for method, path in (("POST", "/v1/sessions/s/pause"), ("DELETE", "/v1/sessions/s")):
                answer = await client.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (503, "moved")

            assert first.recorder.forwards["unreached"] > 2
            assert caplog.text.count(f"requests cannot be sent to the server at {address}") == 1

    run(scene)


def test_a_run_goes_on_at_the_server_that_takes_over_and_its_client_is_answered() -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return f"echo {prompt_of(attempt)}"

        async with pair(held) as (found, _first, owner, client):
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(gate.reached.is_set, "it executes")
            await owner.kill()
            heir = await found.take_over(owner)
            answer = await asked

            assert (answer.status_code, answer.json()["response"]) == (200, "echo hello")
            assert heir.recorder.accepts == 0  # (it is the run that was accepted before)

    run(scene)


def test_a_request_whose_answer_was_lost_and_that_meets_a_failing_journal_is_not_said_to_be_refused() -> None:
    async def scene() -> None:
        async with pair() as (_found, _first, owner, client):
            submit = owner.service.submit
            accepted: list[Any] = []

            async def lose_then_fail(request: Any, **more: Any) -> Any:
                if accepted:
                    raise JournalUnavailable("the database is away")
                accepted.append(await submit(request, **more))
                cut_connections(owner)
                return accepted[0]

            owner.service.submit = lose_then_fail  # type: ignore[method-assign]
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})

            assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")

    run(scene)


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_request_that_is_sent_again_after_its_session_was_deleted_is_not_executed_again(is_noted: bool) -> None:
    """Its run has ended, its answer was lost, and a client deletes the session before the request comes once more."""

    async def scene() -> None:
        async with pair() as (_found, _first, owner, client):
            submit, read = owner.service.submit, owner.journal.read
            sent_before: list[float | None] = []
            queries: list[DeletedQuery] = []

            async def lose(request: Any, **more: Any) -> Any:
                sent_before.append(more["sent_before_s"])
                ticket = await submit(request, **more)
                if len(sent_before) == 1:
                    await ticket.stream.outcome()
                    assert await owner.service.delete(request.key)
                    cut_connections(owner)
                return ticket

            async def reads(query: Any) -> Any:
                if isinstance(query, DeletedQuery):
                    queries.append(query)
                    return is_noted
                return await read(query)

            owner.service.submit = lose  # type: ignore[method-assign]
            owner.journal.read = reads  # type: ignore[method-assign]
            now = SystemClock().now()
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"})

            (query,) = queries
            assert query.key == key("s")
            assert now - 1.0 <= query.since <= now
            assert sent_before[0] is None
            assert sent_before[1] is not None
            if is_noted:
                assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")
            else:
                assert answer.status_code == 200
            assert owner.recorder.accepts == (1 if is_noted else 2)

    run(scene)


def test_a_deletion_whose_answer_was_lost_is_not_sent_again() -> None:
    async def scene() -> None:
        async with pair() as (_found, _first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "hello"})
            delete = owner.service.delete

            async def cut(key: Any) -> bool:
                await delete(key)
                owner.cut()
                return True

            owner.service.delete = cut
            answer = await client.delete("/v1/sessions/s")

            assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")

    run(scene)


@pytest.mark.parametrize("state", ["waits", "executes"])
def test_a_cancel_whose_answer_was_lost_is_sent_again_and_answered_as_the_first(state: str) -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return "done"

        async with pair(held, cancel_grace_s=0.0) as (_found, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            begun = [await client.post("/v1/sessions/s/runs", json={"input": text}) for text in "ab"]
            run_id = begun[state == "waits"].json()["run_id"]
            await until(gate.reached.is_set, "one executes")
            cancel = owner.service.cancel
            made: list[Any] = []

            async def cut(principal: Principal, run: RunId, **more: Any) -> Any:
                made.append(await cancel(principal, run, **more))
                if len(made) == 1:
                    await owner.service.wait(principal, run, 10.0)  # (it has ended when the request comes again)
                    cut_connections(owner)
                return made[-1]

            owner.service.cancel = cut  # type: ignore[assignment]
            answer = await client.post(f"/v1/runs/{run_id}/cancel", json={})
            gate.open()

            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
            assert len(made) == 2

    run(scene)


def test_a_client_that_disconnects_is_a_disconnect_at_the_owner_and_a_lost_server_is_none() -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return "never"

        async with pair(held, on_disconnect=OnDisconnect.CANCEL, cancel_grace_s=0.0) as (_found, first, owner, client):
            asked = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(gate.reached.is_set, "it executes")
            asked.cancel()
            await until(lambda: owner.service.health().lost_clients, "the owner learns of it")
            await until(lambda: not owner.service.health().running, "the run is cancelled")

            asked = asyncio.create_task(client.post("/chat", json={"session_id": "t", "message": "hello"}))
            await until(lambda: owner.service.health().running, "it executes")
            first.cut()
            with pytest.raises(httpx.HTTPError):
                await asked
            await until(lambda: not owner.service.vitals().subscribers, "the owner noticed")
            assert owner.service.health().lost_clients == 1
            gate.open()

    run(scene)


def test_the_caller_and_its_rights_are_those_that_its_server_has_identified(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Forward] = []
    make = ClientRequest.envelope

    def noted(request: ClientRequest, *given: Any) -> Forward:
        envelope = make(request, *given)
        assert isinstance(envelope, Forward)
        sent.append(envelope)
        return envelope

    monkeypatch.setattr(ClientRequest, "envelope", noted)

    async def scene() -> None:
        key, kept = new_key("ada")
        async with pair(api_keys=[kept.line()]) as (_, _first, owner, client):
            refused = await client.post("/chat", json={"session_id": "s", "message": "hello"})
            bearer = {"Authorization": f"Bearer {key}"}
            answer = await client.post("/chat", json={"session_id": "s", "message": "hello"}, headers=bearer)

            assert (refused.status_code, answer.status_code) == (401, 200)
            (forwarded,) = sent
            assert key.encode() not in b" ".join(value for _, value in forwarded.headers)
            assert [forwarded.principal, forwarded.operator, forwarded.client] == ["ada", False, "127.0.0.1"]
            assert json.loads(answer.content)["response"] == "echo hello"
            listed = await owner.service.sessions(None)
            assert [each.key for each in listed.sessions] == [("ada", "s")]

    run(scene)


def test_what_another_servers_run_waits_for_is_not_guessed_in_lists() -> None:
    async def scene() -> None:
        gate = Gate()

        async def held(attempt: Attempt) -> str:
            await gate.wait()
            return "done"

        async with servers() as found:
            owner = await found.start(held, max_running=1)
            first = await found.start()
            found.town.give(owner, *range(PARTITIONS))
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            async with httpx.AsyncClient(base_url=owner.url, trust_env=False) as client:
                for session in "abb":
                    await client.post(f"/v1/sessions/{session}/runs", json={"input": "hi"})
                await until(gate.reached.is_set, "the first one executes")
                here = await client.get("/v1/runs")
                there = await client.get(f"{first.url}/v1/runs")
                sessions = await client.get(f"{first.url}/v1/sessions")
            gate.open()

            assert [each["why"]["code"] for each in here.json()["runs"][:2]] == ["behind", "server_busy"]
            assert [each["why"] for each in there.json()["runs"]] == [None, None, None]
            assert [each["phase"] for each in there.json()["runs"]] == ["waiting", "waiting", "model"]
            assert [each["position"] for each in there.json()["runs"]] == [2, 1, None]
            assert [each["why"] for each in sessions.json()["sessions"]] == [None, None]

    run(scene)


def test_runs_that_were_accepted_are_answered_after_their_session_has_moved_although_its_queue_is_full() -> None:
    async def scene() -> None:
        async with pair(max_queued_per_session=2) as (found, _first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            await client.post("/v1/sessions/s/pause")
            asked = []
            for number in (1, 2):
                body = {"session_id": "s", "message": f"{number}"}
                asked.append(asyncio.create_task(client.post("/chat", json=body)))
                await until(lambda: owner.service.health().queue_depth == number, "it waits")  # noqa: B023
            await owner.kill()
            heir = await found.take_over(owner, max_queued_per_session=2)
            for each in asked:
                await until(lambda: heir.service.vitals().subscribers == 2 or each.done(), "it waits there")  # noqa: B023
            await client.post("/v1/sessions/s/resume")
            answers = [await each for each in asked]

            assert [answer.json()["response"] for answer in answers] == ["echo 1", "echo 2"]

    run(scene)


@pytest.mark.parametrize("through", ["its own server", "another server"])
def test_a_run_that_was_accepted_and_found_no_server_later_is_not_said_to_be_sent_again(through: str) -> None:
    async def scene() -> None:
        async with pair(lease_s=-2.9) as (found, first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            await client.post("/v1/sessions/s/pause")
            at = owner.url if through == "its own server" else first.url
            body = {"session_id": "s", "message": "hello"}
            waits = asyncio.create_task(client.post(f"{at}/chat", json=body))
            await until(lambda: owner.service.vitals().subscribers, "it waits")
            found.town.owners[partition("s")] = None
            owner.service._streams.ceded(lambda key: True)
            answer = await waits

            assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")

    run(scene)


def test_a_connection_that_is_lost_after_it_was_idle_may_have_lost_an_answer() -> None:
    async def scene() -> None:
        async with pair(lease_s=-2.9) as (found, _first, owner, client):
            await client.post("/chat", json={"session_id": "s", "message": "before"})
            await client.post("/v1/sessions/s/pause")
            waits = asyncio.create_task(client.post("/chat", json={"session_id": "s", "message": "hello"}))
            await until(lambda: owner.service.vitals().subscribers, "it waits")
            found.town.owners[partition("s")] = None
            await owner.kill()
            answer = await waits

            assert (answer.status_code, answer.json()["code"]) == (502, "answer_lost")

    run(scene)
