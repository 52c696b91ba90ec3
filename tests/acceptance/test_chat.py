"""The original contract over real HTTP: requests wait their turn, each gets its own answer, none is lost."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, tool_results, until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

STOPPED_EARLY = "(This run ended early: agent_error.)\nConnectionError: the provider is out of order"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chat")
    with serving(TARGETS / "agent.py", "--agent-id", "original-7", folder=folder, variables=at.environment) as made:
        yield made


def answers(requests: "list[Future[httpx.Response]]") -> list[dict[str, Any]]:
    """Wait for all of these and return their bodies; each must have come with 200."""
    wait(requests, DEADLINE_S)
    responses = [each.result(0) for each in requests]
    assert [response.status_code for response in responses] == [200] * len(requests)
    return [response.json() for response in responses]


# -- the line -----------------------------------------------------------------------------------------


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_five_concurrent_requests_are_answered_in_order_each_with_its_own(server: Server, at: Checkpoints) -> None:
    """The test of the original system: five at once; while they wait, `/health` shows it and how many."""
    labels = [f"five-{number}" for number in range(1, 6)]
    at.hold("five-1 model 0")
    requests = server.line_up(*labels)
    health = server.health()
    assert (health["processing"], health["queue_depth"], health["running"]) == (True, 4, 1)
    assert health["oldest_wait_s"] > 0
    at.release()
    replies = answers(requests)
    assert [each["response"] for each in replies] == labels
    assert {each["status"] for each in replies} == {"success"}
    # In order: none begins before the one before it has ended.
    assert [step for step in at.steps if step.startswith("five-")] == [f"{label} model 0" for label in labels]
    runs = [server.run(each["run_id"]) for each in replies]
    assert all(moment(before["ended_at"]) <= moment(after["started_at"]) for before, after in pairwise(runs))
    messages = server.history()  # (of a session that other tests use as well)
    assert texts(messages, "user")[-5:] == labels
    assert texts(messages, "assistant")[-5:] == labels
    health = server.health()
    assert (health["processing"], health["queue_depth"], health["running"]) == (False, 0, 0)


def test_fifty_concurrent_requests_over_five_sessions_with_tools(server: Server, at: Checkpoints) -> None:
    """Sessions run in parallel; within each, runs execute strictly one after the other, tools included."""
    sessions = {f"fifty-{name}": [f"{name}{number} a ~b+c" for number in range(10)] for name in "vwxyz"}
    firsts = [f"{name}0 model 0" for name in "vwxyz"]
    at.hold(*firsts)
    requests = {session: server.line_up(*questions, session_id=session) for session, questions in sessions.items()}
    at.reached(*firsts)  # all five sessions are in the model at once
    health = server.health()
    assert (health["running"], health["queue_depth"]) == (5, 45)
    at.release()
    for session, questions in sessions.items():
        replies = answers(requests[session])
        labels = [question.split()[0] for question in questions]
        assert [each["response"] for each in replies] == [f"{label}: did a, did ~b, did c" for label in labels]
        assert {each["session_id"] for each in replies} == {session}
        done = [step.split()[0] for step in at.steps if step.split()[0] in labels]
        assert [label for n, label in enumerate(done) if n == 0 or done[n - 1] != label] == labels
        messages = server.history(session)
        assert [text for text in texts(messages, "user") if " " in text] == questions
        assert tool_results(messages) == ["did a", "did ~b", "did c"] * 10


def test_thirty_requests_at_once_in_any_order(server: Server) -> None:
    """However they arrive, each gets its own answer, and history has each question followed by that answer."""
    pending = [server.ask(f"thirty-{number} a", f"thirty-{number % 3}") for number in range(30)]
    assert [each["response"] for each in answers(pending)] == [f"thirty-{number}: did a" for number in range(30)]
    for session in range(3):
        messages = server.history(f"thirty-{session}")
        questions = texts(messages, "user")
        assert sorted(questions) == sorted(f"thirty-{number} a" for number in range(session, 30, 3))
        said = [text for text in texts(messages, "assistant") if not text.startswith("Round")]
        assert said == [f"{question.split()[0]}: did a" for question in questions]


def test_a_run_that_fails_in_the_middle_of_a_queue(server: Server, at: Checkpoints) -> None:
    """It is answered as an error, its sentence closes history, and those behind it continue with a valid history."""
    at.hold("mid-1 model 0")
    requests = server.line_up("mid-1", "mid-2 fail", "mid-3 a fail", "mid-4 b", session_id="mid")
    at.release()
    replies = answers(requests)
    assert [each["status"] for each in replies] == ["success", "error", "error", "success"]
    assert [each.get("error_code") for each in replies] == [None, "agent_error", "agent_error", None]
    assert "the provider is out of order" in replies[1]["response"]
    assert replies[3]["response"] == "mid-4: did b"
    messages = server.history("mid")
    assert texts(messages, "user") == ["mid-1", "mid-2 fail", "mid-3 a fail", "mid-4 b"]
    assert texts(messages, "assistant") == [
        "mid-1", STOPPED_EARLY, "Round 0. ", STOPPED_EARLY, "Round 0. ", "mid-4: did b"
    ]  # fmt: skip
    assert tool_results(messages) == ["did a", "did b"]
    failed = server.run(replies[1]["run_id"])
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "agent_error"


def test_a_tool_that_raises_is_a_result_for_the_model(server: Server) -> None:
    """The run continues and succeeds; its session too."""
    reply = server.chat("raise !x", "raises")
    assert reply["status"] == "success"
    assert "!x went wrong" in reply["response"]
    assert server.chat("raise-2", "raises")["response"] == "raise-2"
    assert len(server.history("raises")) == 6


# -- clients that leave -------------------------------------------------------------------------------


@contextmanager
def raw_request(server: Server, message: str, session_id: str) -> Iterator[socket.socket]:
    """Send a request over a bare socket, which is closed without reading when the `with` is left."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"message": message, "session_id": session_id})
    head = f"POST /chat HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        yield connection


def run_of(server: Server, session_id: str, place: int) -> str:
    return [run.run_id for run in server.stored() if run.session_id == session_id][place]


def test_a_client_that_leaves_while_it_waits(server: Server, at: Checkpoints) -> None:
    """Its run keeps its position and its answer; the queue continues."""
    at.hold("wait-1 model 0")
    requests = server.line_up("wait-1", session_id="leaves-waiting")
    with raw_request(server, "wait-2 a", "leaves-waiting"):
        until(lambda: server.inside() == 2, "the second inside")
    requests += server.line_up("wait-3", session_id="leaves-waiting")
    run_id = run_of(server, "leaves-waiting", 1)
    waiting = server.run(run_id)
    assert (waiting["status"], waiting["phase"], waiting["position"]) == ("queued", "waiting", 1)
    at.release()
    assert [each["response"] for each in answers(requests)] == ["wait-1", "wait-3"]
    left = server.run(run_id)
    assert (left["status"], left["output"]) == ("succeeded", "wait-2: did a")
    assert texts(server.history("leaves-waiting"), "user") == ["wait-1", "wait-2 a", "wait-3"]


def test_a_client_that_leaves_while_its_run_executes(server: Server, at: Checkpoints) -> None:
    """The run continues to its end, and its history stays; the next one is answered."""
    at.hold("run-1 a")
    with raw_request(server, "run-1 a", "leaves-running"):
        at.reached("run-1 a")
    requests = server.line_up("run-2", session_id="leaves-running")
    run_id = run_of(server, "leaves-running", 0)
    running = server.run(run_id)
    assert (running["status"], running["phase"], running["output"]) == ("running", "tool work", "")
    at.release()
    assert answers(requests)[0]["response"] == "run-2"
    left = server.run(run_id)
    assert (left["status"], left["output"]) == ("succeeded", "run-1: did a")
    assert texts(server.history("leaves-running"), "assistant") == ["Round 0. ", "run-1: did a", "run-2"]


def test_a_client_that_leaves_in_the_middle_of_its_body(server: Server) -> None:
    """Nothing was asked, so nothing is kept."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(f'POST /chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: 60\r\n\r\n{{"message"'.encode())
        server.health()
    assert server.chat("half-2", "half")["response"] == "half-2"
    assert texts(server.history("half"), "user") == ["half-2"]


# -- the contract -------------------------------------------------------------------------------------


def post(server: Server, content: bytes | str, content_type: str | None = "application/json") -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.client.post("/chat", content=content, headers=headers)


def test_every_json_answer_is_one_line_and_ends_it(server: Server) -> None:
    """Else two answers, and the prompt of the shell, stand on one line of a terminal."""
    for content in ('{"message": "lines", "session_id": "lines"}', "not json"):
        assert post(server, content).text.splitlines(keepends=True)[0].endswith("}\n")


def test_an_answer_has_exactly_the_keys_of_the_contract(server: Server) -> None:
    reply = server.chat("keys", "keys")
    run_id = reply.pop("run_id")
    expected = {"status": "success", "response": "keys", "agent_id": "original-7", "session_id": "keys"}
    assert reply == expected
    run = server.run(run_id)
    assert (run["run_id"], run["session_id"], run["status"], run["output"]) == (run_id, "keys", "succeeded", "keys")
    assert run["message"] == {"role": "assistant", "content": [{"text": "keys"}]} | {
        key: value for key, value in run["message"].items() if key not in ("role", "content")
    }
    assert run["usage"]["inputTokens"] > 0


@pytest.mark.parametrize("given", ["", ', "session_id": null', ', "session_id": "default"'])
def test_without_a_session_it_is_the_default_one(server: Server, given: str) -> None:
    body = post(server, f'{{"message": "def"{given}}}').json()
    assert (body["status"], body["session_id"]) == ("success", "default")
    assert texts(server.history("default"), "user")[-1] == "def"


def test_unknown_keys_are_ignored(server: Server) -> None:
    body = {"message": "more", "session_id": "more", "stream": True, "user": {"name": "x"}, "Message": 1}
    assert server.client.post("/chat", json=body).json()["response"] == "more"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
def test_any_content_type_whose_body_is_json_is_accepted(server: Server, content_type: str | None) -> None:
    response = post(server, '{"message": "typed", "session_id": "typed"}', content_type)
    assert (response.status_code, response.json()["response"]) == (200, "typed")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("message", ["", "  \n\t"])
def test_an_empty_message_reaches_the_agent_in_words(server: Server, message: str) -> None:
    session = f"empty-{len(message)}"
    assert server.client.post("/chat", json={"message": message, "session_id": session}).status_code == 200
    assert texts(server.history(session), "user")[0] == "(empty message)"


def test_any_text_comes_back_as_it_was(server: Server) -> None:
    text = 'déjà-vu-"\\-日本-🦀-\u0007'
    assert server.chat(text, "text")["response"] == text
    assert texts(server.history("text"), "user") == [text]


def history(server: Server, session_id: str, **query: str | int) -> list[Any]:
    response = server.client.get("/history", params={"session_id": session_id, **query})
    body = response.raise_for_status().json()
    assert body["status"] == "success"
    messages: list[Any] = body["messages"]
    return messages


def test_history_counts_after_filtering(server: Server) -> None:
    """By default the last message; `count=0` is all; tool messages only on request, texts beside tools always."""
    server.chat("history-1 a", "filtered")
    server.chat("history-2", "filtered")
    everything = server.history("filtered")
    assert len(everything) == 6
    assert history(server, "filtered") == [everything[-1]]
    assert history(server, "filtered", count=0) == [m for n, m in enumerate(everything) if n != 2]
    assert history(server, "filtered", count=4) == [everything[n] for n in (1, 3, 4, 5)]
    assert history(server, "filtered", count=4, include_tool_messages="true") == everything[2:]
    assert history(server, "filtered", count=1000) == history(server, "filtered", count=0)


def test_history_of_an_unknown_session_is_empty(server: Server) -> None:
    assert history(server, "nobody", count=0) == []


@pytest.mark.parametrize(
    "query",
    [
        {"count": "-1"},
        {"count": "x"},
        {"count": ""},
        {"session_id": ""},
        {"session_id": "a b"},
        {"session_id": ".."},
        {"include_tool_messages": "perhaps"},
    ],
)
def test_a_wrong_query_of_history_is_refused(server: Server, query: dict[str, str]) -> None:
    response = server.client.get("/history", params=query)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert next(iter(query)) in response.json()["detail"]
