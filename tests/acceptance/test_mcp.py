"""MCP at a real server: the official client in both versions of the protocol, a session's one line, crashes, other
callers, hostile requests."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.race import judge
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from ports import reserved_port
from strandline._access.keyring import new_key

AGENT: Final = TARGETS / "agent.py"
LIMITS: Final = ("--max-queued-per-session", "2", "--cancel-grace", "0.2")
CURRENT, BEFORE = "2026-07-28", "2025-11-25"
MODES: Final[dict[str, Any]] = {CURRENT: "auto", BEFORE: "legacy"}
both = pytest.mark.parametrize("version", MODES)


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture
def server(at: Checkpoints, tmp_path: Path) -> Iterator[Server]:
    port = reserved_port()  # (the same one after a restart)
    with serving(AGENT, *LIMITS, folder=tmp_path, variables=at.environment, port=port) as made:
        yield made
        at.release()


@asynccontextmanager
async def connected(url: str, version: str, key: str | None = None, **more: Any) -> AsyncIterator[Client]:
    """The official client, connected."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=DEADLINE_S) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with Client(transport, mode=MODES[version], **more) as client:
            assert client.protocol_version == version
            yield client


def run(story: Callable[[Client], Awaitable[None]], server: Server, version: str, **more: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), connected(server.url, version, **more) as client:
            await story(client)

    asyncio.run(main())


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    """Call a tool that must not fail."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result


async def ask(client: Client, message: str, **more: Any) -> str:
    return text(await call(client, "ask", message=message, **more))


def text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def failure(result: CallToolResult) -> tuple[str, str]:
    assert result.is_error, result
    return result.structured_content["error"]["code"], text(result)


async def reached(at: Checkpoints, *steps: str) -> None:
    await asyncio.to_thread(at.reached, *steps)


async def becomes(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(until, condition, what)


# -- the tools ----------------------------------------------------------------------------------------


@both
def test_a_conversation_with_tools_shows_its_progress(version: str, server: Server) -> None:
    async def story(client: Client) -> None:
        assert client.server_info is not None
        assert client.server_info.name == "strandline"
        tools = {each.name: each for each in (await client.list_tools()).tools}
        assert list(tools) == ["ask", "queue", "answer", "status", "cancel"]
        assert tools["ask"].input_schema["required"] == ["message"]
        shown: list[tuple[float, str]] = []

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            assert total is None
            shown.append((progress, message or ""))

        given = {"message": "q1 a b+c", "session": "talk"}
        result = await client.call_tool("ask", given, progress_callback=progress)
        assert (text(result), result.is_error) == ("q1: did a, did b, did c", False)
        assert result.structured_content["status"] == "succeeded"
        assert [each for each, _ in shown] == list(range(1, len(shown) + 1))
        said = [message for _, message in shown]
        assert said[0] == "started"
        assert said.count("tool work started") == said.count("tool work ended") == 3
        assert "Round 1." in said
        assert await ask(client, "q2", session="talk") == "q2"
        assert texts(server.history("talk"), "user") == ["q1 a b+c", "q2"]

    run(story, server, version)


def test_a_client_that_shakes_hands_has_a_session_of_its_own(server: Server) -> None:
    async def story(client: Client) -> None:
        results = [await call(client, "ask", message=each) for each in ("one", "two")]
        (name,) = {each.structured_content["session"] for each in results}
        assert texts(server.history(name), "user") == ["one", "two"]

    run(story, server, BEFORE)


def test_in_the_current_version_a_call_without_a_session_begins_one(server: Server) -> None:
    async def story(client: Client) -> None:
        first, second = [await call(client, "ask", message=each) for each in ("one", "two")]
        names = [each.structured_content["session"] for each in (first, second)]
        assert names[0] != names[1]
        assert await ask(client, "three", session=names[0]) == "three"
        assert texts(server.history(names[0]), "user") == ["one", "three"]

    run(story, server, CURRENT)


@both
def test_a_header_names_the_session_of_a_client(version: str, server: Server) -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(headers={"X-Session-Id": "desk"}, timeout=DEADLINE_S) as http:
            transport = streamable_http_client(f"{server.url}/mcp", http_client=http)
            async with asyncio.timeout(DEADLINE_S), Client(transport, mode=MODES[version]) as client:
                assert await ask(client, "one") == "one"
                assert await ask(client, "two", session="desk") == "two"
                other = await client.call_tool("ask", {"message": "x", "session": "other"})
                assert failure(other)[0] == "invalid"
                assert "must be desk" in failure(other)[1]

    asyncio.run(main())
    assert texts(server.history("desk"), "user") == ["one", "two"]


@both
def test_a_message_is_left_looked_after_and_cancelled(version: str, server: Server, at: Checkpoints) -> None:
    async def story(client: Client) -> None:
        at.hold("l1 model 0", "l2 model 0")
        first = await call(client, "queue", message="l1", session="left")
        await reached(at, "l1 model 0")
        second = await call(client, "queue", message="l2", session="left")
        assert second.structured_content["position"] == 1
        assert second.structured_content["status"] == "queued"
        one, two = (each.structured_content["run_id"] for each in (first, second))
        assert (await call(client, "status", run_id=one)).structured_content["status"] == "running"
        waiting = await call(client, "status", run_id=two, wait=0.05)
        assert "waits at place 1" in text(waiting)
        at.release("l1 model 0")
        ended = await call(client, "status", run_id=one, wait=60)
        assert (text(ended), ended.structured_content["output"]) == ("l1", "l1")
        await reached(at, "l2 model 0")
        cancelled = await call(client, "cancel", run_id=two)
        assert "cancelled" in text(cancelled)
        at.release()
        end = await client.call_tool("status", {"run_id": two, "wait": 60})
        assert failure(end) == ("cancelled", "The agent did not answer: the run was cancelled")
        late = await client.call_tool("cancel", {"run_id": one})
        assert failure(late)[0] == "already_ended"

    run(story, server, version)


@both
def test_a_question_is_a_result_and_answer_a_tool(version: str, server: Server) -> None:
    async def story(client: Client) -> None:
        asked = await call(client, "ask", message="q @pay", session="asks")
        assert "may I, q?" in text(asked)
        run_id = asked.structured_content["run_id"]
        assert run_id in text(asked)
        (question,) = asked.structured_content["questions"]
        assert (question["name"], asked.structured_content["status"]) == ("@pay", "needs_input")
        nothing = await client.call_tool("answer", {"run_id": run_id})
        assert failure(nothing)[0] == "invalid"
        answered = await call(client, "answer", run_id=run_id, answer="yes")
        assert text(answered) == "q: did @pay (yes)"
        again = await call(client, "answer", run_id=run_id, answer="yes")
        assert again.structured_content["run_id"] == answered.structured_content["run_id"]
        other = await client.call_tool("answer", {"run_id": run_id, "answer": "no"})
        assert failure(other)[0] == "already_answered"
        several = await call(client, "ask", message="s @a+@b", session="several")
        ids = {each["name"]: each["id"] for each in several.structured_content["questions"]}
        run_id = several.structured_content["run_id"]
        one = await client.call_tool("answer", {"run_id": run_id, "answer": "yes"})
        assert "several questions" in failure(one)[1]
        both_answers = {ids["@a"]: "yes", ids["@b"]: False}
        assert text(await call(client, "answer", run_id=run_id, answers=both_answers)) == (
            "s: did @a (yes), did @b (False)"
        )

    run(story, server, version)


@both
def test_what_is_refused_is_a_result_that_a_model_can_read(version: str, server: Server, at: Checkpoints) -> None:
    async def story(client: Client) -> None:
        failed = await client.call_tool("ask", {"message": "f1 fail", "session": "fails"})
        assert failure(failed) == (
            "agent_error",
            "The agent did not answer: ConnectionError: the provider is out of order",
        )
        for arguments in ({}, {"message": 1}, {"message": "x", "session": "a/b"}, {"message": "x", "other": 1}):
            assert failure(await client.call_tool("ask", arguments))[0] == "invalid"
        assert failure(await client.call_tool("status", {"run_id": "run_none"}))[0] == "not_found"
        with pytest.raises(MCPError, match="There is no tool nothing; there are ask, queue"):
            await client.call_tool("nothing", {})
        at.hold("busy model 0")
        await asyncio.to_thread(server.line_up, "busy", "b1", "b2", session_id="full")
        full = await client.call_tool("ask", {"message": "b3", "session": "full"})
        assert failure(full)[0] == "queue_full"
        assert "try again in" in text(full)
        assert full.structured_content["position"] == 3
        assert full.structured_content["retry_after_s"] >= 1

    run(story, server, version)


# -- one line -----------------------------------------------------------------------------------------


@both
def test_many_calls_to_one_session_are_answered_one_after_the_other(
    version: str, at: Checkpoints, tmp_path: Path
) -> None:
    async def story(client: Client) -> None:
        asked = [f"m{number} a" for number in range(40)]
        answers = await asyncio.gather(*(ask(client, each, session="race") for each in asked))
        assert answers == [f"m{number}: did a" for number in range(40)]

    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run(story, server, version)
        history = server.client.get("/v1/sessions/race/history", params={"limit": 1000}).json()["messages"]
        assert judge(history) == []
        assert len(texts(history, "user")) == 40


# -- clients that go and come back --------------------------------------------------------------------


def test_in_the_current_version_a_closed_stream_cancels_a_call_without_a_key(server: Server, at: Checkpoints) -> None:
    async def story(client: Client) -> None:
        for name, tool, key, status in (("gone", "?a", None, "cancelled"), ("kept", "a", "k1", "succeeded")):
            at.hold(f"{name} {tool}")
            given = {"message": f"{name} {tool}", "session": name, **({"idempotency_key": key} if key else {})}
            calling = asyncio.ensure_future(client.call_tool("ask", given))
            await reached(at, f"{name} {tool}")
            lost = server.health()["lost_clients"]
            calling.cancel()
            await asyncio.wait([calling])
            await becomes(lambda before=lost: server.health()["lost_clients"] > before, "it is missed")  # type: ignore[misc]
            run_id = server.client.get(f"/v1/sessions/{name}/runs").json()["runs"][0]["run_id"]
            if key is None:
                await becomes(lambda it=run_id: server.run(it)["cancel_requested"], "it is cancelled")  # type: ignore[misc]
            at.release(f"{name} {tool}")
            assert (await asyncio.to_thread(server.run, run_id, 60))["status"] == status
        assert await ask(client, "kept a", session="kept", idempotency_key="k1") == "kept: did a"
        assert len(server.client.get("/v1/sessions/kept/runs").json()["runs"]) == 1

    run(story, server, CURRENT)


@both
def test_a_repeated_call_gets_its_answer_after_kill_9(version: str, server: Server, at: Checkpoints) -> None:
    given = {"message": "k a b", "idempotency_key": "once"}

    async def broken() -> None:
        async with connected(server.url, version) as client:
            with pytest.raises(MCPError):
                await client.call_tool("ask", given | {"session": "crash"})

    async def main() -> None:
        at.hold("k model 1")
        calling = asyncio.ensure_future(broken())
        await reached(at, "k model 1")
        server.wait_until_stored()
        server.kill()
        await asyncio.wait([calling])
        calling.exception()  # (it leaves in ways of its own)
        at.release()
        await asyncio.to_thread(server.start)
        async with connected(server.url, version) as client:
            assert await ask(client, session="crash", **given) == "k: did a, did b"

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
    assert len(server.client.get("/v1/sessions/crash/runs").json()["runs"]) == 1


def test_a_client_that_shakes_hands_gets_its_answer_after_kill_9(
    server: Server, at: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It resumes by itself, without a key."""
    monkeypatch.setattr("mcp.client.streamable_http.MAX_RECONNECTION_ATTEMPTS", 20)  # (machines may be slow)

    async def story(client: Client) -> None:
        at.hold("k model 1")
        calling = asyncio.ensure_future(ask(client, "k a b", session="crash"))
        await reached(at, "k model 1")
        server.wait_until_stored()
        server.kill()
        at.release()
        await asyncio.to_thread(server.start)
        assert await calling == "k: did a, did b"

    run(story, server, BEFORE)
    assert len(server.client.get("/v1/sessions/crash/runs").json()["runs"]) == 1


def test_a_client_that_shakes_hands_can_cancel_a_call(server: Server, at: Checkpoints) -> None:
    async def story(client: Client) -> None:
        at.hold("c ?a", "other ?a")
        others = asyncio.ensure_future(client.call_tool("ask", {"message": "other ?a", "session": "other"}))
        calling = asyncio.ensure_future(client.call_tool("ask", {"message": "c ?a", "session": "c"}))
        await reached(at, "c ?a", "other ?a")
        calling.cancel()
        await asyncio.wait([calling])
        run_id = server.client.get("/v1/sessions/c/runs").json()["runs"][0]["run_id"]
        await becomes(lambda: server.run(run_id)["cancel_requested"], "it is cancelled")
        other = server.client.get("/v1/sessions/other/runs").json()["runs"][0]
        assert not other["cancel_requested"]
        at.release()
        assert (await asyncio.to_thread(server.run, run_id, 60))["status"] == "cancelled"
        server.client.post(f"/v1/runs/{other['run_id']}/cancel")
        await others

    run(story, server, BEFORE)


def notified(server: Server, session: dict[str, str], request_id: Any) -> int:
    sent = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
    return server.client.post("/mcp", json=sent, headers=session).status_code


def test_only_the_calls_of_a_session_are_cancelled_by_it(server: Server, at: Checkpoints) -> None:
    first, second = (begun(server) for _ in range(2))
    at.hold("n model 0")
    asked = message("tools/call", name="ask", arguments={"message": "n", "session": "n"})
    waiting = server.submit(server.client.post, "/mcp", json=asked, headers=first)
    at.reached("n model 0")
    run_id = server.client.get("/v1/sessions/n/runs").json()["runs"][0]["run_id"]
    for session, request_id in ((second, 1), ({}, 1), (first, 2), (first, "1"), (first, None)):
        assert notified(server, session, request_id) == 202
    assert not server.run(run_id)["cancel_requested"]
    assert notified(server, first, 1) == 202
    assert server.run(run_id)["cancel_requested"]
    at.release()
    *_, answer = whole_events(waiting.result(DEADLINE_S).content)[1]
    assert answer["result"]["structuredContent"]["status"] == "cancelled"
    assert notified(server, first, 1) == 202, "it has ended"


# -- streams that are cut -----------------------------------------------------------------------------


def begun(server: Server, **capabilities: Any) -> dict[str, str]:
    """Shake hands, and return the headers of the client's session."""
    shaken = message("initialize", protocolVersion=BEFORE, capabilities=capabilities)
    answer = server.client.post("/mcp", json=shaken)
    return {
        "Mcp-Session-Id": answer.headers["mcp-session-id"],
        "MCP-Protocol-Version": BEFORE,
        "Accept": "application/json, text/event-stream",
    }


def part(answer: httpx.Response, size: int) -> bytes:
    """Return at least so many bytes of a stream, whose connection is closed then."""
    received = b""
    for piece in answer.iter_raw():
        received += piece
        if len(received) >= size:
            break
    return received


def whole_events(received: bytes) -> tuple[str, list[dict[str, Any]]]:
    """Return the last id and the messages of the events that have come whole."""
    last, found = "", []
    for event in received.decode(errors="ignore").split("\n\n")[:-1]:
        fields = dict(line.partition(": ")[::2] for line in event.splitlines())
        last = fields.get("id", last)
        if fields.get("data"):
            found.append(json.loads(fields["data"]))
    return last, found


def test_a_stream_that_is_cut_a_hundred_times_has_the_same_result(server: Server, at: Checkpoints) -> None:
    """At any byte, while the run executes and when it has ended; progress comes once, in order."""
    chance = random.Random(11)
    session = begun(server)
    asked = message("tools/call", name="ask", arguments={"message": "cut a b+c ~d e", "session": "cut"})
    asked["params"]["_meta"] = {"progressToken": "p"}
    at.hold("cut model 3")
    with server.client.stream("POST", "/mcp", json=asked, headers=session) as stream:
        place, found = whole_events(part(stream, 1))
    for number in range(100):
        if number == 50:
            at.release()
        size = chance.randrange(1, 100 if number < 50 else 900)  # (while it is held, no more comes)
        with server.client.stream("GET", "/mcp", headers={**session, "Last-Event-ID": place}) as stream:
            assert stream.status_code == 200
            came, more = whole_events(part(stream, size))
        found += [each for each in more if "method" in each]
        place = came or place
    with server.client.stream("GET", "/mcp", headers={**session, "Last-Event-ID": place}) as stream:
        _, more = whole_events(stream.read())
    *progress, result = [*found, *more]
    assert [each["params"]["progress"] for each in progress] == list(range(1, len(progress) + 1))
    said = [each["params"]["message"] for each in progress]
    assert said.count("tool work started") + said.count("tool work_async started") == 5
    assert (result["id"], result["result"]["content"][0]["text"]) == (1, "cut: did a, did b, did c, did ~d, did e")
    assert len(server.client.get("/v1/sessions/cut/runs").json()["runs"]) == 1


def test_a_stream_of_another_caller_is_not_resumed(tmp_path: Path, at: Checkpoints) -> None:
    (ada, kept), (bob, other) = new_key("ada"), new_key("bob")
    flags = ("--api-keys", f"{kept.line()},{other.line()}")
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        keyed = [{"Authorization": f"Bearer {key}"} for key in (ada, bob)]
        asked = message("tools/call", name="ask", arguments={"message": "q", "session": "s"})
        spoken = {"MCP-Protocol-Version": BEFORE, "Accept": "text/event-stream"}
        place, _ = whole_events(server.client.post("/mcp", json=asked, headers=keyed[0] | spoken).content)
        answers = [server.client.get("/mcp", headers={**each, "Last-Event-ID": place}) for each in keyed]
        assert [each.status_code for each in answers] == [200, 404]
        assert whole_events(answers[0].content)[1][-1]["result"]["content"][0]["text"] == "q"
        assert answers[1].json()["error"]["data"] == {"code": "not_found"}
        assert server.client.get("/mcp", headers={**keyed[0], "Last-Event-ID": "made up"}).status_code == 404


def test_a_stopping_server_ends_a_stream_that_is_resumed_after_its_restart(server: Server, at: Checkpoints) -> None:
    session = begun(server)
    at.hold("w model 0")
    server.line_up("w", session_id="stops")
    asked = message("tools/call", name="ask", arguments={"message": "later", "session": "stops"})
    waiting = server.submit(server.client.post, "/mcp", json=asked, headers=session)
    until(lambda: server.health()["queue_depth"] == 1, "it waits")
    server.terminate()
    place, found = whole_events(waiting.result(DEADLINE_S).content)
    assert found == []
    at.release()
    server.ended()
    server.start()
    resumed = server.client.get("/mcp", headers={**session, "Last-Event-ID": place})
    assert whole_events(resumed.content)[1][-1]["result"]["content"][0]["text"] == "later"


def test_a_key_without_a_session_finds_the_same_one(server: Server) -> None:
    async def story(client: Client) -> None:
        first, again = [await call(client, "ask", message="x", idempotency_key="k") for _ in range(2)]
        assert first.structured_content == again.structured_content
        other = await client.call_tool("ask", {"message": "y", "idempotency_key": "k"})
        assert failure(other)[0] == "key_reused"

    run(story, server, CURRENT)


# -- other callers, and hostile ones ------------------------------------------------------------------


@both
def test_runs_and_sessions_of_another_caller_are_not_there(version: str, tmp_path: Path, at: Checkpoints) -> None:
    (ada, kept), (bob, other) = new_key("ada"), new_key("bob")

    async def main(url: str) -> None:
        async with connected(url, version, ada) as hers, connected(url, version, bob) as his:
            mine = await call(hers, "ask", message="p @pay", session="s")
            run_id = mine.structured_content["run_id"]
            for tool, more in (("status", {}), ("cancel", {}), ("answer", {"answer": "yes"})):
                denied = await his.call_tool(tool, {"run_id": run_id, **more})
                assert failure(denied) == ("not_found", f"there is no run {run_id}")
            assert await ask(his, "q", session="s") == "q"
            assert text(await call(hers, "answer", run_id=run_id, answer="no")) == "p: did @pay (no)"

    flags = ("--api-keys", f"{kept.line()},{other.line()}")
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        asyncio.run(asyncio.wait_for(main(server.url), DEADLINE_S))
        refused = server.client.post("/mcp", json=message("ping"))
        assert refused.status_code == 401
        assert refused.json()["error"]["data"] == {"code": "unauthorized"}
        keyed = [{"Authorization": f"Bearer {key}"} for key in (ada, bob)]
        begun = server.client.post("/mcp", json=message("initialize", protocolVersion=BEFORE), headers=keyed[0])
        session = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        assert server.client.post("/mcp", json=message("ping"), headers=keyed[0] | session).status_code == 200
        stolen = server.client.post("/mcp", json=message("ping"), headers=keyed[1] | session)
        assert (stolen.status_code, stolen.json()["error"]["data"]) == (404, {"code": "not_found"})


def message(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def test_a_session_id_is_good_after_a_restart(server: Server) -> None:
    begun = server.client.post("/mcp", json=message("initialize", protocolVersion=BEFORE))
    session = {"Mcp-Session-Id": begun.headers["mcp-session-id"], "MCP-Protocol-Version": BEFORE}
    asked = message("tools/call", name="ask", arguments={"message": "one"})
    first = server.client.post("/mcp", json=asked, headers=session).json()["result"]
    server.kill()
    server.start()
    second = server.client.post("/mcp", json=asked, headers=session).json()["result"]
    assert first["structuredContent"]["session"] == second["structuredContent"]["session"]
    assert first["structuredContent"]["run_id"] != second["structuredContent"]["run_id"]


META: Final = "io.modelcontextprotocol/"
ENVELOPE: Final = {f"{META}protocolVersion": CURRENT, f"{META}clientCapabilities": {}}
SPOKEN: Final = {"MCP-Protocol-Version": CURRENT, "Mcp-Method": "ping"}
HOSTILE: Final[dict[str, tuple[bytes | dict[str, Any], dict[str, str], int, int]]] = {
    "no JSON": (b"{", {}, 400, -32700),
    "a list": (b"[]", {}, 400, -32600),
    "nothing": ({}, {}, 400, -32600),
    "another JSON-RPC": ({"jsonrpc": "1.0", "method": "ping", "id": 1}, {}, 400, -32600),
    "no method": ({"jsonrpc": "2.0", "id": 1}, {}, 400, -32600),
    "an id that is none": ({"jsonrpc": "2.0", "method": "ping", "id": {}}, {}, 400, -32600),
    "half of a character": (b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}', {}, 400, -32700),
    "deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, {}, 400, -32700),
    "an unknown method": (message("sampling/createMessage"), {}, 200, -32601),
    "a call of nothing": (message("tools/call"), {}, 200, -32602),
    "a made-up session": (message("ping"), {"Mcp-Session-Id": f"y-{'0' * 32}-{'0' * 16}"}, 404, -32010),
    "a session that is none": (message("ping"), {"Mcp-Session-Id": "x"}, 404, -32010),
    "a version to come": (message("ping"), {"MCP-Protocol-Version": "2099-01-01"}, 400, -32022),
    "no envelope": (message("ping"), SPOKEN, 400, -32602),
    "another envelope": (message("ping", _meta=ENVELOPE | {f"{META}protocolVersion": "2099-01-01"}), {}, 400, -32020),
    "a header that lies": (message("tools/list", _meta=ENVELOPE), SPOKEN, 400, -32020),
    "no name": (message("tools/call", name="ask", _meta=ENVELOPE), SPOKEN | {"Mcp-Method": "tools/call"}, 400, -32020),
    "an unknown method now": (message("x", _meta=ENVELOPE), SPOKEN | {"Mcp-Method": "x"}, 404, -32601),
    "a web page": (message("ping"), {"Origin": "http://evil.example"}, 403, -32010),
    "a rebound name": (message("ping"), {"Host": "evil.example"}, 403, -32010),
}


def test_hostile_requests_get_errors_of_json_rpc(server: Server) -> None:
    for name, (body, headers, status, code) in HOSTILE.items():
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = server.client.post("/mcp", content=content, headers={"Content-Type": "application/json", **headers})
        assert (name, answer.status_code, answer.json()["error"]["code"]) == (name, status, code)
    for method, allowed in (("GET", "POST"), ("DELETE", "GET, HEAD, POST")):
        answer = server.client.request(method, "/mcp")
        assert (answer.status_code, ", ".join(sorted(answer.headers["allow"].split(", ")))) == (405, allowed)
    assert server.client.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/x"}).status_code == 202
    assert server.client.get("/v1/sessions").json()["sessions"] == []


def test_a_client_without_streams_gets_json(server: Server) -> None:
    asked = message("tools/call", name="ask", arguments={"message": "q a", "session": "json"})
    answer = server.client.post("/mcp", json=asked, headers={"Accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["content"] == [{"text": "q: did a", "type": "text"}]
    streamed = server.client.post("/mcp", json=asked, headers={"Accept": "application/json, text/event-stream"})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    (data,) = [each for each in streamed.text.splitlines() if each.startswith("data: ")]
    assert json.loads(data.removeprefix("data: "))["id"] == 1


def test_a_program_sets_options_beside_the_arguments(server: Server) -> None:
    asked = message("tools/call", name="queue", arguments={"message": "q", "session": "o"})
    asked["params"]["_meta"] = {"strandline/options": {"metadata": {"order": 7}, "priority": 2}}
    accepted = server.client.post("/mcp", json=asked).json()["result"]["structuredContent"]
    stored = server.run(accepted["run_id"], wait_s=60)
    assert (stored["metadata"], stored["priority"]) == ({"order": 7}, 2)
    asked["params"]["_meta"] = {"strandline/options": {"priority": 9}}
    refused = server.client.post("/mcp", json=asked).json()["result"]
    assert (refused["isError"], refused["structuredContent"]["error"]["code"]) == (True, "invalid")


def test_a_stopping_server_says_where_the_answer_will_be(server: Server, at: Checkpoints) -> None:
    at.hold("w model 0")
    server.line_up("w", session_id="stops")
    asked = message("tools/call", name="ask", arguments={"message": "later", "session": "stops"})
    waiting = server.submit(server.client.post, "/mcp", json=asked, headers={"Accept": "text/event-stream"})
    until(lambda: server.health()["queue_depth"] == 1, "it waits")
    server.terminate()
    answer: httpx.Response = waiting.result(DEADLINE_S)
    result = json.loads(next(each for each in answer.text.splitlines() if each.startswith("data: "))[6:])["result"]
    assert result["structuredContent"]["error"]["code"] == "goes_on_later"
    at.release()
    server.ended()
    server.start()
    status = message(
        "tools/call", name="status", arguments={"run_id": result["structuredContent"]["run_id"], "wait": 60}
    )
    assert server.client.post("/mcp", json=status).json()["result"]["content"][0]["text"] == "later"
