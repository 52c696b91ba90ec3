"""Tools of OpenAI's clients at a real server: a call ends a run, its result begins the next, come what may."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.openai_client import connected
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until
from strandline._history import NOT_RETURNED

WANTED = TARGETS / "wanted.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(WANTED, folder=tmp_path_factory.mktemp("tools")) as made:
        yield made


def function(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters or {"city": {"type": "string", "pattern": "^[A-Z]"}}}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


WEATHER = function("weather")
CALL = 'call [["weather", {"city": "Rome"}]]'


def send(server: Server, said: "str | list[dict[str, Any]]", session: str, **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
    headers = {"X-Session-Id": session, **more.pop("headers", {})}
    body = {"model": "any", "messages": messages, "tools": [WEATHER], **more}
    return server.client.post("/v1/chat/completions", json=body, headers=headers, timeout=DEADLINE_S)


def choice(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (only,) = response.json()["choices"]
    found: dict[str, Any] = only
    return found


def results(response: httpx.Response, *contents: Any) -> list[dict[str, Any]]:
    """The conversation that a client sends next: its calls, each with a result."""
    message = choice(response)["message"]
    calls = message["tool_calls"]
    given = contents or [f"{each['function']['name']} of {each['function']['arguments']}" for each in calls]
    told = [
        {"role": "tool", "tool_call_id": each["id"], "content": content}
        for each, content in zip(calls, given, strict=True)
    ]
    return [{"role": "user", "content": "earlier"}, message, *told]


def content(response: httpx.Response) -> str:
    return str(choice(response)["message"]["content"])


def failed(response: httpx.Response, status: int, code: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    return str(error["message"])


def tool_texts(server: Server, session: str) -> list[str]:
    return [
        part.get("text")
        for message in server.history(session)
        for block in message["content"]
        if "toolResult" in block
        for part in block["toolResult"]["content"]
    ]


# -- a call, and its result ---------------------------------------------------------------------------


def test_a_call_ends_the_run_and_its_result_continues_it(server: Server) -> None:
    asked = send(server, CALL, "call")
    assert choice(asked)["finish_reason"] == "tool_calls"
    (call,) = choice(asked)["message"]["tool_calls"]
    assert (call["type"], call["function"]) == ("function", {"name": "weather", "arguments": '{"city":"Rome"}'})
    assert choice(asked)["message"]["content"] is None
    run = server.run(asked.json()["id"])
    assert run["status"] == "needs_input"
    assert run["input_requests"] == [
        {"id": call["id"], "name": "weather", "reason": {"city": "Rome"}, "client_tool": True}
    ]
    assert run["metadata"] == {}
    said = send(server, results(asked, "sunny"), "call")
    assert content(said) == 'got [["weather", "sunny"]]'
    assert choice(said)["finish_reason"] == "stop"
    assert [message["role"] for message in server.history("call")] == ["user", "assistant", "user", "assistant"]


def test_a_stream_ends_with_the_calls(server: Server) -> None:
    client = connected(server)
    pieces = list(
        client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": CALL}],
            user="streamed",
            stream=True,
            extra_body={"tools": [WEATHER]},
        )
    )
    calls = [call for piece in pieces for call in piece.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "weather")]
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    answer = client.chat.completions.create(
        model="any",
        messages=[{"role": "tool", "tool_call_id": calls[0].id or "", "content": "rain"}],
        user="streamed",
        stream=True,
    )
    assert "".join(each.choices[0].delta.content or "" for each in answer) == 'got [["weather", "rain"]]'


def test_of_a_round_with_the_agents_own_tools_those_run_once_and_keep_their_results(server: Server) -> None:
    round_ = [["weather", {"city": "Rome"}], ["count", {"name": "a"}], ["weather", {"city": "Oslo"}]]
    asked = send(server, f"call {json.dumps(round_)}", "mixed")
    calls = choice(asked)["message"]["tool_calls"]
    assert [each["function"]["arguments"] for each in calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']
    said = send(
        server, results(asked, "sun", [{"type": "text", "text": "sn"}, {"type": "text", "text": "ow"}]), "mixed"
    )
    got = json.loads(content(said).removeprefix("got "))
    assert sorted(got) == [["count", "1"], ["weather", "snow"], ["weather", "sun"]]


def test_a_tool_loop_goes_round_by_round(server: Server) -> None:
    text = 'then [["weather", {"city": "Rome"}]] | [["weather", {"city": "Oslo"}]]'
    first = send(server, text, "loop")
    second = send(server, results(first, "sun"), "loop")
    assert choice(second)["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'
    assert content(send(server, results(second, "snow"), "loop")) == 'got [["weather", "snow"]]'


def test_a_person_and_a_client_are_asked_in_one_round_and_answered_together(server: Server) -> None:
    asked = send(server, 'call [["weather", {"city": "Rome"}], ["ask", {"text": "really?"}]]', "both")
    assert "waits for a person's answer. ask: really?" in content(asked)
    assert choice(asked)["finish_reason"] == "tool_calls"
    requests = asked.json()["strandline"]["input_requests"]
    (of_person,) = [each for each in requests if "client_tool" not in each]
    assert "answered together" in failed(send(server, results(asked), "both"), 400, "invalid")
    said = send(server, results(asked, "sun"), "both", responses=[{"id": of_person["id"], "response": "yes"}])
    assert sorted(json.loads(content(said).removeprefix("got "))) == [["ask", "yes"], ["weather", "sun"]]


def test_an_answer_needs_no_tools_and_may_come_by_the_run_api(server: Server) -> None:
    first = send(server, 'then [["weather", {"city": "Rome"}]] | [["weather", {"city": "Oslo"}]]', "api")
    second = send(server, results(first, "sun"), "api", tools=None)
    (call,) = choice(second)["message"]["tool_calls"]
    body = {"input": {"responses": [{"id": call["id"], "response": {"degrees": 3}}]}}
    said = server.client.post("/v1/sessions/api/runs", json=body, headers={"Prefer": "wait=60"})
    assert said.json()["output"] == 'got [["weather", "{\\"degrees\\": 3}"]]'


def test_an_answer_in_a_form_may_come_after_calls(server: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"properties": {"said": {"type": "string"}}}}}
    asked = send(server, CALL, "form", response_format=form)
    assert choice(asked)["message"]["content"] is None
    said = send(server, results(asked, "sun"), "form", response_format=form)
    assert json.loads(content(said)) == {"said": 'got [["weather", "sun"]]'}


# -- what the client chooses --------------------------------------------------------------------------


def shown(server: Server, **more: Any) -> dict[str, Any]:
    session = uuid.uuid4().hex
    found: dict[str, Any] = json.loads(content(send(server, "tools", session, **more)))
    assert json.loads(content(send(server, "tools", session, tools=None)))["tools"].keys() == OWN
    return found


OWN = {"add", "ask", "count", "wait"}


def test_the_model_sees_a_tool_as_its_client_wrote_it_and_for_one_run(server: Server) -> None:
    tools = shown(server)
    assert tools["tools"].keys() == OWN | {"weather"}
    assert tools["tools"]["weather"] == WEATHER["function"]["parameters"]
    assert tools["choice"] is None


@pytest.mark.parametrize(
    ("given", "choice_", "offered"),
    [
        ("auto", None, {"weather", "other"}),
        ("none", None, set()),
        ("required", {"any": {}}, {"weather", "other"}),
        ({"type": "function", "function": {"name": "other"}}, {"tool": {"name": "other"}}, {"weather", "other"}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [WEATHER]}},
            {"any": {}},
            {"weather"},
        ),
    ],
)
def test_the_client_chooses_what_must_be_called(server: Server, given: Any, choice_: Any, offered: set[str]) -> None:
    tools = shown(server, tools=[WEATHER, function("other")], tool_choice=given)
    assert (tools["choice"], tools["tools"].keys() - OWN) == (choice_, offered)


def test_a_client_may_take_one_call_at_a_time(server: Server) -> None:
    two = 'call [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]'
    asked = send(server, two, "single", parallel_tool_calls=False)
    (call,) = choice(asked)["message"]["tool_calls"]
    assert call["function"]["arguments"] == '{"city":"Rome"}'
    said = content(send(server, results(asked, "sun"), "single", parallel_tool_calls=False))
    assert "takes one call at a time" in said
    assert '["weather", "sun"]' in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "of type function"),
        ({"tools": [{"type": "function", "function": {}}]}, "needs a name"),
        ({"tools": [function("a b")]}, "the name of a tool must be"),
        ({"tools": [function("ä")]}, "the name of a tool must be"),
        ({"tools": [function("x" * 65)]}, "the name of a tool must be"),
        ({"tools": [function("structured_answer")]}, "no tool can be named structured_answer"),
        ({"tools": [WEATHER, WEATHER]}, "two tools named weather"),
        ({"tools": [function(f"t{at}") for at in range(129)]}, "at most 128 tools"),
        ({"tools": [function("big", x={"title": "x" * 132_000})]}, "max_client_options_bytes"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]}, "an object"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": [1]}}]}, "an object"),
        ({"tool_choice": "always"}, "auto, none, required"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "there is no tool named"),
        ({"tools": [], "tool_choice": "required"}, "only if there is one"),
        ({"functions": [{"name": "weather"}]}, "send `tools`"),
        ({"n": 2}, "one answer"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "needs the id of its call"),
        ({"messages": [{"role": "tool", "tool_call_id": "x", "content": [{"type": "image"}]}]}, "must be a text"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(server: Server, more: dict[str, Any], message: str) -> None:
    assert message in failed(send(server, "hi", "refused", **more), 400, "invalid")
    assert server.client.get("/v1/sessions/refused").status_code == 404


def test_deep_schemas_are_refused(server: Server) -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"properties": {"in": schema}}
    tool = {"type": "function", "function": {"name": "deep", "parameters": schema}}
    assert "nested at most" in failed(send(server, "hi", "deep", tools=[tool]), 400, "invalid")


@pytest.mark.parametrize("name", ["add", "count"])
def test_a_tool_named_as_one_of_the_agents_is_a_wrong_request(server: Server, name: str) -> None:
    session = f"clash-{name}"
    response = send(server, "hi", session, tools=[WEATHER, function(name)])
    assert f"tools of these names itself: {name};" in failed(response, 400, "agent_error")
    assert content(send(server, "hi", session)) == "did hi"


def test_a_function_takes_no_tools(tmp_path: Path) -> None:
    with serving(f"{WANTED}:echo", folder=tmp_path) as server:
        assert "the agent is a function" in failed(send(server, "hi", "x"), 400, "agent_error")
        assert content(send(server, "hi", "x", tools=None)) == "hi"


# -- what may happen between --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_calls_and_answers_survive_the_servers_death(tmp_path: Path, workers: int) -> None:
    flags = ["--idempotent-tools", "wait", *(["--workers", str(workers)] if workers else [])]
    text = 'then [["weather", {"city": "Rome"}]] | [["wait", {"name": "held"}], ["weather", {"city": "Oslo"}]]'
    with serving(WANTED, *flags, folder=tmp_path) as server:
        first = send(server, text, "killed")
        server.kill()
        server.start()
        answer = results(first, "sun")
        with ThreadPoolExecutor(1) as asker:
            lost = asker.submit(send, server, answer, "killed")
            until(lambda: list(tmp_path.rglob("held-waits")), "the agent's own tool works, in the round after")
            server.kill()
            assert lost.exception() is not None
        next(tmp_path.rglob("held-waits")).with_name("held").touch()
        server.start()
        second = send(server, answer, "killed")  # (the client sends it again: it is the same run)
        (call,) = choice(second)["message"]["tool_calls"]
        assert call["function"]["arguments"] == '{"city":"Oslo"}'
        server.kill()
        server.start()
        got = json.loads(content(send(server, results(second, "snow"), "killed")).removeprefix("got "))
        assert sorted(got) == [["wait", "there"], ["weather", "snow"]]
        runs = server.client.get("/v1/sessions/killed/runs").json()["runs"]
        assert [run["status"] for run in runs] == ["succeeded", "needs_input", "needs_input"]


def test_a_run_that_was_queued_has_its_tools_after_the_servers_death(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "k"}
    with serving(WANTED, "--idempotent-tools", "wait", folder=tmp_path) as server:
        with ThreadPoolExecutor(2) as askers:
            held = askers.submit(send, server, 'call [["wait", {"name": "held"}]]', "queued", tools=None)
            until(lambda: list(tmp_path.rglob("held-waits")), "a tool works")
            waits = askers.submit(send, server, CALL, "queued", headers=headers)
            until(lambda: server.client.get("/v1/sessions/queued").json()["queue_depth"] == 1, "it waits")
            server.kill()
            assert held.exception() is not None
            assert waits.exception() is not None
        next(tmp_path.rglob("held-waits")).with_name("held").touch()
        server.start()
        assert choice(send(server, CALL, "queued", headers=headers))["finish_reason"] == "tool_calls"


def test_results_that_are_sent_again_are_the_same_run_and_others_come_too_late(server: Server) -> None:
    asked = send(server, CALL, "twice")
    first = send(server, results(asked, "sun"), "twice")
    again = send(server, results(asked, "sun"), "twice")
    assert (again.json()["id"], content(again)) == (first.json()["id"], content(first))
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "answered before" in failed(send(server, results(asked, "rain"), "twice"), 409, "already_answered")


def test_a_repeated_key_is_one_call(server: Server) -> None:
    headers = {"Idempotency-Key": "one"}
    first = send(server, CALL, "keyed", headers=headers)
    assert send(server, CALL, "keyed", headers=headers).json() == first.json()
    assert failed(send(server, CALL, "keyed", headers=headers, tools=[function("other")]), 400, "key_reused")


def test_half_of_the_results_are_refused_and_lose_nothing(server: Server) -> None:
    asked = send(server, 'call [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]', "half")
    answer = results(asked)
    assert "missing" in failed(send(server, answer[:-1], "half"), 400, "invalid")
    assert "once" in failed(send(server, [*answer, answer[-1]], "half"), 400, "invalid")
    assert len(json.loads(content(send(server, answer, "half")).removeprefix("got "))) == 2


def test_a_plain_message_dismisses_calls_and_late_results_are_too_late(server: Server) -> None:
    asked = send(server, CALL, "moved-on")
    assert content(send(server, "never mind", "moved-on")) == "did never mind"
    assert tool_texts(server, "moved-on") == [NOT_RETURNED]
    assert "dismissed" in failed(send(server, results(asked), "moved-on"), 409, "dismissed")


def test_a_plain_message_may_wait_for_the_results_all_the_same(server: Server) -> None:
    asked = send(server, CALL, "patient")
    with ThreadPoolExecutor(1) as asker:
        waits = asker.submit(send, server, "next", "patient", on_question="wait")
        until(lambda: server.client.get("/v1/sessions/patient").json()["queue_depth"] == 1, "it waits")
        assert content(send(server, results(asked, "sun"), "patient")) == 'got [["weather", "sun"]]'
        assert content(waits.result(DEADLINE_S)) == "did next"


def test_a_question_to_a_person_is_not_dismissed_by_a_plain_message(server: Server) -> None:
    asked = send(server, 'call [["ask", {"text": "really?"}]]', "person")
    assert choice(asked)["finish_reason"] == "stop"
    with ThreadPoolExecutor(1) as asker:
        waits = asker.submit(send, server, "next", "person")
        until(lambda: server.client.get("/v1/sessions/person").json()["queue_depth"] == 1, "it waits")
        (request,) = asked.json()["strandline"]["input_requests"]
        answer = [{"id": request["id"], "response": "yes"}]
        assert content(send(server, [], "person", responses=answer)) == 'got [["ask", "yes"]]'
        assert content(waits.result(DEADLINE_S)) == "did next"


def test_two_runs_at_once_in_one_session_have_each_their_tools(server: Server) -> None:
    other = function("other")
    with ThreadPoolExecutor(2) as askers:
        held = askers.submit(send, server, 'then [["wait", {"name": "go"}]] | [["weather", {"city": "Rome"}]]', "two")
        folder = server.folder
        until(lambda: list(folder.rglob("go-waits")), "the first one works")
        second = askers.submit(send, server, 'call [["other", {"city": "Oslo"}]]', "two", tools=[other])
        until(lambda: server.client.get("/v1/sessions/two").json()["queue_depth"] == 1, "the second one waits")
        next(folder.rglob("go-waits")).with_name("go").touch()
        asked = held.result(DEADLINE_S)
        assert choice(asked)["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert not second.done()  # (it was there before the call, and so waits for its result)
        assert content(send(server, results(asked, "sun"), "two")) == 'got [["weather", "sun"]]'
        assert choice(second.result(DEADLINE_S))["message"]["tool_calls"][0]["function"]["name"] == "other"


def test_a_fork_has_the_call_closed_and_the_session_still_open(server: Server) -> None:
    asked = send(server, CALL, "forked")
    assert server.client.post("/v1/sessions/forked/fork", json={"session_id": "fork"}).status_code == 201
    failed(send(server, results(asked), "fork"), 404, "not_found")
    assert content(send(server, "hi", "fork")) == "did hi"
    assert content(send(server, results(asked, "sun"), "forked")) == 'got [["weather", "sun"]]'


def test_results_go_to_the_callers_own_session(tmp_path: Path) -> None:
    keys = {"ada": "secret-of-ada", "bob": "secret-of-bob"}
    lines = [f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in keys.items()]
    variables = {"STRANDLINE_API_KEYS": ",".join(lines)}
    with serving(WANTED, folder=tmp_path, variables=variables) as server:
        ada = {"Authorization": "Bearer secret-of-ada"}
        bob = {"Authorization": "Bearer secret-of-bob"}
        asked = send(server, CALL, "mine", headers=ada)
        failed(send(server, results(asked), "mine", headers=bob), 404, "not_found")
        assert content(send(server, results(asked, "sun"), "mine", headers=ada)) == 'got [["weather", "sun"]]'


def test_what_a_client_wanted_is_gone_with_its_last_answer(server: Server) -> None:
    """The agent stays in memory, and the next message has no tools and no form of its own."""
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "object"}}}
    asked = send(server, CALL, "gone", response_format=form)
    assert json.loads(content(send(server, results(asked, "sunny"), "gone", tools=None))) == {
        "said": 'got [["weather", "sunny"]]'
    }
    plain = server.client.post("/chat", json={"session_id": "gone", "message": "tools"}).json()
    shown_ = json.loads(plain["response"])
    assert (shown_["tools"].keys(), shown_["choice"]) == (OWN, None)


def test_other_results_for_a_call_of_the_same_id_are_another_request(tmp_path: Path) -> None:
    """In a long body, too, of which only the last messages are kept."""
    with serving(WANTED, "--max-body-bytes", "20000", folder=tmp_path) as server:
        earlier = [{"role": "user", "content": "z" * 30_000}]
        asked = send(server, CALL, "first")
        told = results(asked, "sunny")
        said = send(server, [*earlier, *told], "first")
        assert content(said) == 'got [["weather", "sunny"]]'
        assert send(server, [*earlier, *told], "first").json()["id"] == said.json()["id"]
        longer = [{"role": "user", "content": "another conversation"}, *earlier, *told]
        failed(send(server, longer, "first"), 409, "already_answered")


def test_a_run_that_is_made_again_has_its_tools(server: Server) -> None:
    asked = send(server, CALL, "again")
    again = server.client.post(
        f"/v1/runs/{asked.json()['id']}/again", json={"if_busy": "interrupt"}, headers={"Prefer": "wait=60"}
    )
    assert [each["client_tool"] for each in again.json()["input_requests"]] == [True]
    answer = [{"role": "tool", "tool_call_id": again.json()["input_requests"][0]["id"], "content": "snow"}]
    assert content(send(server, answer, "again")) == 'got [["weather", "snow"]]'


def test_the_results_at_the_end_of_a_long_body_are_all_read(tmp_path: Path) -> None:
    with serving(WANTED, "--max-body-bytes", "20000", folder=tmp_path) as server:
        asked = send(server, 'call [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]', "long")
        answer = results(asked, "x" * 5000, "y" * 5000)
        earlier = [{"role": "user", "content": "z" * 30_000}]
        too_large = results(asked, "x" * 15000, "y" * 15000)
        assert "results of tools" in failed(send(server, [*earlier, *too_large], "long"), 413, "body_too_large")
        said = content(send(server, [*earlier, *answer], "long"))
        assert said.count("x") == said.count("y") == 5000
