"""Clients of OpenAI's protocol that nobody here wrote, as they come: an ended run is one run, however it has ended.

They send again by themselves what got a status that stands for "try again". A run that has failed, or that somebody has
cancelled, must not look like that: its tools would run again, and so would what a person has just stopped.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, environment, serving
from client_packages import CLIENTS, npm_clients, python_client

FORMS: Final = ("whole", "stream")
PROGRAMS: Final = {
    "openai for Python": ("ask_openai.py", ""),
    "openai for JavaScript": ("openai.mjs", ""),
    "openai for Python, responses": ("ask_openai.py", "responses"),
    "openai for JavaScript, responses": ("openai.mjs", "responses"),
    "ai with openai, responses": ("vercel.mjs", "responses"),
    "openai-agents": ("ask_agents.py", "conversation"),
    "openai-agents with a list": ("ask_agents.py", "list"),
    "ai with openai": ("vercel.mjs", "openai"),
    "ai with openai-compatible": ("vercel.mjs", "compatible"),
    "litellm": ("ask_litellm.py", ""),
    "litellm's router": ("ask_litellm.py", "router"),
}
"""The script of each, and through what that is to ask."""
RESPONSES: Final = ("responses", "conversation", "list")
"""How they ask for a response, which says itself how it has ended."""
ENDED_WITHOUT_AN_ANSWER: Final = 422
PATIENCE_S: Final = 90.0
"""litellm takes seconds of a processor to be imported."""


class Client:
    """A program that asks with one of the clients, one request after the other."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment({"LITELLM_LOCAL_MODEL_COST_MAP": "True"}),  # (it asks the internet for prices otherwise)
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = ThreadPoolExecutor(1)

    def ask(self, **request: str) -> "Future[dict[str, Any]]":
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._reader.submit(self._read)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._reader.shutdown()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client ended: {self._process.poll()}"
        body: dict[str, Any] = json.loads(line)
        return body


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clients")
    with serving(TARGETS / "agent.py", "--cancel-grace", "0.2", folder=folder, variables=at.environment) as made:
        yield made


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[dict[str, Client]]:
    """The requested ones, by their scripts."""
    made: dict[str, Client] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture(params=PROGRAMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(name: str, server: Server, clients: dict[str, Client]) -> Client:
    script = PROGRAMS[name][0]
    if script not in clients:
        program, folder = _installed(script)
        clients[script] = Client([program, str(folder / script), f"{server.url}/v1"])
    return clients[script]


def _installed(script: str) -> tuple[str, Path]:
    if script.endswith(".mjs"):
        return npm_clients()
    name = script.removeprefix("ask_").removesuffix(".py")
    return (sys.executable, CLIENTS / "python") if name == "openai" else python_client(name)


@pytest.fixture(params=FORMS)
def request_options(name: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The options of a client besides the text, with a session of its own."""
    session = "".join(each if each.isalnum() else "-" for each in request.node.name)
    return {"session_id": session, "form": str(request.param), "through": PROGRAMS[name][1]}


def runs(server: Server, session_id: str) -> list[str]:
    listed = server.client.get(f"/v1/sessions/{session_id}/runs").json()["runs"]
    return [str(run["status"]) for run in listed]


def test_an_answer_is_one_run(client: Client, request_options: dict[str, str], server: Server) -> None:
    said = client.ask(text="q1 a", **request_options).result(PATIENCE_S)
    assert said["text"].endswith("q1: did a")
    assert runs(server, request_options["session_id"]) == ["succeeded"]


def test_a_run_that_fails_is_one_run(client: Client, request_options: dict[str, str], server: Server) -> None:
    """Also before it has said anything, when some clients take an error in a stream for one of the request."""
    said = client.ask(text="f1 fail", **request_options).result(PATIENCE_S)
    assert "out of order" in said["error"]
    if request_options["form"] == "whole" and request_options["through"] not in RESPONSES:
        assert said["status"] == ENDED_WITHOUT_AN_ANSWER
    assert runs(server, request_options["session_id"]) == ["failed"]


def test_a_run_that_a_person_cancels_is_one_run(
    client: Client, request_options: dict[str, str], server: Server, at: Checkpoints
) -> None:
    session = request_options["session_id"]
    at.hold(f"{session} model 0")
    answer = client.ask(text=session, **request_options)
    at.reached(f"{session} model 0")
    assert server.client.post(f"/v1/sessions/{session}/cancel", json={"running": True}).status_code == 202
    said = answer.result(PATIENCE_S)
    at.release()
    assert "cancelled" in said["error"]
    if request_options["form"] == "whole" and request_options["through"] not in RESPONSES:
        assert said["status"] == ENDED_WITHOUT_AN_ANSWER
    assert runs(server, session) == ["cancelled"]
