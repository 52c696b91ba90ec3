"""Tools of clients at any of several servers: the call from one, the result to another, or after the owner died."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server
from acceptance.test_any_server import accepted, sessions_of, two

WANTED: Final = TARGETS / "wanted.py"
FUNCTION: Final = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
CALL: Final = 'call [["weather", {"city": "Rome"}]]'
Call = Callable[[Server, str], Any]
Answer = Callable[[Server, str, Any], str]


def sent(server: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = server.client.post(path, json=body, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    return answer


def completed(server: Server, session: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    tools = [{"type": "function", "function": FUNCTION}]
    body = {"user": session, "messages": messages, "tools": tools}
    message: dict[str, Any] = sent(server, "/v1/chat/completions", body).json()["choices"][0]["message"]
    return message


def call_by_completion(server: Server, session: str) -> Any:
    asked = [{"role": "user", "content": CALL}]
    return [*asked, completed(server, session, asked)]


def answer_by_completion(server: Server, session: str, messages: Any) -> str:
    result = {"role": "tool", "tool_call_id": messages[-1]["tool_calls"][0]["id"], "content": "sunny"}
    return str(completed(server, session, [*messages, result])["content"])


def call_by_response(server: Server, session: str) -> Any:
    body = {"conversation": session, "input": CALL, "tools": [{"type": "function", **FUNCTION}]}
    return sent(server, "/v1/responses", body).json()


def answer_by_response(server: Server, session: str, asked: Any, **named: str) -> str:
    result = {"type": "function_call_output", "call_id": asked["output"][-1]["call_id"], "output": "sunny"}
    body = {"input": [result], **(named or {"conversation": session})}
    return str(sent(server, "/v1/responses", body).json()["output"][0]["content"][0]["text"])


def answer_after_response(server: Server, session: str, asked: Any) -> str:
    return answer_by_response(server, session, asked, previous_response_id=asked["id"])


def events(server: Server, session: str, run_id: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    body = {"threadId": session, "runId": run_id, "messages": messages, "tools": [FUNCTION]}
    frames = sent(server, "/agui", body).text.split("\n\n")
    return [json.loads(each.removeprefix("data: ")) for each in frames if each.startswith("data: ")]


def call_by_agui(server: Server, session: str) -> Any:
    asked = {"id": "m", "role": "user", "content": CALL}
    (call,) = (each for each in events(server, session, "1", [asked]) if each["type"] == "TOOL_CALL_START")
    return [asked, {"id": "r", "role": "tool", "toolCallId": call["toolCallId"], "content": "sunny"}]


def answer_by_agui(server: Server, session: str, messages: Any) -> str:
    said = events(server, session, "2", messages)
    return "".join(each["delta"] for each in said if each["type"] == "TEXT_MESSAGE_CONTENT")


WAYS: Final[dict[str, tuple[Call, Answer]]] = {
    "chat completions": (call_by_completion, answer_by_completion),
    "responses": (call_by_response, answer_by_response),
    "responses by the one before": (call_by_response, answer_after_response),
    "AG-UI": (call_by_agui, answer_by_agui),
}


def test_a_call_and_its_result_may_go_through_any_server(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path, target=WANTED) as (first, second):
        sessions = sessions_of(first, second, len(WAYS))
        before = accepted(first)
        for session, (call, answer) in zip(sessions, WAYS.values(), strict=True):
            asked = call(second, session)
            (request,) = first.client.get(f"/v1/sessions/{session}").json()["input_requests"]
            assert request["client_tool"] is True
            assert answer(second, session, asked) == 'got [["weather", "sunny"]]'
        assert accepted(first) == before + 2 * len(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_a_result_continues_the_run_at_another_server_when_its_own_has_died(
    way: str, at: Checkpoints, database: str, tmp_path: Path
) -> None:
    call, answer = WAYS[way]
    with two(at, database, tmp_path, target=WANTED) as (first, second):
        (session,) = sessions_of(first, second, 1)
        asked = call(first, session)
        first.kill()
        assert answer(second, session, asked) == 'got [["weather", "sunny"]]'
        assert second.client.get(f"/v1/sessions/{session}").json()["input_requests"] == []
