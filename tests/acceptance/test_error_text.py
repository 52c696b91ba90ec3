"""With API keys, texts of the agent's exceptions reach the log only, never a client."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until
from acceptance.test_keys import made, shown
from acceptance.test_traces import JsonServer

SECRET = "hunter2"
RUNS = "/v1/sessions/{}/runs"
WAIT = {"Prefer": "wait=20"}
ID = re.compile(r"err_\w+")


@pytest.fixture(scope="module", params=["1", "2"], ids=["in the server", "in workers"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """Serve to a key, with the log that has no text of exceptions."""
    folder = tmp_path_factory.mktemp("leaking")
    key = made(folder, "ada")
    flags = ("--api-keys-file", "keys", "--log-format", "json", "--workers", request.param)
    server = JsonServer(TARGETS / "leaking.py", *flags, folder=folder)
    try:
        server.start()
        yield server, key
    finally:
        server.close()


def said(history: list[dict[str, Any]]) -> list[str]:
    return [block["text"] for each in history if each["role"] == "assistant" for block in each["content"]]


def failures(client: httpx.Client, session: str) -> dict[str, httpx.Response]:
    """Let a run fail over every protocol, in every form, and return all answers."""
    asked = {"id": "m", "role": "user", "content": "fail"}
    completion = {"messages": [asked], "user": session}
    events = {"Accept": "text/event-stream"}
    core = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": session}
    tool = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ask", "arguments": {"message": "fail", "session": session}},
    }
    response = {
        "chat": client.post("/chat", json={"message": "fail", "session_id": session}),
        "chat's events": client.post("/chat", json={"message": "fail", "session_id": session}, headers=events),
        "run": client.post(RUNS.format(session), json={"input": "fail"}, headers=WAIT),
        "run's events": client.post(RUNS.format(session), json={"input": "fail"}, headers=events),
        "completion": client.post("/v1/chat/completions", json=completion),
        "completion in pieces": client.post("/v1/chat/completions", json={**completion, "stream": True}),
        "AG-UI": client.post("/agui", json={"threadId": session, "runId": "1", "messages": [asked]}),
        "MCP": client.post("/mcp", json=tool),
        "MCP's events": client.post("/mcp", json=tool, headers=events),
        "invocation": client.post("/invocations", json={"prompt": "fail"}, headers=core),
        "invocation in pieces": client.post("/invocations", json={"prompt": "fail"}, headers=core | events),
    }
    run_id = response["run"].json()["run_id"]
    return response | {
        "run, read again": client.get(f"/v1/runs/{run_id}"),
        "events, read again": client.get(f"/v1/runs/{run_id}/events"),
        "list": client.get(RUNS.format(session)),
        "history": client.get(f"/v1/sessions/{session}/history"),
        "the original history": client.get("/history", params={"session_id": session, "count": 0}),
    }


def test_no_protocol_shows_the_text_of_an_exception_and_each_names_its_place_in_the_log(
    served: tuple[Server, str],
) -> None:
    server, key = served
    with httpx.Client(base_url=server.url, headers=shown(key), timeout=DEADLINE_S, trust_env=False) as client:
        failed = failures(client, "desk")
        for where, answer in failed.items():
            assert SECRET not in answer.text, where
            assert ID.search(answer.text), where
        run = failed["run"].json()
        assert ID.fullmatch(run["error"]["detail"])
        assert (run["error"]["code"], "out_of_tokens" in run["error"]) == ("agent_error", False)
        assert ID.fullmatch(failed["chat"].json()["response"])
        assert run["message"]["content"][-1] == {"text": run["error"]["detail"]}
        unbuilt = client.post(RUNS.format("unbuilt"), json={"input": "hello"}, headers=WAIT)
        assert SECRET not in unbuilt.text
        assert client.post("/chat", json={"message": "next", "session_id": "desk"}).json()["status"] == "success"
        history = client.get("/history", params={"session_id": "desk", "count": 0}).json()["messages"]
        ids = [text for text in said(history) if ID.fullmatch(text)]
        assert len(set(ids)) == 11
        for each in (*ids, unbuilt.json()["error"]["detail"]):
            until(partial(_logged, server, each), f"a line of the log with {each}")
            (line,) = _logged(server, each)
            assert SECRET in line["message"]
            assert line["run_id"].removeprefix("run_") == each.removeprefix("err_")


def test_out_of_tokens_is_still_distinguished_from_other_failures(served: tuple[Server, str]) -> None:
    server, key = served
    with httpx.Client(base_url=server.url, headers=shown(key), timeout=DEADLINE_S, trust_env=False) as client:
        body = {"messages": [{"role": "user", "content": "long"}], "user": "long"}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", "half an ans")
        error = client.post(RUNS.format("long"), json={"input": "long"}, headers=WAIT).json()["error"]
        assert error == {"code": "agent_error", "detail": error["detail"], "out_of_tokens": True}
        assert ID.fullmatch(error["detail"])


def test_without_keys_history_says_why_a_run_failed(tmp_path: Path) -> None:
    with serving(TARGETS / "leaking.py", folder=tmp_path) as server:
        why = "ConnectionError: cannot reach postgresql://ada:hunter2@db.internal/pay"
        assert server.client.post("/chat", json={"message": "fail"}).json()["response"] == why
        assert said(server.history("default")) == ["let me see", "(This run ended early: agent_error.)", why]


def test_the_class_is_shown_where_the_setting_says_so(tmp_path: Path) -> None:
    with serving(TARGETS / "leaking.py", "--error-text", "class", folder=tmp_path) as server:
        assert server.client.post("/chat", json={"message": "fail"}).json()["response"] == "ConnectionError"
        assert said(server.history("default"))[-1] == "ConnectionError"


def _logged(server: Server, error_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if error_id in line["message"]]
