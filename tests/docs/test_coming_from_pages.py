"""The pages for people who come from something else are true: their code runs, before and after, and so do the claims.

What they say is not there yet is looked for too, so that a page changes when it comes.
"""

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

from acceptance.race import judge
from acceptance.server import DEADLINE_S, Server, environment, serving, until
from docs.pages import blocks, files, text, write_files
from ports import reserved_port

LOCK, AGENTCORE, LANGGRAPH = (f"coming-from-{each}.md" for each in ("a-lock", "agentcore", "langgraph"))


# -- a lock -------------------------------------------------------------------------------------------


@contextmanager
def uvicorn(module: str, folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serve an app of a page as its makers would, in a process of its own."""
    port = reserved_port()
    command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), "--log-level", "critical"]
    process = subprocess.Popen(command, cwd=folder, env=environment({}), stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _listens(url), "the app answers")
        yield url, process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/docs", trust_env=False)
    except httpx.TransportError:
        return False
    return True


def post(url: str, message: str) -> httpx.Response:
    return httpx.post(f"{url}/chat", json={"message": message}, timeout=DEADLINE_S, trust_env=False)


def test_a_lock_leaves_two_questions_in_a_row_and_forgets_all_in_a_crash(tmp_path: Path) -> None:
    folder = write_files(LOCK, tmp_path)
    with uvicorn("app", folder) as (url, process):
        assert [post(url, message).status_code for message in ("one", "fail", "two")] == [200, 500, 200]
        messages = httpx.get(f"{url}/history", trust_env=False).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user", "user", "assistant"]
        assert judge(messages) != []
        process.kill()
    with uvicorn("app", folder) as (url, _):
        assert post(url, "three").json() == {"response": "Question 1: three\n"}
        assert len(httpx.get(f"{url}/history", trust_env=False).json()["messages"]) == 2


def test_what_comes_after_a_lock_keeps_both_in_order(tmp_path: Path) -> None:
    with serving("agent.py", folder=write_files(LOCK, tmp_path)) as server:
        assert [server.chat(message)["status"] for message in ("one", "fail", "two")] == ["success", "error", "success"]
        assert {"response", "status", "agent_id", "run_id"} <= server.chat("three").keys()
        assert judge(server.history()) == []
        server.kill()
        server.start()
        assert len(server.history()) == 8


# -- agentcore ----------------------------------------------------------------------------------------


def test_clients_of_agentcore_ask_as_they_did(tmp_path: Path) -> None:
    session = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "0b6c7e1e-6a53-4b7e-9d0e-3a4f5b6c7d8e"}
    with serving("agent.py", folder=write_files(AGENTCORE, tmp_path)) as server:
        said = server.client.post("/invocations", json={"prompt": "hello"}, headers=session)
        assert said.json()["result"] == "Question 1: hello"
        events = {**session, "Accept": "text/event-stream"}
        pieces = server.client.post("/invocations", json={"prompt": "and now?"}, headers=events)
        texts = [
            json.loads(line.removeprefix("data: ")) for line in pieces.text.split("\n") if line.startswith("data: ")
        ]
        assert "".join(texts) == "Question 2: and now?"
        assert server.client.get("/ping").json()["status"] in ("Healthy", "HealthyBusy")
    with serving("entrypoint.py:invoke", folder=tmp_path, journal="sqlite:other.db") as server:
        said = server.client.post("/invocations", json={"prompt": "hello"}, headers=session)
        assert said.json()["result"] == "Question 1: hello"
        assert said.json().keys() == {"result", "run_id", "session_id", "status"}
    assert '`{"result", "run_id", "session_id", "status"}`' in text(AGENTCORE)


def test_what_the_agentcore_page_says_is_missing_is_missing(tmp_path: Path) -> None:
    """When it comes, the page has to change."""
    with serving("agent.py", folder=write_files(AGENTCORE, tmp_path)) as server:
        assert server.client.get("/ws").status_code == 404


# -- langgraph ----------------------------------------------------------------------------------------


@pytest.fixture
def langgraph(tmp_path: Path) -> Iterator[Server]:
    with serving("agent.py:answer", folder=write_files(LANGGRAPH, tmp_path)) as server:
        yield server


def test_the_new_client_of_the_langgraph_page_is_answered(langgraph: Server) -> None:
    names: dict[str, Any] = {}
    exec(files(LANGGRAPH)["newclient.py"], names)
    assert asyncio.run(names["ask"](langgraph.url, "hello", "ada")) == "Question 1: hello"
    assert asyncio.run(names["ask"](langgraph.url, "again", "ada")) == "Question 2: again"


def test_what_the_langgraph_page_says_is_missing_is_missing(langgraph: Server) -> None:
    run_id = langgraph.chat("hello")["run_id"]
    assert langgraph.client.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=1"}).status_code == 200
    text = langgraph.client.get(f"/v1/runs/{run_id}/events").text
    assert "event: run.finished" in text, "the function's pieces are published, and its end"
    assert "event: tool.started" not in text, "the graph's own events are not"
    assert langgraph.client.delete("/v1/sessions/default").status_code == 204


def test_what_the_langgraph_page_says_is_there_is_there(langgraph: Server) -> None:
    for policy in re.findall(r'`(?:multitask_strategy=)?"(enqueue|reject|interrupt|rollback)"`', text(LANGGRAPH)):
        body = {"input": policy, "if_busy": policy, "on_disconnect": "cancel"}
        created = langgraph.client.post(f"/v1/sessions/{policy}/runs", json=body)
        assert (created.status_code, created.json()["if_busy"]) == (202, policy)
        run = langgraph.client.get(created.headers["location"], headers={"Prefer": "wait=20"}).json()
        assert run["status"] == "succeeded"
        listed = langgraph.client.get(f"/v1/sessions/{policy}/runs").json()["runs"]
        assert [each["run_id"] for each in listed] == [run["run_id"]]
        assert langgraph.client.post(f"/v1/runs/{run['run_id']}/cancel").json()["code"] == "already_ended"


@pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning:langsmith")
def test_what_stands_before_is_langgraphs_own(tmp_path: Path) -> None:
    (config,) = blocks(LANGGRAPH, "json")
    file, _, name = json.loads(config)["graphs"]["agent"].partition(":")
    names: dict[str, Any] = {}
    exec(files(LANGGRAPH)[file.removeprefix("./")], names)
    end = asyncio.run(names[name].ainvoke({"messages": [{"role": "user", "content": "hello"}]}))
    assert end["messages"][-1].text == "Question 1: hello"
    client = get_client(url="http://127.0.0.1:1")
    client_block = files(LANGGRAPH)["client.py"]
    (call,) = (
        node
        for node in ast.walk(ast.parse(client_block))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "client.runs.wait"
    )
    parameters = inspect.signature(client.runs.wait).parameters
    assert {keyword.arg for keyword in call.keywords} <= parameters.keys()
    strategies = re.findall(r'multitask_strategy="(\w+)"', text(LANGGRAPH))
    assert {"enqueue", "reject"} <= set(strategies)
