"""A plain message while a person is asked, over every route that makes runs: it waits and says what for, answers, ends
the question.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.events import listening
from acceptance.server import DEADLINE_S, TARGETS, Server, ran, serving, texts, tool_results, until
from strandline._history import NOT_ANSWERED
from strandline._http.dialects.agentcore.wire import SESSION
from strandline.client import Client
from strandline.testing._checker import check_history

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(AGENT, folder=tmp_path_factory.mktemp("on_question"), variables=at.environment) as made:
        yield made


def pause_at_question(server: Server, session: str, text: str = "go @pay") -> list[dict[str, Any]]:
    """Have the agent ask; return what."""
    said = server.client.post("/chat", json={"message": text, "session_id": session}).json()
    assert said["status"] == "needs_input", said
    requests: list[dict[str, Any]] = said["input_requests"]
    return requests


def open_requests(server: Server, session: str) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = server.client.get(f"/v1/sessions/{session}").json()["input_requests"]
    return requests


# -- the routes ---------------------------------------------------------------------------------------


def by_run_api(server: Server, session: str, text: str, **run_options: Any) -> str:
    body = {"input": text, **run_options}
    answer = server.client.post(f"/v1/sessions/{session}/runs", json=body, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["output"])


def by_chat(server: Server, session: str, text: str, **run_options: Any) -> str:
    answer = server.client.post("/chat", json={"message": text, "session_id": session, **run_options})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["response"])


def by_openai(server: Server, session: str, text: str, **run_options: Any) -> str:
    body = {"messages": [{"role": "user", "content": text}], "user": session, **run_options}
    answer = server.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def by_agentcore(server: Server, session: str, text: str, **run_options: Any) -> str:
    answer = server.client.post("/invocations", json={"prompt": text, **run_options}, headers={SESSION: session})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["result"])


def by_client(server: Server, session: str, text: str, **run_options: Any) -> str:
    with Client(server.url) as client:
        return client.chat(text, session, **run_options).output


def by_command(server: Server, session: str, text: str, **run_options: Any) -> str:
    flags = [word for name, value in run_options.items() for word in (f"--{name.replace('_', '-')}", value)]
    done = ran("chat", server.url, "-s", session, "-m", text, *flags, folder=server.folder, deadline_s=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).rstrip("\n")


Route = Callable[..., str]
ROUTES: list[Route] = [by_run_api, by_chat, by_openai, by_agentcore, by_client, by_command]


@pytest.mark.parametrize("route", ROUTES)
def test_a_text_answers_or_dismisses_over_every_route(server: Server, route: Route) -> None:
    session = f"answers-{route.__name__}"
    pause_at_question(server, session)
    assert route(server, session, "no, stop!", on_question="answer").endswith("did @pay (no, stop!)")
    assert open_requests(server, session) == []
    assert texts(server.history(session), "user") == ["go @pay"], "it is no message of its own"
    pause_at_question(server, session, "again @pay")
    assert route(server, session, "next", on_question="dismiss") == "next"
    assert NOT_ANSWERED in str(server.history(session))
    assert check_history(server.history(session)) == []


@pytest.mark.parametrize("route", ROUTES)
def test_the_setting_is_what_a_message_does_that_says_nothing(
    route: Route, at: Checkpoints, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("setting")
    with serving(AGENT, "--on-question", "answer", folder=folder, variables=at.environment) as server:
        pause_at_question(server, "s")
        assert route(server, "s", "yes").endswith("did @pay (yes)")
        (request,) = pause_at_question(server, "s", "again @pay")
        given = {"responses": [{"id": request["id"], "response": {"sure": True}}], "session_id": "s"}
        assert server.client.post("/chat", json=given).json()["status"] == "success", "responses are as ever"


def test_with_two_open_requests_a_text_waits_and_so_does_the_second_of_two_texts(server: Server) -> None:
    pause_at_question(server, "two", "go @a+@b")
    (waits,) = behind(server, "yes", "two")
    requests = open_requests(server, "two")
    assert len(requests) == 2
    answers = {"responses": [{"id": each["id"], "response": "ok"} for each in requests]}
    assert server.client.post("/chat", json={"session_id": "two", **answers}).json()["status"] == "success"
    assert waits.result(DEADLINE_S).json()["response"] == "yes"
    pause_at_question(server, "two", "then @c")
    server.client.post("/v1/sessions/two/pause")
    both = behind(server, "one", "two") + behind(server, "other", "two")
    server.client.post("/v1/sessions/two/resume")
    first, second = (each.result(DEADLINE_S).json()["response"] for each in both)
    assert first.endswith("did @c (one)")
    assert second == "other"


def behind(server: Server, text: str, session: str) -> "list[Future[httpx.Response]]":
    """Send a text that answers if it can; return once it is seen waiting."""
    before = server.health()["queue_depth"]
    body = {"message": text, "session_id": session, "on_question": "answer"}
    sent = server.submit(server.client.post, "/chat", json=body)
    until(lambda: server.health()["queue_depth"] > before, f"{text!r} waiting")
    return [sent]


def test_who_is_not_to_wait_is_refused_unless_it_answers_or_dismisses(server: Server) -> None:
    pause_at_question(server, "reject")
    path, body = "/v1/sessions/reject/runs", {"input": "yes", "if_busy": "reject"}
    for run_options in ({}, {"on_question": "wait"}, {"on_question": None}):
        assert server.client.post(path, json={**body, **run_options}).json()["code"] == "session_busy"
    blocks = {**body, "input": [{"text": "yes"}], "on_question": "answer"}
    assert server.client.post(path, json=blocks).json()["code"] == "session_busy", "blocks answer nothing"
    assert by_run_api(server, "reject", "yes", if_busy="reject", on_question="answer").endswith("did @pay (yes)")
    pause_at_question(server, "reject", "again @pay")
    assert by_run_api(server, "reject", "next", if_busy="reject", on_question="dismiss") == "next"


def test_what_does_not_go_together_is_refused_and_answers_nothing(server: Server) -> None:
    (request,) = pause_at_question(server, "odd")
    responses = [{"id": request["id"], "response": "yes"}]
    path = "/v1/sessions/odd/runs"
    for refused in (
        server.client.post(path, json={"input": {"responses": responses}, "on_question": "answer"}),
        server.client.post("/chat", json={"responses": responses, "session_id": "odd", "on_question": "wait"}),
        server.client.post(path, json={"input": "x", "on_question": "answer", "if_busy": "interrupt"}),
        server.client.post(path, json={"input": "x", "on_question": "sometimes"}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid"), refused.text
        assert "on_question" in refused.json()["detail"]
    body = {"messages": [], "responses": responses, "user": "odd", "on_question": "dismiss"}
    assert server.client.post("/v1/chat/completions", json=body).status_code == 400
    assert open_requests(server, "odd") == [request]


def test_the_same_request_is_the_same_run_whatever_became_of_the_question(server: Server) -> None:
    pause_at_question(server, "again")
    headers = {"Idempotency-Key": '"k1"'}
    body = {"message": "yes", "session_id": "again", "on_question": "answer"}
    first = server.client.post("/chat", json=body, headers=headers).json()
    (request,) = pause_at_question(server, "again", "then @pay")
    second = server.client.post("/chat", json=body, headers=headers)
    assert (second.json()["run_id"], second.headers["Idempotency-Replayed"]) == (first["run_id"], "true")
    assert open_requests(server, "again") == [request]
    other = server.client.post("/chat", json={**body, "on_question": "dismiss"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    assert open_requests(server, "again") == [request]


def test_a_text_that_was_accepted_as_the_answer_is_that_after_a_kill(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        pause_at_question(server, "s")
        server.client.post("/v1/sessions/s/pause")
        path = "/v1/sessions/s/runs"
        answers = server.client.post(path, json={"input": "yes", "on_question": "answer"}).json()
        waits = server.client.post(path, json={"input": "next", "on_question": "answer"}).json()
        assert (answers["position"], waits["position"]) == (1, 2)
        server.kill()
        server.start()
        server.client.post("/v1/sessions/s/resume")
        assert server.run(answers["run_id"], 30)["output"] == "go: did @pay (yes)"
        assert server.run(waits["run_id"], 30)["output"] == "next"
        assert tool_results(server.history("s")) == ["did @pay (yes)"]


# -- waiting clients learn the reason -----------------------------------------------------------------


@pytest.mark.parametrize("route", ["runs", "chat"])
def test_a_stream_says_at_once_what_it_waits_for_and_how_to_answer(server: Server, route: str) -> None:
    session = f"waits-{route}"
    (request,) = pause_at_question(server, session)
    path, body = (f"/v1/sessions/{session}/runs", {"input": "yes"})
    if route == "chat":
        path, body = "/chat", {"message": "yes", "session_id": session}
    with (
        listening(server, "GET", f"/v1/events?session_id={session}") as changes,
        listening(server, "POST", path, json=body) as events,
    ):
        queued = next(iter(events))
        assert (queued.type, queued.data["why"]["code"]) == ("run.queued", "waits_for_input")
        assert queued.data["input_requests"] == [request]
        how = queued.data["answer"]
        responses = [{"id": request["id"], "response": None}]
        assert how == {
            "method": "POST",
            "path": f"/v1/sessions/{session}/runs",
            "body": {"input": {"responses": responses}},
        }
        assert changes.until("run.queued").data["answer"] == how
        unanswered = server.client.request(how["method"], how["path"], json=how["body"])
        assert unanswered.status_code == 422, "as it stands it answers nothing"
        responses[0]["response"] = "gladly"
        assert server.client.post(how["path"], json={"input": {"responses": responses}}).status_code == 202
        assert events.until("run.finished").data["output"] == "yes"
    assert "did @pay (gladly)" in tool_results(server.history(session))


def test_a_stream_of_openai_says_at_once_what_it_waits_for_and_how_to_answer(server: Server) -> None:
    (request,) = pause_at_question(server, "waits-openai")
    body = {"messages": [{"role": "user", "content": "yes"}], "user": "waits-openai", "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        assert json.loads(next(lines))["choices"][0]["delta"]["role"] == "assistant"
        reply = json.loads(next(lines))
        said = reply["choices"][0]["delta"]["content"]
        assert "@pay: may I, go?" in said
        assert f"POST /v1/sessions/waits-openai/runs with {json.dumps(given(request), separators=(',', ':'))}" in said
        extension = {"session_id": "waits-openai", "status": "queued", "input_requests": [request]}
        assert reply["strandline"] == extension
        assert by_run_api(server, "waits-openai", "sure", on_question="answer").endswith("did @pay (sure)")
        rest = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines if line != "[DONE]"]
        assert "".join(rest) == "yes"


def test_a_stream_of_agentcore_says_at_once_what_it_waits_for_and_how_to_answer(server: Server) -> None:
    (request,) = pause_at_question(server, "waits-agentcore")
    headers = {SESSION: "waits-agentcore", "Accept": "text/event-stream"}
    with server.client.stream("POST", "/invocations", json={"prompt": "yes"}, headers=headers) as answer:
        pieces = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: "))
        assert json.dumps(given(request), separators=(",", ":")) in next(pieces)
        assert by_run_api(server, "waits-agentcore", "sure", on_question="answer").endswith("did @pay (sure)")
        assert "".join(pieces) == "yes"


def given(request: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"responses": [{"id": request["id"], "response": None}]}}


def test_clients_behind_a_question_see_it_within_a_second_and_the_next_one_too(server: Server, at: Checkpoints) -> None:
    at.hold("go model 0")
    first = server.line_up("go @pay", session_id="later")[0]
    with listening(server, "POST", "/v1/sessions/later/runs", json={"input": "next"}) as events:
        assert next(iter(events)).data["why"]["code"] == "behind"
        at.release()
        (request,) = first.result(DEADLINE_S).json()["input_requests"]
        event = events.until("run.position", lambda data: data["input_requests"])
        assert (event.data["input_requests"], event.data["why"]["code"]) == ([request], "waits_for_input")
        assert event.data["answer"]["body"] == given(request)
        by_run_api(server, "later", "yes", on_question="answer")
        assert events.until("run.finished").data["output"] == "next"


def test_strandline_chat_says_what_a_message_waits_for(server: Server) -> None:
    pause_at_question(server, "chat")
    arguments = ("chat", server.url, "-s", "chat", "-m", "yes")
    with ThreadPoolExecutor(1) as people:
        waits = people.submit(ran, *arguments, folder=server.folder, deadline_s=DEADLINE_S)
        until(lambda: server.health()["queue_depth"], "the message waiting")
        by_run_api(server, "chat", "sure", on_question="answer")
        done = waits.result(DEADLINE_S)
    assert done.stdout == "yes\n"
    assert "It waits for an answer to @pay: may I, go? (strandline answer chat TEXT)" in done.stderr
