"""MCP: versions, session ids, and what a client makes of the events of a run."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import mcp_types
import msgspec
import pytest
from mcp_types import methods
from starlette.datastructures import Headers

from cluster_support import pair, run, until
from strandline._agents.port import Attempt
from strandline._engine import events
from strandline._engine.events import Event, Numbered, Reason, RunFinished, Why
from strandline._http.dialects.mcp import sessions
from strandline._http.dialects.mcp.places import Place, place_of
from strandline._http.dialects.mcp.stream import GROWS_S, RETRY_MS, SHOWN, CallEvents
from strandline._http.dialects.mcp.tools import TOOLS
from strandline._http.dialects.mcp.versions import BY_HANDSHAKE, CURRENT, Client, can_elicit, client_of, negotiated
from strandline._http.dialects.mcp.wire import (
    HEADER_DIFFERS,
    INVALID_PARAMS,
    VERSION_UNKNOWN,
    McpRequest,
    Reply,
    RpcFailure,
)
from strandline._model import ErrorCode, InputRequest, Principal, RunError, RunId, RunStatus, SessionId
from strandline.errors import NotFound

META = "io.modelcontextprotocol/"
ADA, BOB, RUN = Principal("ada"), Principal("bob"), RunId("run_1")


# -- versions -----------------------------------------------------------------------------------------


def request(method: str = "tools/call", name: Any = "ask", **meta: Any) -> McpRequest:
    given = {f"{META}{key}": value for key, value in meta.items()}
    return McpRequest(jsonrpc="2.0", id=1, method=method, params={"name": name, **({"_meta": given} if given else {})})


def current(name: Any = "ask", **meta: Any) -> McpRequest:
    return request(name=name, **{"protocolVersion": CURRENT, "clientCapabilities": {}, **meta})


def headers(**more: str) -> Headers:
    return Headers({"mcp-protocol-version": CURRENT, "mcp-method": "tools/call", "mcp-name": "ask", **more})


@pytest.mark.parametrize("version", [None, *BY_HANDSHAKE])
def test_a_request_of_a_handshakes_client_needs_no_envelope(version: str | None) -> None:
    given = Headers({} if version is None else {"mcp-protocol-version": version})
    assert client_of(request(), given) == Client(is_current=False, resumes=version == BY_HANDSHAKE[0])


def test_a_request_of_the_current_version_says_what_its_client_can() -> None:
    assert client_of(current(), headers()) == Client(is_current=True, elicits=False)
    asks = current(clientCapabilities={"elicitation": {"form": {}}})
    assert client_of(asks, headers()) == Client(is_current=True, elicits=True)
    encoded = headers(**{"mcp-name": "=?base64?w6Q=?="})
    assert client_of(current("\u00e4"), encoded).is_current


@pytest.mark.parametrize(
    ("sent", "given", "code"),
    [
        (request(), headers(), INVALID_PARAMS),
        (request(protocolVersion=CURRENT), headers(), INVALID_PARAMS),
        (current(clientCapabilities=None), headers(), INVALID_PARAMS),
        (current(protocolVersion=1), headers(), INVALID_PARAMS),
        (current(), Headers({}), HEADER_DIFFERS),
        (current(), headers(**{"mcp-method": "tools/list"}), HEADER_DIFFERS),
        (current(), headers(**{"mcp-name": "queue"}), HEADER_DIFFERS),
        (current(), headers(**{"mcp-name": "=?base64?!?="}), HEADER_DIFFERS),
        (current(protocolVersion="2099-01-01"), headers(), HEADER_DIFFERS),
        (
            current(protocolVersion="2099-01-01"),
            headers(**{"mcp-protocol-version": "2099-01-01"}),
            VERSION_UNKNOWN,
        ),
        (request(), Headers({"mcp-protocol-version": "2024-11-05"}), VERSION_UNKNOWN),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(sent: McpRequest, given: Headers, code: int) -> None:
    with pytest.raises(RpcFailure) as refused:
        client_of(sent, given)
    assert refused.value.error.code == code
    assert refused.value.status == 400


def test_a_header_that_comes_twice_is_refused() -> None:
    raw = [(b"mcp-protocol-version", CURRENT.encode()), *[(b"mcp-method", b"tools/call")] * 2, (b"mcp-name", b"ask")]
    with pytest.raises(RpcFailure, match="mcp-method must be there once"):
        client_of(current(), Headers(raw=raw))


@pytest.mark.parametrize(
    ("capability", "can"), [({}, True), ({"form": {}}, True), ({"url": {}}, False), (None, False), (True, False)]
)
def test_who_can_show_a_form_can_be_asked(capability: Any, can: bool) -> None:
    assert can_elicit({} if capability is None else {"elicitation": capability}) is can


@pytest.mark.parametrize(
    ("wanted", "got"),
    [("2025-11-25", "2025-11-25"), ("2025-06-18", "2025-06-18"), ("2024-11-05", "2025-11-25"), (7, "2025-11-25")],
)
def test_a_handshake_agrees_on_a_version(wanted: Any, got: str) -> None:
    assert negotiated(wanted) == got


# -- sessions -----------------------------------------------------------------------------------------


def test_a_session_id_says_all_and_is_good_for_its_caller_only() -> None:
    for elicits in (True, False):
        made = sessions.new_session(elicits=elicits)
        given = made.id_for(ADA)
        assert sessions.session_with(given, ADA) == made
        assert sessions.session_with(given, BOB) is None
        flipped = ("n" if given[0] == "y" else "y") + given[1:]
        assert sessions.session_with(flipped, ADA) is None
    assert sessions.new_session(elicits=True).name != sessions.new_session(elicits=True).name


@pytest.mark.parametrize("given", ["", "y", "y--", f"y-{'0' * 32}-{'0' * 16}", f"y-{'0' * 32}-{'0' * 16}\n", "\u00e9"])
def test_what_is_no_session_id_is_none(given: str) -> None:
    assert sessions.session_with(given, ADA) is None


# -- the events of a run ------------------------------------------------------------------------------


def messages(encoded: bytes) -> list[dict[str, Any]]:
    """Return the messages of a stream, each checked by the official types."""
    frames = [each for each in encoded.decode().split("\n\n") if each]
    assert all(each.startswith("data: ") for each in frames)
    found = [json.loads(each.removeprefix("data: ")) for each in frames]
    for each in found:
        mcp_types.jsonrpc.jsonrpc_message_adapter.validate_python(each)
        if "method" in each:
            mcp_types.ProgressNotification.model_validate(each)
    return found


def told(heard: Iterable[Event | tuple[float, Event]], token: str | int | None = "t") -> list[str]:
    """Return the progress that a client sees of these events."""
    frames = CallEvents(SessionId("s"), Place(RUN, 0, 0, 1, token), Reply(1), resumes=False)
    data = frames.opening()
    for number, each in enumerate(heard, 1):
        at, event = each if isinstance(each, tuple) else (100.0, each)
        data += frames.of(Numbered(number, at, event))
    found = [each["params"] for each in messages(data)]
    assert [each["progress"] for each in found] == list(range(1, len(found) + 1))
    assert all(each["progressToken"] == token for each in found)
    return [each["message"] for each in found]


def end(status: RunStatus, **more: Any) -> RunFinished:
    given = {"output": "", "message": None, "error": None, "input_requests": [], "usage": None, **more}
    return RunFinished(status=status, **given)


def result(event: RunFinished | None, *, is_current: bool = False) -> dict[str, Any]:
    """Return the result that a client gets, checked by the official types of its version."""
    reply = Reply("id", {"a": 1} if is_current else None)
    frames = CallEvents(SessionId("s"), Place(RUN, 0, 0, "id", None), reply, resumes=False)
    if event is not None:
        assert frames.of(Numbered(1, 100.0, event)) == b""
    (answer,) = messages(frames.closing())
    assert answer["id"] == "id"
    methods.parse_server_result("tools/call", CURRENT if is_current else BY_HANDSHAKE[0], answer["result"])
    found: dict[str, Any] = answer["result"]
    return found


def test_progress_shows_the_queue_tools_and_texts() -> None:
    why = Why(Reason.PAUSED, "the session is paused")
    said = {"role": "assistant", "content": [{"text": "let me see"}, {"toolUse": {}}]}
    long = {"role": "assistant", "content": [{"text": "x" * (SHOWN + 1)}]}
    result = {"toolUseId": "1", "status": "success", "content": []}
    assert told(
        [
            events.RunQueued(2, 1.5),
            events.RunPosition(0, None, why),
            events.RunStarted(1),
            events.MessageAdded(said),  # type: ignore[arg-type]
            events.ToolStarted("1", "add", {}),
            events.ToolFinished("1", "add", "success", 1.0, result),
            events.ToolFinished("2", "sub", "error", 1.0, result),
            events.MessageAdded({"role": "user", "content": [{"text": "not shown"}]}),
            events.MessageAdded({"role": "assistant", "content": [{"toolUse": {}}]}),
            events.MessageAdded(long),  # type: ignore[arg-type]
            events.TextReset(),
            events.RunStalled(12.3, "model"),
            events.RunRestarted(2, []),
            events.RunJoined(RunId("run_1"), RunId("run_0"), []),
            events.Usage({}, None, None),
            events.StreamGap(1, 2),
            events.ReasoningDelta("hm"),
        ]
    ) == [
        "waiting at place 2",
        "waiting: the session is paused",
        "started",
        "let me see",
        "tool add started",
        "tool add ended",
        "tool sub failed",
        "x" * SHOWN + "...",
        "the model starts over",
        "silent for 12 s",
        "started again after an interruption",
        "joined the turn that executes",
    ]


def test_a_growing_text_is_reported_once_a_second() -> None:
    pieces: list[tuple[float, Event]] = [(100 + number * GROWS_S / 4, events.TextDelta("12345")) for number in range(9)]
    assert told(pieces) == ["answering: 5 characters", "answering: 25 characters", "answering: 45 characters"]
    again: list[tuple[float, Event]] = [pieces[0], (100.1, events.TextReset()), (102.0, events.TextDelta("12"))]
    assert told(again)[-1] == "answering: 2 characters"


def test_without_a_token_there_is_no_progress() -> None:
    frames = CallEvents(SessionId("s"), Place(RUN, 0, 0, 1, None), Reply(1), resumes=False)
    heard: list[Event] = [events.RunStarted(1), events.TextDelta("x"), events.ToolStarted("1", "add", {})]
    assert b"".join(frames.of(Numbered(1, 100.0, each)) for each in heard) == b""


@pytest.mark.parametrize("is_current", [True, False])
def test_each_end_is_a_result(is_current: bool) -> None:
    good = result(end(RunStatus.SUCCEEDED, output="five"), is_current=is_current)
    run = {"session": "s", "run_id": "run_1"}
    assert good["content"] == [{"type": "text", "text": "five"}]
    assert (good["structuredContent"], good.get("isError")) == ({**run, "status": "succeeded", "output": "five"}, None)
    assert (good.get("resultType"), good.get("_meta")) == (("complete", {"a": 1}) if is_current else (None, None))
    error = RunError(ErrorCode.TIMEOUT, "it took too long")
    bad = result(end(RunStatus.FAILED, error=error), is_current=is_current)
    assert (bad["isError"], bad["structuredContent"]["error"]) == (
        True,
        {"code": "timeout", "detail": "it took too long"},
    )
    assert result(end(RunStatus.CANCELLED), is_current=is_current)["isError"]
    later = result(None, is_current=is_current)
    assert (later["isError"], later["structuredContent"]["error"]["code"]) == (True, "goes_on_later")
    assert "run_1" in later["content"][0]["text"]


def test_a_client_that_resumes_gets_what_it_lacks() -> None:
    heard: list[Event] = [events.RunStarted(1), events.ToolStarted("1", "add", {}), events.RunPosition(1, None)]
    frames = CallEvents(SessionId("s"), Place(RUN, 0, 0, 7, "t"), Reply(7), resumes=True)
    sent = frames.opening()
    assert sent.startswith(b"retry: %d\nid: " % RETRY_MS)
    for number, each in zip((4, 5, None), heard, strict=True):
        sent += frames.of(Numbered(number, 100.0, each))
    ids = [line.removeprefix("id: ") for line in sent.decode().splitlines() if line.startswith("id: ")]
    places = [place_of(each) for each in ids]
    assert [(each.number, each.count) for each in places] == [(0, 0), (4, 1), (5, 2), (5, 3)]
    assert {(each.run_id, each.request_id, each.token) for each in places} == {(RUN, 7, "t")}
    resumed = CallEvents(SessionId("s"), places[-1], Reply(7), resumes=True)
    (progress,) = messages(resumed.of(Numbered(6, 101.0, events.TextReset())).partition(b"\n")[2])
    assert progress["params"]["progress"] == 4
    assert resumed.closing() == b"", "it comes back"
    assert resumed.of(Numbered(7, 102.0, end(RunStatus.SUCCEEDED, output="x"))) == b""
    assert messages(resumed.closing())[0]["id"] == 7


@pytest.mark.parametrize("given", ["", "x", "!", "\u00e4", "e30", "W10", Place(RUN, -1, 0, 1, None).encoded(), "A" * 5])
def test_what_is_no_id_of_an_event_is_not_found(given: str) -> None:
    with pytest.raises(NotFound, match="Last-Event-ID must be the id of an event"):
        place_of(given)


def test_a_question_is_a_result_that_says_how_to_answer() -> None:
    one = [InputRequest("q1", "pay", "May I?")]
    asked = result(end(RunStatus.NEEDS_INPUT, input_requests=one))
    assert asked["content"][0]["text"] == (
        "The agent asks: pay: May I?\n\nAnswer with the tool answer: run_id run_1, and the answer."
    )
    assert asked["structuredContent"]["questions"] == [{"id": "q1", "name": "pay", "reason": "May I?"}]
    several = result(end(RunStatus.NEEDS_INPUT, input_requests=[*one, InputRequest("q2", "ship")]))
    assert "an object with q1, q2" in several["content"][0]["text"]


def test_the_tools_are_as_the_official_types_have_them() -> None:
    listed = json.loads(msgspec.json.encode(TOOLS))
    for version, more in (
        (BY_HANDSHAKE[0], {}),
        (CURRENT, {"ttlMs": 1, "cacheScope": "public", "resultType": "complete"}),
    ):
        methods.parse_server_result("tools/list", version, {"tools": listed, **more})


# -- several servers ----------------------------------------------------------------------------------


def test_a_call_that_reaches_another_server_is_the_same() -> None:
    async def scene() -> None:
        async with pair(answering) as (_, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)

            async def asked(url: str, name: str, **arguments: Any) -> dict[str, Any]:
                params = {"name": name, "arguments": arguments}
                body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
                accept = {"Accept": "application/json, text/event-stream"}
                answer: httpx.Response = await client.post(f"{url}/mcp", json=body, headers=accept)
                assert answer.status_code == 200, answer.text
                encoded = answer.text if name != "ask" else answer.text.partition("data: ")[2]
                found: dict[str, Any] = json.loads(encoded)["result"]
                return found

            said = {"message": "hi", "session": "s", "idempotency_key": "k"}
            answers = [await asked(each.url, "ask", **said) for each in (first, owner, first)]
            assert answers[0] == answers[1] == answers[2]
            assert answers[0]["content"][0]["text"] == "done"
            run_id = answers[0]["structuredContent"]["run_id"]
            for at in (first, owner):
                assert (await asked(at.url, "status", run_id=run_id))["content"] == answers[0]["content"]
            refused = await asked(first.url, "queue", **{**said, "message": "another"})
            assert refused["structuredContent"]["error"]["code"] == "key_reused"
            await until(lambda: not owner.service.health().running, "all have ended")

    run(scene)


async def answering(_: Attempt) -> str:
    return "done"
