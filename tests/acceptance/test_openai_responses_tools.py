"""Tools of clients of the Responses API at a real server: a call ends a response, its output begins the next.

What both of OpenAI's protocols do alike has its tests with chat completions (`test_openai_tools.py`).
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until
from strandline._history import NOT_RETURNED

WANTED = TARGETS / "wanted.py"
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}},
    "strict": False,
}
CALL = 'call [["weather", {"city": "Rome"}]]'
OWN = {"add", "ask", "count", "wait"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(WANTED, folder=tmp_path_factory.mktemp("tools")) as made:
        yield made


def send(server: Server, said: "str | list[dict[str, Any]]", session: str | None = None, **more: Any) -> httpx.Response:
    named = {} if session is None else {"conversation": session}
    headers = more.pop("headers", {})
    body = {"input": said, "tools": [WEATHER], **named, **more}
    return server.client.post("/v1/responses", json=body, headers=headers, timeout=DEADLINE_S)


def response(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    Response.model_validate(body)
    assert body["status"] == "completed", body
    return body


def calls(answer: httpx.Response) -> list[dict[str, Any]]:
    return [each for each in response(answer)["output"] if each["type"] == "function_call"]


def output(call: dict[str, Any], content: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call["call_id"], "output": content}


def results(answer: httpx.Response, *contents: Any) -> list[dict[str, Any]]:
    return [output(call, content) for call, content in zip(calls(answer), contents, strict=True)]


def text(answer: httpx.Response) -> str:
    (message,) = (each for each in response(answer)["output"] if each["type"] == "message")
    return str(message["content"][0]["text"])


def failed(answer: httpx.Response, status: int, code: str) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    return str(error["message"])


def got(answer: httpx.Response) -> list[list[str]]:
    return sorted(json.loads(text(answer).removeprefix("got ")))


# -- a call, and its output ---------------------------------------------------------------------------


def test_a_call_ends_the_response_and_its_output_begins_the_next(server: Server) -> None:
    asked = send(server, CALL, "call")
    (call,) = response(asked)["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city":"Rome"}')
    run = server.run(asked.json()["id"].removeprefix("resp_"))
    (request,) = run["input_requests"]
    assert (run["status"], request["client_tool"]) == ("needs_input", True)
    assert call["call_id"] == f"call_{run['run_id']}:{request['id']}"
    assert server.client.get(f"/v1/responses/{asked.json()['id']}").json() == asked.json()
    said = send(server, results(asked, "sunny"), previous_response_id=asked.json()["id"])
    assert got(said) == [["weather", "sunny"]]
    assert said.json()["conversation"] == {"id": "call"}
    assert [message["role"] for message in server.history("call")] == ["user", "assistant", "user", "assistant"]


def test_the_official_client_runs_a_loop_of_tools(server: Server) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
    tools: Any = [WEATHER]
    asked = client.responses.create(
        model="any", input='then [["weather", {"city": "Rome"}]] | [["weather", {"city": "Oslo"}]]', tools=tools
    )
    cities = []
    while calls_ := [each for each in asked.output if each.type == "function_call"]:
        cities += [json.loads(each.arguments)["city"] for each in calls_]
        outputs: Any = [output(each.model_dump(), f"sunny in {cities[-1]}") for each in calls_]
        asked = client.responses.create(model="any", input=outputs, tools=tools, previous_response_id=asked.id)
    assert cities == ["Rome", "Oslo"]
    assert asked.output_text == 'got [["weather", "sunny in Oslo"]]'


def test_a_stream_ends_with_the_calls_and_is_resumed_with_the_same_bytes(server: Server) -> None:
    two = 'call [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]'
    whole = send(server, two, "streamed", stream=True).text
    events = [json.loads(line.removeprefix("data: ")) for line in whole.split("\n") if line.startswith("data: ")]
    for event in events:
        EVENT.validate_python(event)
    done = [each for each in events if each["type"] == "response.function_call_arguments.done"]
    assert [(each["output_index"], each["arguments"]) for each in done] == [
        (0, '{"city":"Rome"}'),
        (1, '{"city":"Oslo"}'),
    ]
    last = events[-1]["response"]
    assert (events[-1]["type"], last["status"]) == ("response.completed", "completed")
    assert last == server.client.get(f"/v1/responses/{last['id']}").json()
    blocks = whole.split("\n\n")[:-1]
    for number in range(len(events)):
        rest = server.client.get(f"/v1/responses/{last['id']}?stream=true&starting_after={number}").text
        assert rest.replace(": alive\n\n", "") == "".join(f"{block}\n\n" for block in blocks[number + 1 :])
    outputs = [output(call, "sun") for call in last["output"]]
    answer = send(server, outputs, previous_response_id=last["id"], stream=True).text
    assert json.loads(answer.rpartition("data: ")[2])["response"]["output"][0]["content"][0]["text"] == (
        'got [["weather", "sun"], ["weather", "sun"]]'
    )


@pytest.mark.parametrize("given", ["5", "null", '{"a":  1}', '"5"', "true", "", "ünï"])
def test_an_output_is_the_text_that_it_is(server: Server, given: str) -> None:
    asked = send(server, CALL)
    assert got(send(server, results(asked, given), previous_response_id=asked.json()["id"])) == [["weather", given]]


def test_an_output_may_come_in_parts_of_text(server: Server) -> None:
    asked = send(server, CALL)
    parts = [{"type": "input_text", "text": "sun"}, {"type": "input_text", "text": "ny"}]
    image = [{"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]
    previous = asked.json()["id"]
    message = failed(send(server, results(asked, image), previous_response_id=previous), 400, "invalid")
    assert "parts of type input_text" in message
    assert got(send(server, results(asked, parts), previous_response_id=previous)) == [["weather", "sunny"]]


def test_of_a_round_with_the_agents_own_tools_those_run_once(server: Server) -> None:
    round_ = [["weather", {"city": "Rome"}], ["count", {"name": "a"}], ["weather", {"city": "Oslo"}]]
    asked = send(server, f"call {json.dumps(round_)}", "mixed")
    said = send(server, results(asked, "sun", "snow"), "mixed")
    assert got(said) == [["count", "1"], ["weather", "snow"], ["weather", "sun"]]


@pytest.mark.parametrize("how", ["function_call", "mcp_approval_request", "text"])
def test_a_person_and_a_client_are_asked_in_one_round_and_answered_together(server: Server, how: str) -> None:
    round_ = 'call [["weather", {"city": "Rome"}], ["ask", {"text": "really?"}]]'
    asked = send(server, round_, questions=how)
    previous = asked.json()["id"]
    (call,) = (each for each in calls(asked) if each["call_id"].startswith("call_"))
    (of_person,) = (each for each in asked.json()["strandline"]["input_requests"] if "client_tool" not in each)
    answer = {"type": "function_call_output", "call_id": of_person["id"], "output": "yes"}
    if how == "text":
        assert "waits for a person's answer. ask: really?" in text(asked)
    if how == "mcp_approval_request":
        (request,) = (each for each in asked.json()["output"] if each["type"] == "mcp_approval_request")
        answer = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
    half = send(server, [output(call, "sun")], previous_response_id=previous)
    assert "answered together" in failed(half, 400, "invalid")
    said = send(server, [output(call, "sun"), answer], previous_response_id=previous)
    assert got(said) == [["ask", "yes"], ["weather", "sun"]]


def test_an_output_needs_no_tools_and_may_come_by_the_run_api(server: Server) -> None:
    asked = send(server, 'then [["weather", {"city": "Rome"}]] | [["weather", {"city": "Oslo"}]]', "api")
    again = send(server, results(asked, "sun"), "api", tools=None)
    (request,) = again.json()["strandline"]["input_requests"]
    body = {"input": {"responses": [{"id": request["id"], "response": "snow"}]}}
    said = server.client.post("/v1/sessions/api/runs", json=body, headers={"Prefer": "wait=60"})
    assert said.json()["output"] == 'got [["weather", "snow"]]'


def test_an_answer_in_a_form_may_come_after_calls(server: Server) -> None:
    class Said(BaseModel):
        said: str

    form = {"format": {"type": "json_schema", "name": "said", "schema": Said.model_json_schema()}}
    asked = send(server, CALL, "form", text=form)
    assert [each["type"] for each in response(asked)["output"]] == ["function_call"]
    said = send(server, results(asked, "sun"), "form", text=form, stream=True)
    last = json.loads(said.text.rpartition("data: ")[2])["response"]
    assert json.loads(last["output"][0]["content"][0]["text"]) == {"said": 'got [["weather", "sun"]]'}


def test_a_call_in_the_background_is_read_later(server: Server) -> None:
    begun = send(server, CALL, background=True).json()
    read = f"/v1/responses/{begun['id']}"
    until(lambda: server.client.get(read).json()["status"] == "completed", "it has ended")
    asked = server.client.get(read)
    said = send(server, results(asked, "sun"), previous_response_id=begun["id"])
    assert got(said) == [["weather", "sun"]]


def test_a_whole_list_ends_with_outputs(server: Server) -> None:
    headers = {"X-Session-Id": "list"}
    question = {"role": "user", "content": CALL}
    asked = send(server, [question], headers=headers)
    instructions = {"role": "developer", "content": "be brief"}
    listed = [question, *response(asked)["output"], *results(asked, "sun"), instructions]
    assert got(send(server, listed, headers=headers)) == [["weather", "sun"]]


# -- what the client chooses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "choice", "offered"),
    [
        ("auto", None, {"weather", "other"}),
        ("none", None, set()),
        ("required", {"any": {}}, {"weather", "other"}),
        ({"type": "function", "name": "other"}, {"tool": {"name": "other"}}, {"weather", "other"}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            {"any": {}},
            {"weather"},
        ),
    ],
)
def test_the_client_chooses_what_must_be_called(server: Server, given: Any, choice: Any, offered: set[str]) -> None:
    tools = [WEATHER, {**WEATHER, "name": "other"}]
    shown = json.loads(text(send(server, "tools", tools=tools, tool_choice=given)))
    assert (shown["choice"], shown["tools"].keys() - OWN) == (choice, offered)
    if "weather" in offered:
        assert shown["tools"]["weather"] == WEATHER["parameters"]


def test_a_client_may_take_one_call_at_a_time(server: Server) -> None:
    two = 'call [["weather", {"city": "Rome"}], ["weather", {"city": "Oslo"}]]'
    asked = send(server, two, "single", parallel_tool_calls=False)
    said = send(server, results(asked, "sun"), "single", parallel_tool_calls=False)
    assert ["weather", "sun"] in got(said)
    assert len(got(said)) == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tools": [{"type": "web_search"}]}, "of type function"),
        ({"tools": [{"type": "function"}]}, "needs a name"),
        ({"tools": [WEATHER, WEATHER]}, "two tools named weather"),
        ({"tools": [{**WEATHER, "name": "structured_answer"}]}, "no tool can be named structured_answer"),
        ({"tools": [{**WEATHER, "description": "x" * 132_000}]}, "max_client_options_bytes"),
        ({"tool_choice": {"type": "web_search"}}, "auto, none, required"),
        ({"tool_choice": {"type": "function", "name": "other"}}, "there is no tool named"),
        ({"tools": [], "tool_choice": "required"}, "only if there is one"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(server: Server, more: dict[str, Any], message: str) -> None:
    assert message in failed(send(server, "hi", "refused", **more), 400, "invalid")
    assert server.client.get("/v1/sessions/refused").status_code == 404


def test_a_tool_named_as_one_of_the_agents_is_a_failed_response(server: Server) -> None:
    body = send(server, "hi", "clash", tools=[{**WEATHER, "name": "add"}]).json()
    assert body["status"] == "failed"
    assert "tools of these names itself: add;" in body["error"]["message"]
    assert text(send(server, "hi", "clash")) == "did hi"


# -- what may happen between --------------------------------------------------------------------------


def test_outputs_that_are_sent_again_are_the_same_response_and_others_come_too_late(server: Server) -> None:
    asked = send(server, CALL, "twice")
    sent = results(asked, "sun")
    first, again = send(server, sent, "twice"), send(server, sent, "twice")
    assert again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "answered before" in failed(send(server, results(asked, "rain"), "twice"), 409, "already_answered")


def test_the_same_call_in_a_later_response_is_another_one(server: Server) -> None:
    """A provider may give calls ids that it has given before: the same request is not sent twice for that."""
    first = send(server, CALL, "later")
    done = send(server, results(first, "sun"), "later")
    second = send(server, CALL, "later")
    assert calls(second)[0]["call_id"] != calls(first)[0]["call_id"]
    again = send(server, results(second, "sun"), "later")
    assert again.json()["id"] != done.json()["id"]
    assert "Idempotency-Replayed" not in again.headers


def test_a_plain_message_dismisses_calls_and_late_outputs_are_too_late(server: Server) -> None:
    asked = send(server, CALL, "moved-on")
    assert text(send(server, "never mind", previous_response_id=asked.json()["id"])) == "did never mind"
    (result,) = (block for each in server.history("moved-on") for block in each["content"] if "toolResult" in block)
    assert result["toolResult"]["content"] == [{"text": NOT_RETURNED}]
    assert "dismissed" in failed(send(server, results(asked, "sun"), "moved-on"), 409, "dismissed")


def test_outputs_of_many_clients_at_once_are_one_run(server: Server) -> None:
    asked = send(server, CALL, "race")
    with ThreadPoolExecutor(8) as clients:
        same = [clients.submit(send, server, results(asked, "sun"), "race") for _ in range(8)]
        answers = [each.result(DEADLINE_S) for each in same]
    assert len({each.json()["id"] for each in answers}) == 1
    assert got(answers[0]) == [["weather", "sun"]]
    asked = send(server, CALL, "race")
    with ThreadPoolExecutor(8) as clients:
        other = [clients.submit(send, server, results(asked, f"sun {number}"), "race") for number in range(8)]
        statuses = sorted(each.result(DEADLINE_S).status_code for each in other)
    assert statuses == [200] + [409] * 7


@pytest.mark.parametrize("workers", [0, 2])
def test_calls_and_outputs_survive_the_servers_death(tmp_path: Path, workers: int) -> None:
    flags = ["--idempotent-tools", "wait", *(["--workers", str(workers)] if workers else [])]
    said = 'then [["weather", {"city": "Rome"}]] | [["wait", {"name": "held"}], ["weather", {"city": "Oslo"}]]'
    with serving(WANTED, *flags, folder=tmp_path) as server:
        first = send(server, said, "killed")
        server.kill()
        server.start()
        sent = results(first, "sun")
        with ThreadPoolExecutor(1) as asker:
            lost = asker.submit(send, server, sent, "killed")
            until(lambda: list(tmp_path.rglob("held-waits")), "the agent's own tool works, in the round after")
            server.kill()
            assert lost.exception() is not None
        next(tmp_path.rglob("held-waits")).with_name("held").touch()
        server.start()
        second = send(server, sent, "killed")  # (the client sends it again: it is the same run)
        assert calls(second)[0]["arguments"] == '{"city":"Oslo"}'
        server.kill()
        server.start()
        assert got(send(server, results(second, "snow"), "killed")) == [["wait", "there"], ["weather", "snow"]]
        runs = server.client.get("/v1/sessions/killed/runs").json()["runs"]
        assert [run["status"] for run in runs] == ["succeeded", "needs_input", "needs_input"]
