"""Tools of AG-UI's clients at a real server, by the official client: it executes them, and shows each call once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until
from acceptance.test_agui import HttpAgent, body, error, events
from strandline._history import NOT_RETURNED

WANTED: Final = TARGETS / "wanted.py"
SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}}}
WEATHER: Final = {"name": "weather", "description": "The weather in a city.", "parameters": SCHEMA}
ROME: Final = '["weather", {"city": "Rome"}]'
OSLO: Final = '["weather", {"city": "Oslo"}]'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(WANTED, folder=tmp_path_factory.mktemp("agui-tools")) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[HttpAgent]:
    made = HttpAgent(server.url)
    yield made
    made.close()


def open_calls(said: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """The calls without a result that a client shows, which are of these tools."""
    done = {each["toolCallId"] for each in said["messages"] if each["role"] == "tool"}
    calls = [call for each in said["messages"] for call in each.get("toolCalls", ()) if call["id"] not in done]
    assert [call["function"]["name"] for call in calls] == list(names)
    return calls


def results(calls: list[dict[str, Any]], *contents: str) -> list[dict[str, str]]:
    return [{"toolCallId": call["id"], "content": content} for call, content in zip(calls, contents, strict=True)]


def got(said: dict[str, Any]) -> list[list[str]]:
    assert said["outcome"] == {"type": "success"}, said
    return sorted(json.loads(said["messages"][-1]["content"].removeprefix("got ")))


def each_once(said: dict[str, Any]) -> None:
    """Check that a client shows each call and each result once."""
    calls = [call["id"] for each in said["messages"] for call in each.get("toolCalls", ())]
    done = [each["toolCallId"] for each in said["messages"] if each["role"] == "tool"]
    assert (len(calls), len(done)) == (len(set(calls)), len(set(done)))
    assert set(done) <= set(calls)


def send(server: Server, messages: list[dict[str, Any]], thread_id: str, run_id: str, **more: Any) -> httpx.Response:
    asked = {**body("", thread_id, run_id, tools=[WEATHER], **more), "messages": messages}
    return server.client.post("/agui", json=asked, timeout=DEADLINE_S)


def message(text: str) -> dict[str, Any]:
    return {"id": f"m-{text}", "role": "user", "content": text}


def result(call_id: str, content: str) -> dict[str, Any]:
    return {"id": f"r-{call_id}", "role": "tool", "toolCallId": call_id, "content": content}


def called(answer: httpx.Response) -> list[str]:
    found = events(answer)
    assert found[-1]["type"] == "RUN_FINISHED", found
    return [each["toolCallId"] for each in found if each["type"] == "TOOL_CALL_START"]


def finished(answer: httpx.Response) -> str:
    found = events(answer)
    assert (found[-1]["type"], found[-1].get("outcome")) == ("RUN_FINISHED", {"type": "success"}), found
    return "".join(each["delta"] for each in found if each["type"] == "TEXT_MESSAGE_CONTENT")


# -- the official client ------------------------------------------------------------------------------


def test_the_official_client_executes_its_tools(client: HttpAgent, server: Server) -> None:
    said = client.ran("loop", f"then [{ROME}] | [{OSLO}]", tools=[WEATHER])
    assert said["outcome"] == {"type": "success"}
    (call,) = open_calls(said, "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    (request,) = server.client.get("/v1/sessions/loop").json()["input_requests"]
    assert (request["client_tool"], request["reason"]) == (True, {"city": "Rome"})
    said = client.ran("loop", results=results([call], "sun"), tools=[WEATHER])
    (call,) = open_calls(said, "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    said = client.ran("loop", results=results([call], "snow"), tools=[WEATHER])
    assert got(said) == [["weather", "snow"]]
    each_once(said)
    assert [each["role"] for each in said["messages"]] == [
        "user", "assistant", "tool", "assistant", "tool", "assistant"
    ]  # fmt: skip
    follow = client.ran("loop", "next", tools=[WEATHER])
    assert follow["messages"][-1]["content"] == "did next"


def test_of_a_round_with_the_agents_own_tools_the_client_shows_each_once(client: HttpAgent) -> None:
    said = client.ran("mixed", f'call [{ROME}, ["count", {{"name": "a"}}], {OSLO}]', tools=[WEATHER])
    calls = open_calls(said, "weather", "weather")
    said = client.ran("mixed", results=results(calls, "sun", "snow"), tools=[WEATHER])
    assert got(said) == [["count", "1"], ["weather", "snow"], ["weather", "sun"]]
    each_once(said)


def test_a_person_and_a_client_are_asked_in_one_round_and_answered_together(client: HttpAgent) -> None:
    said = client.ran("both", f'call [{ROME}, ["ask", {{"text": "really?"}}]]', tools=[WEATHER])
    (interrupt,) = said["outcome"]["interrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("ask", "really?")
    (weather,) = (each for each in open_calls(said, "weather", "ask") if each["function"]["name"] == "weather")
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "yes"}]
    said = client.ran("both", results=results([weather], "sun"), resume=resume, tools=[WEATHER])
    assert got(said) == [["ask", "yes"], ["weather", "sun"]]
    each_once(said)


def test_a_plain_message_dismisses_calls(client: HttpAgent, server: Server) -> None:
    said = client.ran("moved-on", f"call [{ROME}]", tools=[WEATHER])
    calls = open_calls(said, "weather")
    assert client.ran("moved-on", "never mind", tools=[WEATHER])["messages"][-1]["content"] == "did never mind"
    (block,) = (each for turn in server.history("moved-on") for each in turn["content"] if "toolResult" in each)
    assert block["toolResult"]["content"] == [{"text": NOT_RETURNED}]
    late = client.ran("moved-on", results=results(calls, "sun"), tools=[WEATHER])
    assert (late["status"], late["code"]) == (409, "dismissed")


def test_a_tool_named_as_one_of_the_agents_fails_the_run(client: HttpAgent) -> None:
    said = client.ran("clash", "hi", tools=[{**WEATHER, "name": "add"}])
    assert "tools of these names itself: add;" in said["error"]
    assert client.ran("clash", "hi", tools=[WEATHER])["messages"][-1]["content"] == "did hi"


def test_the_model_sees_the_tools_as_the_client_wrote_them_and_for_one_run(client: HttpAgent) -> None:
    shown = json.loads(client.ran("shown", "tools", tools=[WEATHER])["messages"][-1]["content"])["tools"]
    assert shown["weather"] == SCHEMA
    assert "weather" not in json.loads(client.ran("shown", "tools")["messages"][-1]["content"])["tools"]


# -- what may happen between --------------------------------------------------------------------------


def test_the_same_run_id_is_the_same_stream_also_with_results(server: Server) -> None:
    asked = [message(f"call [{ROME}]")]
    first = send(server, asked, "same", "1")
    assert send(server, asked, "same", "1").content == first.content
    (call,) = called(first)
    told = [*asked, {"id": "a", "role": "assistant", "content": ""}, result(call, "sun")]
    second = send(server, told, "same", "2")
    assert finished(second) == 'got [["weather", "sun"]]'
    assert send(server, told, "same", "2").content == second.content
    run_id = events(second)[0]["metadata"]["strandline"]["run_id"]
    half = [*told, {"id": f"{run_id}-0", "role": "assistant", "content": "got "}]
    again = send(server, half, "same", "2")
    assert again.headers["idempotency-replayed"] == "true"
    error(send(server, [*told[:-1], result(call, "rain")], "same", "2"), 422, "key_reused")
    error(send(server, told, "same", "3"), 409, "already_answered")


def test_half_of_the_results_are_refused_and_lose_nothing(server: Server) -> None:
    asked = [message(f"call [{ROME}, {OSLO}]")]
    calls = called(send(server, asked, "half", "1"))
    told = [*asked, {"id": "a", "role": "assistant", "content": ""}, *(result(each, "sun") for each in calls)]
    assert "answered together" in error(send(server, told[:-1], "half", "2"), 422, "invalid")
    assert finished(send(server, told, "half", "3")).count("sun") == 2


def test_large_arguments_reach_the_client_whole(server: Server) -> None:
    city = "R" * 200_000
    found = events(send(server, [message(f'call [["weather", {{"city": "{city}"}}]]')], "large", "1"))
    (arguments,) = (each["delta"] for each in found if each["type"] == "TOOL_CALL_ARGS")
    assert json.loads(arguments) == {"city": city}


def test_results_of_many_clients_at_once_are_one_run(server: Server) -> None:
    asked = [message(f"call [{ROME}]")]
    (call,) = called(send(server, asked, "race", "1"))
    told = [*asked, result(call, "sun")]
    with ThreadPoolExecutor(8) as clients:
        same = [clients.submit(send, server, told, "race", "2") for _ in range(4)]
        other = [clients.submit(send, server, told, "race", f"other-{number}") for number in range(4)]
        answers = [each.result(DEADLINE_S) for each in (*same, *other)]
    assert len({each.headers["location"] for each in answers if each.status_code == 200}) == 1
    assert {each.status_code for each in answers} <= {200, 409}


@pytest.mark.parametrize("workers", [0, 2])
def test_calls_and_results_survive_the_servers_death(tmp_path: Path, workers: int) -> None:
    flags = ["--idempotent-tools", "wait", *(["--workers", str(workers)] if workers else [])]
    asked = [message(f'then [{ROME}] | [["wait", {{"name": "held"}}], {OSLO}]')]
    with serving(WANTED, *flags, folder=tmp_path) as server:
        (call,) = called(send(server, asked, "killed", "1"))
        server.kill()
        server.start()
        told = [*asked, {"id": "a", "role": "assistant", "content": ""}, result(call, "sun")]
        with ThreadPoolExecutor(1) as asker:
            lost = asker.submit(send, server, told, "killed", "2")
            until(lambda: list(tmp_path.rglob("held-waits")), "the agent's own tool works, in the round after")
            server.kill()
            assert lost.exception() is not None
        next(tmp_path.rglob("held-waits")).with_name("held").touch()
        server.start()
        again = send(server, told, "killed", "2")
        shown = next(each["messages"] for each in reversed(events(again)) if each["type"] == "MESSAGES_SNAPSHOT")
        calls = [call for each in shown for call in each.get("toolCalls", ())]
        assert [call["function"]["name"] for call in calls] == ["wait", "weather"]
        second = calls[1]["id"]
        server.kill()
        server.start()
        told += [{"id": "b", "role": "assistant", "content": ""}, result(second, "snow")]
        assert sorted(json.loads(finished(send(server, told, "killed", "3")).removeprefix("got "))) == [
            ["wait", "there"],
            ["weather", "snow"],
        ]
        runs = server.client.get("/v1/sessions/killed/runs").json()["runs"]
        assert [run["status"] for run in runs] == ["succeeded", "needs_input", "needs_input"]
