"""AG-UI at a real server: the official client, a session's one line, crashes, other callers, hostile requests."""

import json
import random
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from ag_ui.core import Event, RunErrorEvent
from pydantic import TypeAdapter

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, environment, serving, texts, until
from client_packages import npm_clients
from ports import reserved_port
from strandline._access.keyring import new_key

AGENT: Final = TARGETS / "agent.py"
LIMITS: Final = ("--max-queued-per-session", "2", "--cancel-grace", "0.2")
_event = TypeAdapter(Event)


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture
def server(at: Checkpoints, tmp_path: Path) -> Iterator[Server]:
    port = reserved_port()  # (the same one after a restart)
    with serving(AGENT, *LIMITS, folder=tmp_path, variables=at.environment, port=port) as made:
        yield made
        at.release()


class HttpAgent:
    """AG-UI's own client, which keeps the messages of each thread."""

    def __init__(self, url: str) -> None:
        program, folder = npm_clients()
        self._process = subprocess.Popen(
            [program, str(folder / "agui.mjs"), f"{url}/agui"],
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = ThreadPoolExecutor(1)

    def run(self, thread_id: str, text: str | None = None, **more: Any) -> "Future[dict[str, Any]]":
        """Run the agent, with another message of the user's if there is a text."""
        assert self._process.stdin is not None
        said = {"thread_id": thread_id, **({} if text is None else {"text": text}), **more}
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return self._reader.submit(self._read)

    def ran(self, thread_id: str, text: str | None = None, **more: Any) -> dict[str, Any]:
        """Run the agent, and return what became of it."""
        return self.run(thread_id, text, **more).result(DEADLINE_S)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._reader.shutdown()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client ended: {self._process.poll()}"
        said: dict[str, Any] = json.loads(line)
        return said


@pytest.fixture
def client(server: Server) -> Iterator[HttpAgent]:
    made = HttpAgent(server.url)
    yield made
    made.close()


def shown(said: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["role"], each["content"]) for each in said["messages"]]


def body(text: str, thread_id: str = "t", run_id: str = "r", **more: Any) -> dict[str, Any]:
    return {
        "threadId": thread_id,
        "runId": run_id,
        "messages": [{"id": "m", "role": "user", "content": text}],
        **more,
    }


def ask(server: Server, text: str, **more: Any) -> httpx.Response:
    return server.client.post("/agui", json=body(text, **more))


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a stream, each checked by the official types."""
    frames = [each for each in response.text.split("\n\n") if each.startswith("data: ")]
    found = [json.loads(each.removeprefix("data: ")) for each in frames]
    for each in found:
        _event.validate_python(each)
    return found


def error(response: httpx.Response, status: int, code: str) -> str:
    """Check that this is an error in AG-UI's form, and return its text."""
    assert response.headers["content-type"] == "application/json", response.text
    said = RunErrorEvent.model_validate_json(response.content)
    assert (response.status_code, said.code) == (status, code)
    return said.message


# -- the official client ------------------------------------------------------------------------------


def test_the_official_client_shows_a_conversation_with_tools(client: HttpAgent, server: Server) -> None:
    first = client.ran("talk", "q1 a b+c")
    assert shown(first)[:4] == [
        ("user", "q1 a b+c"),
        ("assistant", "Round 0. "),
        ("tool", "did a"),
        ("assistant", "Round 1. "),
    ]
    assert sorted(shown(first)[4:6]) == [("tool", "did b"), ("tool", "did c")]
    assert shown(first)[6:] == [("assistant", "q1: did a, did b, did c")]
    assert [call["function"]["name"] for each in first["messages"] for call in each.get("toolCalls", ())] == [
        "work"
    ] * 3
    assert first["outcome"] == {"type": "success"}
    second = client.ran("talk", "q2")
    assert shown(second)[7:] == [("user", "q2"), ("assistant", "q2")]
    assert texts(server.history("talk"), "user") == ["q1 a b+c", "q2"]


def test_the_official_client_shows_why_there_is_no_answer(client: HttpAgent, server: Server, at: Checkpoints) -> None:
    failed = client.ran("fails", "f1 fail")
    assert (failed["code"], failed["error"]) == ("agent_error", "ConnectionError: the provider is out of order")
    refused = client.ran("not a name", "x")
    assert (refused["status"], refused["code"]) == (422, "invalid")
    assert "$.threadId" in refused["error"]
    at.hold("busy model 0")
    server.line_up("busy", "b1", "b2", session_id="full")
    full = client.ran("full", "b3")
    assert (full["status"], full["code"]) == (429, "queue_full")
    assert '"position":3' in full["error"]


def test_the_official_client_sees_its_place_in_the_queue(client: HttpAgent, server: Server, at: Checkpoints) -> None:
    at.hold("first model 0")
    server.line_up("first", session_id="line")
    waiting = client.run("line", "second")
    until(lambda: server.health()["queue_depth"] == 1, "it waits")
    at.release()
    said = waiting.result(DEADLINE_S)
    assert said["customs"][0][0] == "strandline.run.queued"
    assert said["customs"][0][1]["position"] == 1
    assert said["customs"][-1][0] == "strandline.run.started"
    assert shown(said)[-1] == ("assistant", "second")


def test_the_official_client_answers_questions(client: HttpAgent, server: Server) -> None:
    asked = client.ran("asks", "q @pay")
    (interrupt,) = asked["outcome"]["interrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("@pay", "may I, q?")
    unanswered = client.ran("asks", "never mind")
    assert "pending interrupt" in unanswered["error"]
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "yes"}]
    said = client.ran("asks", resume=resume)
    assert [content for _, content in shown(said)] == [
        "q @pay",
        "Round 0. ",
        "did @pay (yes)",
        "never mind",
        "q: did @pay (yes)",
    ]
    calls = [call["id"] for each in said["messages"] for call in each.get("toolCalls", ())]
    assert len(calls) == 1
    asked = client.ran("drops", "q @pay")
    (interrupt,) = asked["outcome"]["interrupts"]
    said = client.ran("drops", resume=[{"interruptId": interrupt["id"], "status": "cancelled"}])
    assert shown(said)[-1] == ("assistant", "q: did @pay (False)")
    late = server.client.post("/agui", json=body("x", "drops", "late", resume=[{**resume[0], "interruptId": "none"}]))
    error(late, 404, "not_found")


def test_answers_may_come_under_the_run_id_of_the_question(server: Server) -> None:
    """CopilotKit's chat sends them so; each of them is a run of its own, and repeated it is the same one."""
    asked = ask(server, "q @pay")
    (interrupt,) = events(asked)[-1]["outcome"]["interrupts"]
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "yes"}]
    said = server.client.post("/agui", json=body("q @pay", resume=resume))
    assert (events(said)[0]["runId"], events(said)[-1]["outcome"]) == ("r", {"type": "success"})
    assert said.headers["location"] != asked.headers["location"]
    again = server.client.post("/agui", json=body("q @pay", resume=resume))
    assert (again.content, again.headers["idempotency-replayed"]) == (said.content, "true")
    error(server.client.post("/agui", json=body("q @pay", resume=[{**resume[0], "payload": 1}])), 422, "key_reused")
    assert ask(server, "q @pay").content == asked.content
    assert len(server.client.get("/v1/sessions/t/runs").json()["runs"]) == 2
    late = server.client.post("/agui", json=body("q @pay", run_id="other", resume=resume))
    error(late, 409, "already_answered")


def test_a_run_that_somebody_cancels_is_cancelled(client: HttpAgent, server: Server, at: Checkpoints) -> None:
    at.hold("c model 0")
    waiting = client.run("stop", "c")
    at.reached("c model 0")
    assert server.client.post("/v1/sessions/stop/cancel", json={"running": True}).status_code == 202
    said = waiting.result(DEADLINE_S)
    assert said["outcome"] == {"type": "cancelled"}
    at.release()


def test_the_official_client_resumes_after_kill_9(client: HttpAgent, server: Server, at: Checkpoints) -> None:
    """It has half of the run, and gets the rest by the same `runId`: nothing twice, nothing lost."""
    at.hold("k model 1")
    broken = client.run("crash", "k a b", run_id="crash-1")
    at.reached("k model 1")
    server.wait_until_stored()
    server.kill()
    assert broken.result(DEADLINE_S)["error"]
    at.release()
    server.start()
    said = client.ran("crash", run_id="crash-1")
    assert [content for _, content in shown(said)] == [
        "k a b",
        "Round 0. ",
        "did a",
        "Round 1. ",
        "did b",
        "k: did a, did b",
    ]
    assert len({each["id"] for each in said["messages"]}) == 6
    assert len(server.client.get("/v1/sessions/crash/runs").json()["runs"]) == 1


# -- the same run -------------------------------------------------------------------------------------


def test_the_same_run_id_is_the_same_stream_and_another_body_is_refused(server: Server) -> None:
    first = ask(server, "s1 a b+c")
    assert "idempotency-replayed" not in first.headers
    again = ask(server, "s1 a b+c")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(server.client.get("/v1/sessions/t/runs").json()["runs"]) == 1
    error(ask(server, "s2"), 422, "key_reused")
    error(ask(server, "s1 a b+c", forwardedProps={"strandline": {"priority": 1}}), 422, "key_reused")
    later = body("s1 a b+c", state={"counted": 1}, context=[{"description": "d", "value": "v"}])
    later["messages"].append({"id": "partial", "role": "assistant", "content": "Rou"})
    assert server.client.post("/agui", json=later).content == first.content
    assert events(ask(server, "s1 a b+c", thread_id="other"))[0]["runId"] == "r"
    keyed = server.client.post("/agui", json=body("s3", run_id="a"), headers={"Idempotency-Key": "k"})
    other = server.client.post("/agui", json=body("s3", run_id="b"), headers={"Idempotency-Key": "k"})
    assert keyed.headers["location"] == other.headers["location"]
    assert events(other)[0]["runId"] == "b"


def test_a_stream_that_is_cut_a_hundred_times_is_the_same_to_the_byte(server: Server, at: Checkpoints) -> None:
    """At any byte, while the run executes and when it has ended."""
    chance = random.Random(7)
    asked = body("cut a b+c ~d e", run_id="cut")
    at.hold("cut model 3")
    running = server.submit(server.client.post, "/agui", json=asked)
    at.reached("cut model 3")
    pieces = [cut_off(server, asked, chance.randrange(1, 1500)) for _ in range(50)]
    at.release()
    whole = running.result(DEADLINE_S).content
    pieces += [cut_off(server, asked, chance.randrange(1, len(whole))) for _ in range(50)]
    assert all(piece and whole.startswith(piece) for piece in pieces)
    assert server.client.post("/agui", json=asked).content == whole
    assert len(server.client.get("/v1/sessions/t/runs").json()["runs"]) == 1


def cut_off(server: Server, asked: dict[str, Any], size: int) -> bytes:
    """Return at least so many bytes of a stream, whose connection is closed then."""
    received = b""
    with server.client.stream("POST", "/agui", json=asked) as stream:
        for piece in stream.iter_raw():
            received += piece
            if len(received) >= size:
                break
    return received


def test_two_requests_of_one_thread_wait_their_turn(server: Server, at: Checkpoints) -> None:
    at.hold("one model 0")
    first = server.submit(server.client.post, "/agui", json=body("one", run_id="1"))
    at.reached("one model 0")
    second = server.submit(server.client.post, "/agui", json=body("two", run_id="2"))
    same = server.submit(server.client.post, "/agui", json=body("two", run_id="2"))
    until(lambda: server.health()["queue_depth"] == 1, "the second one waits")
    at.release()
    answers = [each.result(DEADLINE_S) for each in (first, second, same)]
    assert [events(each)[-1]["type"] for each in answers] == ["RUN_FINISHED"] * 3
    assert answers[1].headers["location"] == answers[2].headers["location"]
    assert texts(server.history("t"), "user") == ["one", "two"]


def test_a_client_that_hangs_up_stops_its_run_only_on_request(server: Server, at: Checkpoints) -> None:
    for tool, props, status in (
        ("a", {}, "succeeded"),
        ("?a", {"strandline": {"on_disconnect": "cancel"}}, "cancelled"),
    ):
        at.hold(f"{tool} {tool}")
        lost = server.health()["lost_clients"]
        asked = body(f"{tool} {tool}", run_id=tool, forwardedProps=props)
        with server.client.stream("POST", "/agui", json=asked) as stream:
            at.reached(f"{tool} {tool}")
            run_id = stream.headers["location"].rpartition("/")[2]
        until(lambda before=lost: server.health()["lost_clients"] > before, "the client is missed")  # type: ignore[misc]
        if props:
            until(lambda run_id=run_id: server.run(run_id)["cancel_requested"], "it is cancelled")  # type: ignore[misc]
        at.release()
        assert server.run(run_id, wait_s=20)["status"] == status


# -- the client's list --------------------------------------------------------------------------------


def said(*turns: str) -> dict[str, Any]:
    """The body of a request whose client lists these messages of the user's, each but the last with an answer."""
    listed: list[dict[str, str]] = []
    for number, text in enumerate(turns):
        listed.append({"id": f"u{number}", "role": "user", "content": text})
        if number < len(turns) - 1:
            listed.append({"id": f"a{number}", "role": "assistant", "content": "x"})
    return {**body("", run_id="|".join(turns)), "messages": listed}


def test_an_edited_list_takes_the_conversation_back(server: Server) -> None:
    follow = {"X-Client-History": "follow"}

    def sent(*turns: str) -> dict[str, Any]:
        answer = server.client.post("/agui", json=said(*turns), headers=follow)
        assert events(answer)[-1]["type"] == "RUN_FINISHED", answer.text
        assert server.client.post("/agui", json=said(*turns), headers=follow).content == answer.content
        about: dict[str, Any] = events(answer)[0]["metadata"]["strandline"]
        return about

    first = sent("one")
    second = sent("one", "two a")
    assert sent("one", "two a", "three").keys() == {"run_id", "session_id"}
    edited = sent("one", "two b")
    assert (edited["after"], edited["superseded"][0]) == (first["run_id"], second["run_id"])
    assert [each["name"] for each in edited["effects"]] == ["work"]
    assert texts(server.history("t"), "user") == ["one", "two b"]
    sent("two b", "four")  # (without its beginning)
    assert texts(server.history("t"), "user") == ["one", "two b", "four"]
    sent("five")  # (a new conversation)
    assert texts(server.history("t"), "user") == ["five"]


def test_an_edited_list_is_refused_or_ignored_as_the_header_says(server: Server) -> None:
    assert events(server.client.post("/agui", json=said("one")))[-1]["type"] == "RUN_FINISHED"
    other = said("another", "two")
    error(server.client.post("/agui", json=other, headers={"X-Client-History": "refuse"}), 409, "conversation_differs")
    error(server.client.post("/agui", json=other, headers={"X-Client-History": "x"}), 422, "invalid")
    assert events(server.client.post("/agui", json=other))[-1]["type"] == "RUN_FINISHED"
    assert texts(server.history("t"), "user") == ["one", "two"]


# -- the agent's state --------------------------------------------------------------------------------

STATEFUL: Final = """
from strands import Agent, ToolContext, tool

from strandline.testing import ScriptedModel, call, question, results


@tool(context=True)
def put(thing: str, tool_context: ToolContext) -> str:
    "Put a thing into the cart."
    state = tool_context.agent.state
    state.set("cart", [*(state.get("cart") or []), thing])
    state.set("secret", "hunter2")
    return "put"


def script(messages):
    asked = question(messages)
    return "done" if results(messages) or asked == "hello" else [call("put", {"thing": asked})]


def make_agent(session_id):
    return Agent(model=ScriptedModel(script), tools=[put])


async def count(message, session):
    session.state["cart"] = [*session.state.get("cart", []), message]
    session.state["secret"] = "hunter2"
    return message
"""


@pytest.mark.parametrize("target", ["agent.py", "agent.py:count"])
def test_a_client_gets_the_state_that_a_setting_names_and_no_other(target: str, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(STATEFUL)
    port = reserved_port()
    with serving(target, "--agui-state", "cart,none", folder=tmp_path, port=port) as server:
        client = HttpAgent(server.url)
        assert client.ran("shop", "apple")["state"] == {"cart": ["apple"]}
        second = client.ran("shop", "pear", run_id="2")
        assert second["state"] == {"cart": ["apple", "pear"]}
        assert second["events"][-2:] == ["STATE_SNAPSHOT", "RUN_FINISHED"]
        server.kill()
        server.start()
        assert client.ran("shop", run_id="2")["state"] == {"cart": ["apple", "pear"]}
        client.close()
        forged = ask(server, "plum", thread_id="shop", state={"cart": ["everything"]})
        assert events(forged)[-2]["snapshot"] == {"cart": ["apple", "pear", "plum"]}
        assert "hunter2" not in forged.text
        if target == "agent.py":
            assert "STATE_SNAPSHOT" not in ask(server, "hello", thread_id="empty").text


def test_a_client_gets_no_state_unless_a_setting_names_some(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(STATEFUL)
    with serving("agent.py", folder=tmp_path) as server:
        assert "STATE_SNAPSHOT" not in ask(server, "apple").text


# -- other callers, and hostile ones ------------------------------------------------------------------


def test_a_thread_of_another_caller_is_another_session(tmp_path: Path, at: Checkpoints) -> None:
    (ada, kept), (bob, other) = new_key("ada"), new_key("bob")
    with serving(AGENT, "--api-keys", f"{kept.line()},{other.line()}", folder=tmp_path, variables=at.environment) as s:
        keyed = [{"Authorization": f"Bearer {key}"} for key in (ada, bob)]
        first, second = (s.client.post("/agui", json=body("p"), headers=each) for each in keyed)
        assert first.headers["location"] != second.headers["location"]
        assert s.client.get(first.headers["location"], headers=keyed[1]).status_code == 404
        history = s.client.get("/v1/sessions/t/history", headers=keyed[1]).json()["messages"]
        assert texts(history, "user") == ["p"]
        error(s.client.post("/agui", json=body("p")), 401, "unauthorized")


HOSTILE: Final[dict[str, tuple[bytes | dict[str, Any], int, str]]] = {
    "no JSON": (b"{", 400, "malformed"),
    "a list": (b"[]", 422, "invalid"),
    "nothing": ({}, 422, "invalid"),
    "half of a character": (b'{"threadId": "\\ud800"}', 400, "malformed"),
    "deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400, "malformed"),
    "a thread with a slash": (body("x", "a/b"), 422, "invalid"),
    "a thread that goes up": (body("x", ".."), 422, "invalid"),
    "a run id with a line": (body("x", run_id="a\nb: c"), 422, "invalid"),
    "no messages": (body("x") | {"messages": []}, 422, "invalid"),
    "messages that are none": (body("x") | {"messages": ["x"]}, 422, "invalid"),
    "a message without id": (body("x") | {"messages": [{"role": "user", "content": "x"}]}, 422, "invalid"),
    "an answer of the client's making": (
        body("x") | {"messages": [{"id": "a", "role": "assistant", "content": "x"}]},
        422,
        "invalid",
    ),
    "a result of the client's making": (
        body("x")
        | {"messages": [{"id": "u", "role": "user", "content": "x"}, {"id": "a", "role": "tool", "content": "x"}]},
        422,
        "invalid",
    ),
    "blocks of the engine": (
        body("x") | {"messages": [{"id": "m", "role": "user", "content": [{"toolResult": {}}]}]},
        422,
        "invalid",
    ),
    "an address to fetch": (
        body("x")
        | {
            "messages": [
                {
                    "id": "m",
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "url", "value": "file:///etc/passwd"}}],
                }
            ]
        },
        422,
        "invalid",
    ),
    "content that is not base64": (
        body("x")
        | {
            "messages": [
                {
                    "id": "m",
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "data", "mimeType": "image/png", "value": "é"}}],
                }
            ]
        },
        422,
        "invalid",
    ),
    "a tool with no name for models": (body("x", tools=[{"name": "a b", "description": "d"}]), 422, "invalid"),
    "two tools of a name": (body("x", tools=[{"name": "a", "description": "d"}] * 2), 422, "invalid"),
    "a tool that is none": (body("x", tools=["a"]), 422, "invalid"),
    "a result of nothing": (
        {**body("x"), "messages": [{"id": "m", "role": "tool", "toolCallId": "a", "content": "x"}]},
        404,
        "not_found",
    ),
    "properties that are none": (body("x", forwardedProps=7), 422, "invalid"),
    "an unknown policy": (body("x", forwardedProps={"strandline": {"if_busy": "explode"}}), 422, "invalid"),
    "an answer that nobody awaits": (
        body("x", resume=[{"interruptId": "a", "status": "resolved", "payload": 1}]),
        404,
        "not_found",
    ),
    "an answer without one": (body("x", resume=[{"interruptId": "a", "status": "resolved"}]), 422, "invalid"),
}


def test_hostile_requests_are_refused_in_the_protocols_form_and_store_nothing(server: Server) -> None:
    for name, (sent, status, code) in HOSTILE.items():
        content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
        response = server.client.post("/agui", content=content, headers={"Content-Type": "application/json"})
        assert error(response, status, code), name
    error(server.client.post("/agui", content=json.dumps(body("x"))), 415, "not_json")
    error(server.client.get("/agui"), 405, "method_not_allowed")
    assert server.stored() == []


def test_huge_state_and_lists_are_bounded_and_ignored(tmp_path: Path, at: Checkpoints) -> None:
    with serving(AGENT, "--max-body-bytes", "100000", folder=tmp_path, variables=at.environment) as s:
        state = {"padding": "x" * 90_000}
        assert events(ask(s, "h1", run_id="1", state=state))[-1]["type"] == "RUN_FINISHED"
        assert "max_body_bytes" in error(
            ask(s, "h2", run_id="2", state={"padding": "x" * 100_000}), 413, "body_too_large"
        )
        assert len(s.stored()) == 1
