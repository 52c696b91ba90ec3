"""`docs/protocols.md`: what its table says of each protocol is what a server does."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from acceptance.server import TARGETS, Server, serving, texts
from docs.pages import DOCS
from strandline._check.adapters import BUILT_IN

PAGE: Final = "protocols.md"
HEADER: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


def table() -> dict[str, dict[str, str]]:
    """Return the columns of the page's table, by the path of each: what each row says."""
    rows = [line.strip("|").split("|") for line in (DOCS / PAGE).read_text().splitlines() if line.startswith("|")]
    _, _, *rest = [[cell.strip() for cell in row] for row in rows]
    columns = list(zip(*rest, strict=True))
    return {column[0].strip("`"): dict(zip(columns[0], column, strict=True)) for column in columns[1:]}


COLUMNS: Final = table()


def sent(server: Server, path: str, text: str, session: str | None, key: str) -> httpx.Response:
    """Send a message by the protocol of this path, in the session that is named as the page says."""
    headers, body = _request(path, text, session, key)
    if "`Idempotency-Key`" in COLUMNS[path]["same request, same run"]:
        headers["Idempotency-Key"] = key
    return server.client.post(path.replace("{session_id}", session or ""), json=body, headers=headers)


def _request(path: str, text: str, session: str | None, key: str) -> tuple[dict[str, str], dict[str, Any]]:
    messages = [{"id": "1", "role": "user", "content": text}]
    match path:
        case "/chat":
            return {}, {"message": text, **({} if session is None else {"session_id": session})}
        case "/v1/sessions/{session_id}/runs":
            return {"Prefer": "wait=60"}, {"input": text}
        case "/v1/chat/completions":
            return {}, {"messages": messages, **({} if session is None else {"user": session})}
        case "/v1/responses":
            return {}, {"input": text, **({} if session is None else {"conversation": session})}
        case "/agui":
            return {}, {"threadId": session, "runId": key, "messages": messages}
        case "/invocations":
            return ({} if session is None else {HEADER: session}), {"prompt": text}
        case "/a2a":
            message = {"messageId": key, "role": "ROLE_USER", "parts": [{"text": text}]}
            named = {} if session is None else {"contextId": session}
            return {}, _call("SendMessage", {"message": {**message, **named}})
        case "/mcp":
            arguments = {"message": text, "idempotency_key": key, **({} if session is None else {"session": session})}
            return {}, _call("tools/call", {"name": "ask", "arguments": arguments})
    raise AssertionError(f"send something by {path}, too")


def _call(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(TARGETS / "wanted.py", folder=tmp_path_factory.mktemp("protocols")) as made:
        yield made


def test_each_protocol_that_is_checked_has_a_column() -> None:
    checked = {each[name].strip("`") for each in COLUMNS.values() for name in each if "strandline check" in name}
    assert checked - {"-"} == BUILT_IN.keys()
    assert all(cell for each in COLUMNS.values() for cell in each.values())


def test_all_protocols_share_a_session_and_the_same_request_is_the_same_run(server: Server) -> None:
    for path in COLUMNS:
        first, again = (sent(server, path, f"by {path}", "shared", f"key {path}") for _ in range(2))
        assert first.status_code == 200, (path, first.text)
        assert again.headers["idempotency-replayed"] == "true", path
        assert (again.status_code, again.content) == (first.status_code, first.content), path
    assert texts(server.history("shared"), "user") == [f"by {path}" for path in COLUMNS]


@pytest.mark.parametrize("path", COLUMNS)
def test_a_run_that_failed_has_the_status_that_the_table_says(server: Server, path: str) -> None:
    failed = sent(server, path, "json! {", "failed", f"key {path}")
    assert str(failed.status_code) == COLUMNS[path]["status of a run that failed"]
    runs = server.client.get("/v1/sessions/failed/runs").json()["runs"]
    assert runs[0]["status"] == "failed"


@pytest.mark.parametrize("path", COLUMNS)
def test_a_request_that_names_no_session_is_what_the_table_says(server: Server, path: str) -> None:
    said = COLUMNS[path]["if none is named"]
    if said == "-":
        return
    answer = sent(server, path, "nameless", None, f"nameless {path}")
    if said == "refused":
        assert answer.status_code in (400, 422)
        return
    assert answer.status_code == 200
    named = re.findall(r'"session_id":\s*"([^"]+)"', json.dumps(answer.json()))
    assert ("`default`" if named == ["default"] else "a new one") == said


@pytest.mark.parametrize("path", COLUMNS)
def test_a_question_is_asked_and_answered_in_each_protocol(server: Server, path: str) -> None:
    session = f"asks-{list(COLUMNS).index(path)}"
    asked = sent(server, path, 'call [["ask", {"text": "May I?"}]]', session, f"asks {path}")
    assert asked.status_code == 200, asked.text
    (request,) = server.client.get(f"/v1/sessions/{session}").json()["input_requests"]
    assert request["id"] in asked.text
    (run,) = server.client.get(f"/v1/sessions/{session}/runs").json()["runs"]
    by = "/v1/sessions/{session_id}/runs" if COLUMNS[path]["its answer"] == "by the run API" else path
    headers, body = _answer(by, request["id"], session, run["run_id"])
    answered = server.client.post(by.replace("{session_id}", session), json=body, headers=headers)
    assert answered.status_code == 200, answered.text
    assert texts(server.history(session), "assistant")[-1] == 'got [["ask", "yes"]]'


def _answer(path: str, request_id: str, session: str, run_id: str) -> tuple[dict[str, str], dict[str, Any]]:
    answers = [{"id": request_id, "response": "yes"}]
    headers, body = _request(path, "", session, f"answers {path}")
    match path:
        case "/v1/sessions/{session_id}/runs":
            return headers, {"input": {"responses": answers}}
        case "/v1/chat/completions":
            return headers, {**body, "messages": [], "responses": answers}
        case "/v1/responses":
            output = {"type": "function_call_output", "call_id": request_id, "output": "yes"}
            return headers, {**body, "input": [output]}
        case "/agui":
            resume = [{"interruptId": request_id, "status": "resolved", "payload": "yes"}]
            return headers, {**body, "resume": resume}
        case "/a2a":
            message = {**body["params"]["message"], "taskId": run_id, "parts": [{"text": "yes"}]}
            return headers, _call("SendMessage", {"message": message})
        case "/mcp":
            return headers, _call("tools/call", {"name": "answer", "arguments": {"run_id": run_id, "answer": "yes"}})
    return headers, {name: body[name] for name in ("session_id",) if name in body} | {"responses": answers}
