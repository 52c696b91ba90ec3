"""Clients of the Responses API that send their whole copy of the conversation, and may have edited it."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, environment, serving, texts
from client_packages import python_client

AGENT = TARGETS / "agent.py"
FOLLOW = {"X-Client-History": "follow"}


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(AGENT, folder=tmp_path_factory.mktemp("lists"), variables=at.environment) as made:
        yield made


def message(role: str, text: str) -> dict[str, Any]:
    kind = "input_text" if role == "user" else "output_text"
    return {"role": role, "content": [{"type": kind, "text": text}]}


def listed(*said: str) -> list[dict[str, Any]]:
    """A copy of a conversation of these messages of the user's, each but the last one with a call and an answer."""
    items = [{"role": "developer", "content": "be brief"}]
    for text in said:
        items.append(message("user", text))
        items.append({"type": "function_call", "call_id": "c", "name": "work", "arguments": "{}"})
        items.append({"type": "function_call_output", "call_id": "c", "output": "did"})
        items.append(message("assistant", f"answer to {text}"))
    return items[:-3]


def send(server: Server, session: str, given: Any, **headers: str) -> httpx.Response:
    return server.client.post(
        "/v1/responses", json={"input": given}, headers={"X-Session-Id": session, **FOLLOW, **headers}
    )


def said(server: Server, session: str) -> list[str]:
    return texts(server.history(session), "user")


def run(answer: httpx.Response, server: Server) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return server.run(answer.json()["id"].removeprefix("resp_"))


def test_an_edited_list_takes_the_conversation_back(server: Server) -> None:
    first = run(send(server, "edited", listed("one")), server)
    second = run(send(server, "edited", listed("one", "two a")), server)
    third = run(send(server, "edited", listed("one", "two a", "three")), server)
    assert "after" not in second
    assert "after" not in third
    edited = run(send(server, "edited", listed("one", "two b")), server)
    assert (edited["after"], edited["superseded"]) == (first["run_id"], [second["run_id"], third["run_id"]])
    assert said(server, "edited") == ["one", "two b"]
    assert run(send(server, "edited", listed("one", "two a", "four")), server)["after"] == second["run_id"]
    assert said(server, "edited") == ["one", "two a", "four"]
    send(server, "edited", listed("five"))
    assert said(server, "edited") == ["five"]


def test_a_response_reads_the_same_later_and_its_metadata_are_its_clients(server: Server) -> None:
    send(server, "read", listed("one"))
    answer = send(server, "read", listed("another"))
    assert answer.json()["metadata"] == {}
    assert server.client.get(f"/v1/responses/{answer.json()['id']}").json() == answer.json()


def test_a_text_is_new_and_compares_nothing(server: Server) -> None:
    send(server, "texts", listed("one"))
    assert "after" not in run(send(server, "texts", "two"), server)
    assert said(server, "texts") == ["one", "two"]


def test_a_named_conversation_compares_nothing(server: Server) -> None:
    send(server, "named", listed("one"))
    given = {"input": [message("user", "two")], "conversation": "named"}
    answer = server.client.post("/v1/responses", json=given, headers=FOLLOW)
    assert "after" not in run(answer, server)
    given = {"input": [message("user", "three")], "previous_response_id": answer.json()["id"]}
    assert "after" not in run(server.client.post("/v1/responses", json=given, headers=FOLLOW), server)
    assert said(server, "named") == ["one", "two", "three"]


def test_a_list_that_differs_may_be_refused(server: Server) -> None:
    send(server, "refused", listed("one"))
    refused = send(server, "refused", listed("other", "two"), **{"X-Client-History": "refuse"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conversation_differs")
    wrong = send(server, "refused", listed("one", "two"), **{"X-Client-History": "maybe"})
    assert wrong.status_code == 400
    assert said(server, "refused") == ["one"]


def test_openais_agents_edit_their_session(server: Server) -> None:
    """They send their own copy each time; `correct` takes the last turn out of it."""
    program, folder = python_client("agents")
    asked: list[dict[str, Any]] = [
        {"text": "one a"},
        {"text": "two b"},
        {"text": "two c", "corrects": True},
    ]
    done = subprocess.run(
        [program, str(folder / "ask_agents.py"), f"{server.url}/v1"],
        env=environment({}),
        input="".join(
            json.dumps({"session_id": "agents", "form": "whole", "through": "edited list", **each}) + "\n"
            for each in asked
        ),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S * 3,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each.get("text") for each in answers] == ["one: did a", "two: did b", "two: did c"], (answers, done.stderr)
    assert said(server, "agents") == ["one a", "two c"]
