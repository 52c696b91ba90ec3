"""What a key opens and what it does not, over all routes, asked as an ASGI app is asked: no sockets, one process."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import httpx
import pytest
from strands import Agent
from strands.session import FileSessionManager
from strands.types.content import Messages

import strandline
from engine_support import texts
from strandline._access.keyring import Keyring, new_key
from strandline._access.source import Keys
from strandline._agents.function import Session
from strandline._clock import SystemClock
from strandline._http.app.openapi import OPERATIONS
from strandline._http.dialects.agentcore.wire import SESSION
from strandline._http.middleware.auth import Access, AdmittedRequest
from strandline._library import AgentApp
from strandline._settings import AppSettings
from strandline.errors import SetupError
from strandline.testing import Gate, ScriptedModel
from strandline.testing import question as requested

ADA, BOB, OPS = new_key("ada"), new_key("bob"), new_key("ops", operator=True)
LINES: Final = [kept.line() for _, kept in (ADA, BOB, OPS)]
OPEN: Final = (
    "/livez",
    "/readyz",
    "/ping",
    "/health",
    "/openapi.json",
    "/docs",
    "/.well-known/agent-card.json",
    "/",
    "/console",
    "/console/console.js",
    "/.well-known/agent.json",
    "/a2a/.well-known/agent-card.json",
)
DEADLINE_S: Final = 20.0
BODY: Final[dict[str, Any]] = {"message": "m", "input": "m", "messages": [{"role": "user", "content": "m"}]} | {
    "prompt": "m",
    "front": True,
}
"""Whatever a route reads, it finds it here."""


class World:
    """An app with keys, and those who ask it."""

    def __init__(self, app: AgentApp, gate: Gate) -> None:
        self.app = app
        self.gate = gate

    def client(self, key: str | None, **headers: str) -> httpx.AsyncClient:
        shown = {} if key is None else {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=shown | headers)


EVERYTHING: Final = "everything"
"""The message to which the agent answers with all earlier messages."""


def function(gate: Gate) -> Any:
    """Return a function that answers, and may be held."""

    async def answer(message: str, session: Session) -> str:
        if message == "hold":
            await gate.wait()
        return f"knows {texts(session.messages)}" if message == EVERYTHING else f"said {message}"

    return answer


def keeper(folder: Path, gate: Gate) -> Any:
    """Return a factory of agents that keep their conversations in files, by principal and session."""

    async def script(messages: Messages) -> str:
        if requested(messages) == "hold":
            await gate.wait()
        if requested(messages) == EVERYTHING:
            return f"knows {texts(messages[:-1])}"  # type: ignore[arg-type]
        return f"said {requested(messages)}"

    def make_agent(session_id: str, principal: str) -> Agent:
        manager = FileSessionManager(session_id, storage_dir=str(folder / principal))
        return Agent(model=ScriptedModel(script), session_manager=manager)

    return make_agent


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[World]:
    gate = Gate()
    target = keeper(folder / "kept", gate) if settings.get("history") == "session_manager" else function(gate)
    given: dict[str, Any] = {
        "journal": "memory:",
        "workspace": folder / "workspace",
        "files": folder / "uploads",
        "api_keys": LINES,
        **settings,
    }
    app = strandline.asgi(target, **given)
    async with app.lifespan():
        try:
            yield World(app, gate)
        finally:
            gate.open()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * DEADLINE_S))


FILE = "file_" + "0" * 32


def filled(path: str, **values: str) -> str:
    names = {
        "session_id": "s",
        "run_id": "run_1",
        "schedule_id": "sch_1",
        "file_id": FILE,
        "webhook_id": "e_1",
        "response_id": "resp_run_1",
        "conversation_id": "s",
        "model": "strandline",
    } | values
    return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], path)


# -- who is let in ---------------------------------------------------------------------------------------


def test_every_route_wants_a_key_but_probes_and_descriptions(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(None) as nobody, world.client("wrong") as wrong:
            for each in OPERATIONS:
                path = filled(each.path)
                if path in OPEN:
                    continue
                for client, header in (
                    (nobody, 'Bearer realm="strandline"'),
                    (wrong, 'Bearer realm="strandline", error="invalid_token"'),
                ):
                    refused = await client.request(each.method, path, json=BODY if each.body else None)
                    assert refused.status_code == 401, path
                    assert refused.headers["www-authenticate"] == header
                    assert "unauthorized" in refused.text, path
                    assert refused.headers["content-type"] == each.refusals.media_type
            for path in (
                "/nothing",
                "/console/",
                "/console/other",
                "/v1",
                "/Health",
                "/health/",
                "//health",
                "/health/../v1/sessions",
                "/chat/",
            ):
                assert (await nobody.get(f"http://127.0.0.1{path}")).status_code == 401, path
            assert (await nobody.put("/chat")).status_code == 401, "nor learns what exists"
            for path in OPEN:
                assert (await nobody.get(path)).status_code == 200, path
                assert (await wrong.get(path)).status_code == 200, path

    run(main())


def test_nothing_of_a_request_without_a_key_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async def receive() -> dict[str, Any]:
            raise AssertionError("its body was read")

        async with served(tmp_path) as world:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http", "method": "POST", "path": "/chat", "query_string": b"", "root_path": "",
                "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"1000000000")], "server": ("127.0.0.1", 80),
            }  # fmt: skip
            await world.app(scope, receive, send)
            assert sent[0]["status"] == 401

    run(main())


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((f"Bearer {ADA[0]}",), 200),
        ((f"bearer {ADA[0]}",), 200),
        ((f"BEARER   {ADA[0]}  ",), 200),
        ((f"Bearer {ADA[0]}", f"Bearer {ADA[0]}"), 401),
        ((f"Bearer {ADA[0]}", f"Bearer {BOB[0]}"), 401),
        ((f"Bearer {ADA[0]}, Bearer {BOB[0]}",), 401),
        ((f"Bearer {ADA[0]} {ADA[0]}",), 401),
        ((f"Bearer {ADA[0]}x",), 401),
        ((f"Bearer {ADA[0][:-1]}",), 401),
        ((f"Bearer {ADA[1].digest.hex()}",), 401),
        ((f"Bearer sha256:{ADA[1].digest.hex()}",), 401),
        ((f"Basic {ADA[0]}",), 401),
        ((f"Token {ADA[0]}",), 401),
        ((ADA[0],), 401),
        (("Bearer",), 401),
        (("Bearer ",), 401),
        (("",), 401),
        ((f"Bearer {ADA[0]}\xff",), 401),
        ((f"Bearer {'a' * 100_000}",), 401),
        ((), 401),
    ],
)
def test_a_key_counts_in_one_header_of_one_form(values: tuple[str, ...], status: int, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(None) as client:
            headers = [(b"authorization", value.encode("latin-1")) for value in values]
            answer = await client.get("/v1/sessions", headers=headers)
            assert answer.status_code == status
            assert ADA[0] not in answer.text

    run(main())


def test_a_key_in_the_wrong_place_is_not_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(None) as client:
            for name in ("key", "api_key", "access_token", "token", "authorization"):
                assert (await client.get("/v1/sessions", params={name: ADA[0]})).status_code == 401
                assert (await client.post("/chat", json={"message": "m", name: ADA[0]})).status_code == 401
            for header in ("X-Api-Key", "Api-Key", "Proxy-Authorization", "Cookie", "X-Authorization"):
                assert (await client.get("/v1/sessions", headers={header: f"Bearer {ADA[0]}"})).status_code == 401
            assert (await client.get(f"http://ada:{ADA[0]}@127.0.0.1/v1/sessions")).status_code == 401

    run(main())


def test_a_foreign_page_or_host_is_refused_whatever_key_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, cors_origins=["https://app.example"]) as world:
            async with world.client(ADA[0], Host="evil.example") as client:
                assert (await client.get("/v1/sessions")).status_code == 403
            async with world.client(ADA[0], Origin="https://evil.example") as client:
                assert (await client.get("/v1/sessions")).status_code == 403
            async with world.client(None, Origin="https://app.example") as client:
                requested = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
                allowed = await client.options("/chat", headers=requested)
                assert allowed.status_code == 200, "a browser asks first, without the key"
                assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
                refused = await client.post("/chat", json={"message": "m"})
                assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
                    401,
                    "https://app.example",
                )
                readable = refused.headers["access-control-expose-headers"]
                assert {"Location", "Retry-After", "Idempotency-Replayed"} <= set(readable.split(", "))
                assert {"X-Should-Retry", SESSION} <= set(readable.split(", ")), "what clients in browsers act upon"

    run(main())


@pytest.mark.parametrize("keys", [True, False])
def test_a_page_that_points_a_name_of_its_own_here_learns_one_word_from_each_probe(keys: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, **({} if keys else {"api_keys": []})) as world:
            for host in ("evil.example", "localhost.evil.example:8080"):
                for key in (None, OPS[0]):
                    async with world.client(key, Host=host) as client:
                        answer = await client.get("/health")
                        assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
                        for path in ("/livez", "/readyz"):
                            answer = await client.get(path)
                            assert (answer.status_code, set(answer.json())) == (200, {"status"})
                        assert set((await client.get("/ping")).json()) == {"status", "time_of_last_update"}
            async with world.client(None) as client:
                assert {"agent_id", "version", "queue_depth"} <= set((await client.get("/health")).json())

    run(main())


def test_without_keys_all_are_one_principal_and_a_key_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, api_keys=[]) as world, world.client(None) as one, world.client("any") as other:
            assert (await one.post("/chat", json={"message": "m"})).json()["status"] == "success"
            assert len((await other.get("/history", params={"count": 0})).json()["messages"]) == 2
            assert (await other.get("/health")).json()["auth"] == "none"
            assert (await one.get("/metrics")).status_code == 200
            document = (await one.get("/openapi.json")).json()
            assert "security" not in json.dumps({**document, "components": None})

    run(main())


# -- what belongs to whom ----------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["journal", "session_manager"])
def test_nothing_of_one_principal_is_there_for_another(history: str, tmp_path: Path) -> None:
    """Also not for an operator: every route that names a run or a session, and what the agents themselves know."""

    async def main() -> None:
        async with served(tmp_path, history=history) as world, world.client(ADA[0]) as ada:
            held = (await ada.post("/v1/sessions/s/runs", json={"input": "hold"})).json()["run_id"]
            waits = (await ada.post("/v1/sessions/s/runs", json={"input": "ada's secret"})).json()["run_id"]
            made = await ada.post("/v1/schedules", json={"session_id": "s", "input": "ada's secret", "every": 1000})
            schedule = made.json()["schedule_id"]
            file = (await ada.post("/v1/sessions/s/files", content=b"ada's secret")).json()["file_id"]
            seen = (await ada.get("/v1/sessions/s")).json()
            assert (seen["running"], seen["queue_depth"]) == (held, 1)
            of_a_run = [each for each in OPERATIONS if "{run_id}" in each.path]
            assert len(of_a_run) == 9
            for key in (BOB[0], OPS[0]):
                async with world.client(key) as other:
                    for run_id in (held, waits):
                        for each in of_a_run:
                            path = filled(each.path, run_id=run_id)
                            body: Any = {"front": True, "tools": []} if each.body else None
                            if each.method == "PATCH":
                                body = {"input": "bob's"}
                            if each.path.endswith("/again"):
                                body = {"priority": 1}
                            refused = await other.request(each.method, path, json=body)
                            assert refused.status_code == 404, path
                            unknown = await other.request(each.method, path.replace(run_id, "run_0"), json=body)
                            assert unknown.json() == json.loads(refused.text.replace(run_id, "run_0")), (
                                "not even a hint"
                            )
                    for method, path in (
                        *(("GET", f"/v1/sessions/s{of}") for of in ("", "/tree", "/export")),
                        ("DELETE", "/v1/sessions/s"),
                        *(("POST", f"/v1/sessions/s/{action}") for action in ("pause", "resume", "cancel")),
                    ):
                        assert (await other.request(method, path)).status_code == 404, path
                    forked = await other.post("/v1/sessions/s/fork", json={"session_id": "mine"})
                    assert forked.status_code == (404 if history == "journal" else 422)
                    if history == "journal":
                        await other.post("/chat", json={"message": "m", "session_id": "own"})
                        after = await other.post("/v1/sessions/own/fork", json={"after": held})
                        unknown = await other.post("/v1/sessions/own/fork", json={"after": "run_0"})
                        assert (after.status_code, after.text.replace(held, "run_0")) == (404, unknown.text)
                        await other.delete("/v1/sessions/own")
                    set_options = await other.patch("/v1/sessions/s", json={"options": {"priority": 2}})
                    assert set_options.status_code == 404
                    for each in (each for each in OPERATIONS if "{schedule_id}" in each.path):
                        path = filled(each.path, schedule_id=schedule)
                        body = {"paused": True} if each.body else None
                        assert (await other.request(each.method, path, json=body)).status_code == 404, path
                    assert (await other.get("/v1/schedules")).json()["schedules"] == []
                    for each in (each for each in OPERATIONS if "{file_id}" in each.path):
                        path = filled(each.path, file_id=file)
                        refused = await other.request(each.method, path)
                        assert refused.status_code == 404, path
                        unknown = await other.request(each.method, filled(each.path))
                        assert refused.text.replace(file, FILE) == unknown.text
                    assert (await other.get("/v1/sessions/s/files")).json()["files"] == []
                    naming = await other.post("/v1/sessions/s/runs", json={"input": [{"file": file}]})
                    assert (naming.status_code, "has none of this id" in naming.json()["detail"]) == (422, True)
                    assert (await other.get("/v1/sessions/s/runs")).json()["runs"] == []
                    assert (await other.get("/v1/runs", params={"status": "queued,running"})).json()["runs"] == []
                    assert (await other.get("/v1/runs")).json() == {"runs": [], "damaged": [], "next_cursor": None}
                    assert (await other.get("/v1/sessions/s/history")).json()["messages"] == []
                    assert (await other.get("/history", params={"session_id": "s"})).json()["messages"] == []
            assert (await ada.get("/v1/sessions/s")).json() == seen, "and nothing was changed by that"
            assert (await ada.get(f"/v1/schedules/{schedule}")).json() == made.json()
            assert (await ada.get(f"/v1/sessions/s/files/{file}")).text == "ada's secret"
            world.gate.open()
            ended = await ada.get(f"/v1/runs/{waits}", headers={"Prefer": "wait=20"})
            assert ended.json()["output"] == "said ada's secret"
            for key in (BOB[0], OPS[0]):
                async with world.client(key) as other:
                    detail = await other.post("/chat", json={"message": EVERYTHING, "session_id": "s"})
                    assert detail.json()["response"] == "knows []", "their agents know nothing of it either"
            detail = await ada.post("/chat", json={"message": EVERYTHING, "session_id": "s"})
            assert "ada's secret" in detail.json()["response"]

    run(main())


@pytest.mark.parametrize("history", ["journal", "session_manager"])
def test_each_principal_has_a_session_of_a_name_of_its_own_by_every_protocol(history: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, history=history) as world:
            for key, name in ((ADA[0], "ada"), (BOB[0], "bob")):
                async with world.client(key) as client:
                    assert (await client.get("/v1/sessions")).json()["sessions"] == []
                    ways = {
                        "/chat": {"message": f"{name} 0", "session_id": "s"},
                        "/v1/chat/completions": {"messages": [{"role": "user", "content": f"{name} 1"}], "user": "s"},
                        "/invocations": {"prompt": f"{name} 2"},
                    }
                    for path, body in ways.items():
                        header = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s"}
                        answer = await client.post(path, json=body, headers=header)
                        assert (answer.status_code, f"said {name}" in answer.text) == (200, True), path
                    kept = (await client.get("/history", params={"session_id": "s", "count": 0})).json()["messages"]
                    said = [each["content"][0]["text"] for each in kept if each["role"] == "user"]
                    assert said == ([f"{name} {number}" for number in range(3)] if history == "journal" else [])
                    detail = await client.post("/chat", json={"message": EVERYTHING, "session_id": "s"})
                    known = detail.json()["response"]
                    assert all(f"'{name} {number}'" in known for number in range(3))
                    assert {"ada": "bob", "bob": "ada"}[name] not in known
                    listed = (await client.get("/v1/sessions")).json()["sessions"]
                    assert [(each["session_id"], "principal" in each) for each in listed] == [("s", False)]

    run(main())


def test_an_app_with_keys_is_not_made_where_agents_would_keep_one_conversation_for_two_principals(
    tmp_path: Path,
) -> None:
    def make_agent(session_id: str) -> Agent:
        raise AssertionError("called")

    with pytest.raises(SetupError, match="principal"):
        strandline.asgi(make_agent, journal="memory:", history="session_manager", api_keys=LINES)
    strandline.asgi(make_agent, journal="memory:", history="session_manager")


def test_an_idempotency_key_belongs_to_its_principal(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(ADA[0]) as ada, world.client(BOB[0]) as bob:
            again = {"Idempotency-Key": "k"}
            first = await ada.post("/chat", json={"message": "a", "session_id": "s"}, headers=again)
            replayed = await ada.post("/chat", json={"message": "a", "session_id": "s"}, headers=again)
            assert (replayed.json(), replayed.headers["idempotency-replayed"]) == (first.json(), "true")
            other = await bob.post("/chat", json={"message": "b", "session_id": "s"}, headers=again)
            assert other.status_code == 200, "no 422, which would reveal that the key is in use"
            assert other.json()["run_id"] != first.json()["run_id"]

    run(main())


def test_a_tool_learns_whose_run_it_is_and_each_has_a_folder_of_its_own(tmp_path: Path) -> None:
    async def where(message: str, session: Session) -> str:
        return session.workspace

    async def main() -> None:
        app = strandline.asgi(where, journal="memory:", workspace=tmp_path, api_keys=LINES)
        async with app.lifespan():
            folders = set()
            for key, _ in (ADA, BOB):
                async with World(app, Gate()).client(key) as client:
                    folders.add(
                        (await client.post("/chat", json={"message": "m", "session_id": "s"})).json()["response"]
                    )
            assert len(folders) == 2

    run(main())


def test_the_queues_of_a_principal_are_bounded_together_and_others_have_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(tmp_path, max_queued_per_caller=2) as world,
            world.client(ADA[0]) as ada,
            world.client(BOB[0]) as bob,
        ):
            answers: list[httpx.Response] = []
            for session, status in (("a", 202), ("a", 202), ("b", 202), ("b", 202), ("a", 429), ("b", 429)):
                last = await ada.post(f"/v1/sessions/{session}/runs", json={"input": "hold"})
                assert last.status_code == status
                answers.append(last)
            assert answers[-1].json()["code"] == "principal_full"
            assert (answers[-1].json()["position"], answers[-1].headers["retry-after"]) == (2, "5")
            assert (await bob.post("/chat", json={"message": "m", "session_id": "s"})).status_code == 200
            async with world.client(OPS[0]) as ops:
                counted = (await ops.get("/metrics")).text
                assert 'strandline_refusals_total{reason="principal_full"} 2.0' in counted
                shares = (await ops.get("/health")).json()["callers"]
                assert shares == {"ada": {"claimed": 2, "waiting": 2, "still_working": 0, "leftovers": 0}}

    run(main())


def test_what_is_kept_for_a_principal_is_bounded_and_others_have_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(tmp_path, max_stored_bytes_per_caller=8_000) as world,
            world.client(ADA[0]) as ada,
            world.client(BOB[0]) as bob,
            world.client(OPS[0]) as ops,
        ):
            large = "m" * 3_000  # kept as the input of a run, and in history
            kept = await ada.post("/chat", json={"message": large, "session_id": "a"}, headers={"Idempotency-Key": "k"})
            assert kept.status_code == 200
            refused = await ada.post("/chat", json={"message": large, "session_id": "b"})
            assert (refused.status_code, refused.json()["code"]) == (429, "storage_full")
            assert refused.headers["retry-after"] == "60", "no second makes room by itself"
            completion = {"messages": [{"role": "user", "content": large}], "user": "b"}
            refused_too = await ada.post("/v1/chat/completions", json=completion)
            assert (refused_too.status_code, refused_too.json()["error"]["code"]) == (429, "storage_full")
            assert refused_too.headers["retry-after"] == "60"
            assert refused_too.headers["x-should-retry"] == "false", "its clients would wait a minute, twice"
            assert "max_stored_bytes_per_caller" in refused.json()["detail"]
            again = await ada.post(
                "/chat", json={"message": large, "session_id": "a"}, headers={"Idempotency-Key": "k"}
            )
            assert again.status_code == 200, "what was accepted is answered"
            assert (await bob.post("/chat", json={"message": large, "session_id": "b"})).status_code == 200
            detail = (await ops.get("/metrics")).text
            assert 'strandline_refusals_total{reason="storage_full"} 2.0' in detail
            assert "strandline_principal_stored_bytes_max 8000.0" in detail
            names = ("stored", "principal_stored")
            total, largest = (float(re.findall(rf"^strandline_{each}_bytes (.*)$", detail, re.M)[0]) for each in names)
            assert 9_000 < largest < 10_000
            assert 18_000 < total < 20_000
            assert (await ada.delete("/v1/sessions/a")).status_code in (200, 204)
            assert (await ada.post("/chat", json={"message": large, "session_id": "b"})).status_code == 200

    run(main())


def test_the_runs_of_a_principal_that_execute_are_bounded_together_and_others_have_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            served(tmp_path, max_running=2, max_running_per_caller=1) as world,
            world.client(ADA[0]) as ada,
            world.client(BOB[0]) as bob,
            world.client(OPS[0]) as ops,
        ):
            for session in ("a", "b"):
                assert (await ada.post(f"/v1/sessions/{session}/runs", json={"input": "hold"})).status_code == 202
            said = await bob.post("/chat", json={"message": "m", "session_id": "s"})
            assert said.status_code == 200, "a slot is left for him"
            assert (await ops.get("/health")).json()["callers"] == {
                "ada": {"claimed": 1, "waiting": 1, "still_working": 0, "leftovers": 0}
            }

    run(main())


# -- what all may see, and what operators may ----------------------------------------------------------------


def test_what_is_open_names_no_session_no_run_and_no_principal(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(ADA[0]) as ada:
            session = "a-session-to-look-for"
            run_id = (await ada.post(f"/v1/sessions/{session}/runs", json={"input": "hold"})).json()["run_id"]
            async with world.client(None) as nobody, world.client(BOB[0]) as bob:
                for client in (nobody, bob):
                    for path in OPEN:
                        text = (await client.get(path)).text
                        for name in (session, run_id, '"ada"', '"bob"', '"ops"'):
                            assert name not in text, (path, name)
                health = (await nobody.get("/health")).json()
                assert (health["auth"], health["running"], "callers" in health) == ("keys", 1, False)

    run(main())


def test_metrics_are_for_operators_unless_they_are_public(tmp_path: Path) -> None:
    async def main() -> None:
        for public, status in ((False, (401, 403, 200)), (True, (200, 200, 200))):
            async with served(tmp_path, metrics_public=public) as world:
                for key, wanted in zip((None, ADA[0], OPS[0]), status, strict=True):
                    async with world.client(key) as client:
                        answer = await client.get("/metrics")
                        assert answer.status_code == wanted
                        if wanted == 403:
                            assert answer.json()["code"] == "operators_only"
                        if wanted == 200:
                            assert '"ada"' not in answer.text

    run(main())


def test_a_path_with_an_end_of_line_behind_it_is_not_the_path_without(tmp_path: Path) -> None:
    """Else it would get round what is said of that path alone."""

    async def main() -> None:
        async with served(tmp_path) as world, world.client(ADA[0]) as ada, world.client(OPS[0]) as ops:
            for path in ("/metrics", "/v1/sessions", "/health", "/v1/models/strandline"):
                assert (await ops.get(path)).status_code == 200
                for client in (ada, ops):
                    assert (await client.get(f"{path}%0A")).status_code == 404, path
            async with world.client(None) as nobody:
                assert (await nobody.get("/metrics%0A")).status_code == 401

    run(main())


def test_a_cursor_of_sessions_means_the_same_place_to_operators_and_all_others(tmp_path: Path) -> None:
    """A key may have become an operator's, or no more one, between two pages."""

    async def main() -> None:
        async with served(tmp_path) as world:
            for key in (ADA[0], BOB[0], OPS[0]):
                async with world.client(key) as client:
                    for session in ("s", "t"):
                        await client.post("/chat", json={"message": "hello", "session_id": session})

            async def after(key: str, cursor: str) -> list[str]:
                async with world.client(key) as client:
                    answer = await client.get("/v1/sessions", params={"cursor": cursor})
                    assert answer.status_code == 200, answer.text
                    shown = answer.json()["sessions"]
                    return [f"{each.get('principal', '')}/{each['session_id']}" for each in shown]

            assert await after(BOB[0], "s") == await after(BOB[0], "bob/s") == ["/t"]
            assert await after(BOB[0], "ada/t") == ["/s", "/t"]
            assert await after(BOB[0], "ops/s") == []
            assert await after(OPS[0], "s") == await after(OPS[0], "ops/s") == ["ops/t"]
            assert await after(OPS[0], "bob/s") == ["bob/t", "ops/s", "ops/t"]

    run(main())


def test_an_operator_sees_counts_and_sessions_of_all_and_no_word_that_was_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(OPS[0]) as ops:
            for key in (ADA[0], BOB[0], OPS[0]):
                async with world.client(key) as client:
                    for session in ("s", "t"):
                        await client.post("/chat", json={"message": "a secret", "session_id": session})
            found: list[tuple[str, str, int]] = []
            cursor: str | None = ""
            while cursor is not None:
                page = (
                    await ops.get("/v1/sessions", params={"limit": 4, **({"cursor": cursor} if cursor else {})})
                ).json()
                assert "secret" not in json.dumps(page)
                found += [(each["principal"], each["session_id"], each["messages"]) for each in page["sessions"]]
                cursor = page["next_cursor"]
            assert found == [(name, session, 2) for name in ("ada", "bob", "ops") for session in ("s", "t")]
            for cursor in ("a b", "/s", "ada/", "ada/a b"):
                assert (await ops.get("/v1/sessions", params={"cursor": cursor})).status_code == 422
            assert len((await ops.get("/history", params={"session_id": "s", "count": 0})).json()["messages"]) == 2, (
                "own"
            )

    run(main())


# -- a key that is taken away ----------------------------------------------------------------------------------


class Answer:
    """One request, asked without a client: what was sent so far, and its end."""

    def __init__(self, world: World, method: str, path: str, key: str, body: object = None, **headers: str) -> None:
        self.messages: list[dict[str, Any]] = []
        self._came = asyncio.Condition()
        self._request = asyncio.Event()
        content = b"" if body is None else json.dumps(body).encode()
        shown = {"host": "127.0.0.1", "content-type": "application/json", "authorization": f"Bearer {key}", **headers}
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in shown.items()], "server": ("127.0.0.1", 80),
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            if not self._request.is_set():
                self._request.set()
                return {"type": "http.request", "body": content, "more_body": False}
            await asyncio.Event().wait()  # open requests of valid keys stay
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            async with self._came:
                self.messages.append(message)
                self._came.notify_all()

        self.task = asyncio.create_task(world.app(scope, receive, send))  # type: ignore[arg-type]

    async def began(self, what: bytes) -> None:
        """Return when this was sent."""
        async with self._came:
            await asyncio.wait_for(self._came.wait_for(lambda: what in self.body), DEADLINE_S)

    async def end(self) -> int:
        """Return the status, when all was sent."""
        await asyncio.wait_for(self.task, DEADLINE_S)
        assert [each["type"] for each in self.messages[:1]] == ["http.response.start"]
        assert not self.messages[-1].get("more_body", False), "it is an end, not a break"
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)


def test_a_key_that_is_taken_away_ends_what_it_listens_to_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting requests get 401, streams end, other clients notice nothing; the run stays its caller's."""
    monkeypatch.setattr("strandline._access.source.POLL_S", 0.001)
    file, second = tmp_path / "keys", new_key("ada")
    lines = [second[1].line(), *LINES[1:]]
    file.write_text("\n".join([LINES[0], *lines]))

    async def main() -> None:
        async with served(tmp_path, api_keys=[], api_keys_file=file) as world:
            chat = {"message": "hold", "session_id": "default"}
            waits = Answer(world, "POST", "/chat", ADA[0], chat)
            all_events = Answer(world, "GET", "/v1/events", ADA[0])
            streams = Answer(world, "POST", "/chat", ADA[0], {**chat, "session_id": "t"}, accept="text/event-stream")
            kept = Answer(world, "POST", "/chat", second[0], {**chat, "session_id": "u"})
            bobs = Answer(world, "POST", "/chat", BOB[0], {**chat, "session_id": "t"})
            await streams.began(b"run.started")
            await all_events.began(b"run.started")
            async with world.client(second[0]) as ada:
                while (await ada.get("/health")).json()["running"] < 4:
                    await asyncio.sleep(0)
                file.write_text("\n".join(lines))
                assert await waits.end() == 401
                assert b"revoked" in waits.body
                assert await streams.end() == 200
                assert b"run.finished" not in streams.body
                assert await all_events.end() == 200
                async with world.client(ADA[0]) as gone:
                    assert (await gone.get("/v1/sessions")).status_code == 401
                (run_of,) = (await ada.get("/v1/sessions/default/runs")).json()["runs"]
                assert (run_of["status"], run_of["cancel_requested"]) == ("running", False)
                assert (await ada.get("/health")).json()["lost_clients"] == 0
                world.gate.open()
                assert await kept.end() == await bobs.end() == 200
                ended = await ada.get(f"/v1/runs/{run_of['run_id']}", headers={"Prefer": "wait=20"})
                assert ended.json()["output"] == "said hold"

    run(main())


class OneKey:
    """Ada's, for as long as it counts."""

    ring = Keyring([ADA[1]])

    def on_change(self, detail: object) -> None:
        pass


SCOPE: Final[Any] = {"type": "http", "path": "/chat", "headers": [(b"authorization", f"Bearer {ADA[0]}".encode())]}


def let_in(access: Access) -> AdmittedRequest:
    found = access.admit(dict(SCOPE))
    assert found is not None
    return found


def test_of_a_request_that_was_answered_nothing_is_kept_for_when_its_key_is_taken_away() -> None:
    async def main() -> None:
        access = Access(cast("Keys", OneKey()), AppSettings(), bytes, SystemClock())
        going_on: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            going_on.append(len(access._let_in))

        await let_in(access).answer(app, SCOPE, cast("Any", None), cast("Any", None))
        assert [*going_on, len(access._let_in)] == [1, 0]

    run(main())


@pytest.mark.parametrize("more", [True, False], ids=["in its middle", "after its end"])
def test_an_answer_that_is_cut_off_has_one_end(more: bool) -> None:
    """A server takes a second one for a defect of the app, and logs it."""

    async def main() -> None:
        request = let_in(Access(cast("Keys", OneKey()), AppSettings(), bytes, SystemClock()))
        sent: list[dict[str, Any]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"said", "more_body": more})
            request.end()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await request.answer(app, SCOPE, cast("Any", None), send)
        assert [each.get("more_body") for each in sent if each["type"] == "http.response.body"] == (
            [True, False] if more else [False]
        )

    run(main())


def test_a_request_ends_if_its_task_is_cancelled_while_its_key_is_revoked() -> None:
    async def main() -> None:
        request, begun = let_in(Access(cast("Keys", OneKey()), AppSettings(), bytes, SystemClock())), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(request.answer(app, SCOPE, cast("Any", None), cast("Any", None)))
        await begun.wait()
        task.cancel()
        request.end()
        await asyncio.wait([task])
        assert task.cancelled(), "and nobody gets 401"

    run(main())
