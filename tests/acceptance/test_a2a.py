"""A2A at a real server, by its official clients of both versions: cards, tasks, a session's one line, other callers."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.a2a_client import VERSIONS, Client, said_in
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from ports import reserved_port
from strandline._access.keyring import new_key

AGENT: Final = TARGETS / "agent.py"
LIMITS: Final = ("--max-queued-per-session", "2", "--cancel-grace", "0.2")
CARD: Final = "/.well-known/agent-card.json"


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


@pytest.fixture(params=VERSIONS)
def client(server: Server, request: pytest.FixtureRequest) -> Iterator[Client]:
    made = Client(server.url, request.param)
    yield made
    made.close()


def call(server: Server, method: str, params: Any = None, **more: Any) -> httpx.Response:
    body = {"jsonrpc": "2.0", "id": "c", "method": method, "params": params}
    return server.client.post("/a2a", json=body, **more)


def message(text: str, message_id: str = "m", **more: Any) -> dict[str, Any]:
    return {"message": {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **more}}


# -- the official clients -----------------------------------------------------------------------------


def test_a_message_is_answered_with_its_task_and_the_session_continues(client: Client, server: Server) -> None:
    first = client.task("send", text="q1 a b+c", context_id="talk")
    assert (client.state(first), first["contextId"]) == ("completed", "talk")
    assert said_in(first) == "q1: did a, did b, did c"
    second = client.task("send", text="q2", context_id="talk")
    assert (client.state(second), said_in(second)) == ("completed", "q2")
    assert texts(server.history("talk"), "user") == ["q1 a b+c", "q2"]
    assert server.client.get(f"/v1/runs/{second['id']}").json()["session_id"] == "talk"
    read = client.asked("get", task_id=first["id"])
    assert (read["id"], client.state(read), said_in(read)) == (first["id"], "completed", said_in(first))


def test_a_message_without_a_context_begins_one_and_is_the_same_task_when_it_is_sent_again(client: Client) -> None:
    first = client.task("send", text="q1", message_id="same")
    again = client.task("send", text="q1", message_id="same")
    assert (again["id"], again["contextId"]) == (first["id"], first["contextId"])
    other = client.task("send", text="q1", message_id="other")
    assert other["contextId"] != first["contextId"]
    assert "another request" in client.refused("send", text="q2", message_id="same")["error"]


def test_who_does_not_wait_gets_a_task_to_ask_for(client: Client, server: Server, at: Checkpoints) -> None:
    at.hold("busy model 0")
    busy = client.task("send", text="busy", context_id="s", at_once=True)
    assert client.state(busy) == "working"
    waits = client.task("send", text="next", context_id="s", at_once=True)
    assert client.state(waits) == "submitted"
    assert waits["metadata"]["strandline"]["position"] == 1
    assert client.state(client.asked("get", task_id=waits["id"])) == "submitted"
    at.release()
    until(lambda: client.state(client.asked("get", task_id=waits["id"])) == "completed", "it is answered")
    assert texts(server.history("s"), "user") == ["busy", "next"]


def test_why_there_is_no_answer(client: Client) -> None:
    failed = client.task("send", text="f1 fail")
    assert client.state(failed) == "failed"
    assert failed["status"]["message"]["parts"][0]["text"] == "ConnectionError: the provider is out of order"
    assert failed["metadata"]["strandline"]["code"] == "agent_error"
    assert "no task run_0" in client.refused("get", task_id="run_0")["error"]
    assert "$.message.contextId" in client.refused("send", text="x", context_id="not a name")["error"]


def test_what_a_client_says_besides_goes_to_the_run(client: Client, server: Server) -> None:
    metadata = {"tenant": "acme", "strandline": {"priority": 1}}
    task = client.task("send", text="q1", message_id="m1", metadata=metadata)
    run = server.client.get(f"/v1/runs/{task['id']}").json()
    assert run["priority"] == 1
    assert run["metadata"] == {"tenant": "acme", "a2a": {"message_id": "m1"}}


def test_files_and_data_reach_the_agent(client: Client, server: Server) -> None:
    file = {"bytes": "JVBERi0=", "mime_type": "application/pdf", "name": "a.pdf"}
    task = client.task("send", text="q1", data={"n": 1}, file=file, context_id="s")
    assert client.state(task) in ("completed", "failed")
    (said,) = [each for each in server.history("s") if each["role"] == "user"][:1]
    assert [next(iter(block)) for block in said["content"]] == ["text", "text", "document"]
    assert said["content"][1]["text"] == ('{"n":1}' if client.version == "0.3" else '{"n":1.0}'), (
        "as JSON of that version"
    )
    file["mime_type"] = "audio/wav"
    assert "must be one of" in client.refused("send", text="q1", file=file)["error"]


# -- streams and cancels ------------------------------------------------------------------------------


def test_a_stream_says_what_becomes_of_the_task(client: Client, server: Server) -> None:
    events = client.asked("stream", text="q1 a b", context_id="s")
    task = client.asked("get", task_id=client.task_of(events[0])["id"])
    assert (client.state(task), said_in(task)) == ("completed", "q1: did a, did b")
    assert client.states(events) == ["submitted", "working", "completed"]
    assert client.streamed(events) == said_in(task)


def test_strands_agent_asks_and_gets_the_answer(server: Server) -> None:
    with Client(server.url, "0.3") as client:
        said = client.asked("strands", text="q1 a")
    assert said == {"text": "q1: did a\n", "stop_reason": "end_turn", "name": "strandline"}


def test_the_error_of_a_stream_is_its_only_event(client: Client) -> None:
    assert "$.message.contextId" in client.refused("stream", text="x", context_id="not a name")["error"]


def test_a_cancel_ends_a_task_whether_it_waits_or_executes(client: Client, server: Server, at: Checkpoints) -> None:
    at.hold("busy ?slow")
    busy = client.task("send", text="busy ?slow", context_id="s", at_once=True)
    waits = client.task("send", text="next", context_id="s", at_once=True)
    assert client.state(client.asked("cancel", task_id=waits["id"])) == "canceled"
    assert client.state(client.asked("cancel", task_id=busy["id"])) == "canceled"
    at.release()
    done = client.task("send", text="q1", context_id="other")
    assert "ended" in client.refused("cancel", task_id=done["id"])["error"]
    assert "no task" in client.refused("cancel", task_id="run_0")["error"]


def test_who_comes_back_gets_the_task_and_all_that_it_says(client: Client, server: Server, at: Checkpoints) -> None:
    at.hold("s1 a")
    broken = client.asked("stream", text="s1 a", context_id="s", message_id="same", most=3)
    task_id = client.task_of(broken[0])["id"]
    at.reached("s1 a")
    events = client.asked("again", task_id=task_id, most=3)
    assert client.states(events) == ["working", "working"], "a snapshot first"
    assert client.streamed(events) == "Round 0. "
    at.release()
    same = client.asked("stream", text="s1 a", context_id="s", message_id="same")
    assert client.streamed(same) == said_in(client.asked("get", task_id=task_id)) == "s1: did a"


def test_a_hundred_streams_that_are_cut_and_resumed_say_the_same(server: Server) -> None:
    chance = random.Random(20)
    cut = 0
    for number in range(100):
        params = message(f"c{number} a b", f"m{number}", contextId=f"cut{number % 10}")
        shown, task_id, ended = "", "", False
        method: tuple[str, Any] = ("message/stream", params)
        while not ended:
            shown, task_id, ended = read_some(server, *method, most=chance.randrange(1, 5000))
            cut += not ended
            method = ("tasks/resubscribe", {"id": task_id}) if task_id else method
        task = call(server, "GetTask", {"id": task_id}).json()["result"]
        assert shown == said_in(task) == f"c{number}: did a, did b"
    assert cut > 50


def read_some(server: Server, method: str, params: Any, *, most: int) -> tuple[str, str, bool]:
    """Read about so many bytes of a stream; return its text, the task, and whether that has ended."""
    shown, task_id, size = "", "", 0
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    with server.client.stream("POST", "/a2a", json=body) as response:
        for line in response.iter_lines():
            size += len(line)
            if not line.startswith("data: "):
                continue
            result = json.loads(line.removeprefix("data: "))["result"]
            task_id = result.get("id") or result["taskId"]
            if result["kind"] == "artifact-update":
                text = said_in({"artifacts": [result["artifact"]]})
                shown = shown + text if result["append"] else text
            if result.get("final"):
                return shown, task_id, True
            if size > most:
                return shown, task_id, False
    return shown, task_id, False


def test_a_task_continues_after_kill_9_and_its_stream_says_all_again(
    client: Client, server: Server, at: Checkpoints
) -> None:
    """The client has half of it, and gets the rest by the task's id: nothing twice, nothing lost."""
    at.hold("k model 1")
    broken = client.ask("stream", text="k a b", context_id="crash", message_id="k")
    at.reached("k model 1")
    (run,) = server.client.get("/v1/sessions/crash/runs").json()["runs"]
    server.wait_until_stored()
    server.kill()
    assert "error" in broken.result(DEADLINE_S)
    server.start()
    events = client.asked("again", task_id=run["run_id"], most=3)
    assert client.streamed(events).startswith("Round 0."), "what it has said before"
    at.release()
    events = client.asked("stream", text="k a b", context_id="crash", message_id="k")
    assert client.streamed(events) == "k: did a, did b"
    task = client.task("send", text="k a b", context_id="crash", message_id="k")
    assert (task["id"], said_in(task)) == (run["run_id"], "k: did a, did b")
    assert len(server.client.get("/v1/sessions/crash/runs").json()["runs"]) == 1


def test_messages_of_many_clients_for_one_session_are_answered_one_at_a_time(server: Server) -> None:
    def ask(number: int) -> str:
        said = call(
            server, ("SendMessage", "message/send")[number % 2], message(f"r{number} a", f"m{number}", contextId="race")
        )
        result = said.json()["result"]
        return said_in(result.get("task", result))

    with ThreadPoolExecutor(3) as clients:  # (as many as the queue takes, with the one that executes)
        answers = list(clients.map(ask, range(24)))
    assert answers == [f"r{number}: did a" for number in range(24)]
    assert len(texts(server.history("race"), "user")) == 24


# -- questions ----------------------------------------------------------------------------------------


def test_a_question_is_answered_by_a_message_of_its_task(client: Client, server: Server) -> None:
    asked = client.task("send", text="q1 @pay", context_id="s")
    assert client.state(asked) == "input-required"
    question, data = asked["status"]["message"]["parts"]
    assert question["text"]
    assert len(data["data"]["input_requests"]) == 1
    answered = client.task("send", text="yes", task_id=asked["id"], message_id="answer")
    assert (answered["id"], answered["contextId"], client.state(answered)) == (asked["id"], "s", "completed")
    read = client.asked("get", task_id=asked["id"])
    assert (client.state(read), said_in(read)) == ("completed", said_in(answered))
    again = client.task("send", text="yes", task_id=asked["id"], message_id="answer")
    assert (again["id"], said_in(again)) == (asked["id"], said_in(answered))
    assert len(server.client.get("/v1/sessions/s/runs").json()["runs"]) == 2
    assert "asks nothing" in client.refused("send", text="no", task_id=asked["id"])["error"], "the first answer counts"
    other = client.task("send", text="q2", context_id="s")
    assert "asks nothing" in client.refused("send", text="x", task_id=other["id"])["error"]
    assert "no task" in client.refused("send", text="x", task_id="run_0")["error"]


def test_an_answer_by_another_protocol_is_one_of_the_task(client: Client, server: Server) -> None:
    asked = client.task("send", text="q1 @pay", context_id="s")
    (request,) = asked["status"]["message"]["parts"][1]["data"]["input_requests"]
    body = {"input": {"responses": [{"id": request["id"], "response": "yes"}]}}
    server.client.post("/v1/sessions/s/runs", json=body, headers={"Prefer": "wait=60"}).raise_for_status()
    task = client.asked("get", task_id=asked["id"])
    assert (client.state(task), task["id"]) == ("completed", asked["id"])


def test_a_stream_of_an_answer_is_of_its_task(client: Client) -> None:
    events = client.asked("stream", text="q1 @pay @more", context_id="s")
    assert client.states(events) == ["submitted", "working", "input-required"]
    task_id = client.task_of(events[0])["id"]
    data = {"responses": [{"id": request_of(client.asked("get", task_id=task_id)), "response": "yes"}]}
    events = client.asked("stream", data=data, task_id=task_id)
    assert (client.task_of(events[0])["id"], client.states(events)[-1]) == (task_id, "input-required")
    assert client.state(client.asked("cancel", task_id=task_id)) == "canceled"
    assert client.state(client.asked("get", task_id=task_id)) == "canceled"


def request_of(task: dict[str, Any]) -> str:
    found: str = task["status"]["message"]["parts"][1]["data"]["input_requests"][0]["id"]
    return found


# -- cards, keys and other callers --------------------------------------------------------------------


def test_the_card_is_open_and_all_else_needs_a_key(at: Checkpoints, tmp_path: Path) -> None:
    ada, line = new_key("ada")
    bob, other = new_key("bob")
    flags = ("--api-keys", f"{line.line()},{other.line()}", "--agent-skills", "Sums: adds numbers")
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        for path in (CARD, "/.well-known/agent.json", "/a2a/.well-known/agent-card.json"):
            card = server.client.get(path).json()
            assert card["url"] == f"{server.url}/a2a"
        assert server.client.post("/a2a", json={}).status_code == 401
        for version in VERSIONS:
            with Client(server.url, version, ada) as client, Client(server.url, version, bob) as second:
                assert client.asked("card")["skills"][0]["name"] == "Sums"
                (extension,) = client.asked("extended")["capabilities"]["extensions"]
                assert extension["params"]["max_body_bytes"] > 0
                task = client.task("send", text="hello", context_id=f"s-{version}")
                assert "no task" in second.refused("get", task_id=task["id"])["error"]
                assert client.state(client.asked("get", task_id=task["id"])) == "completed"


def test_without_keys_there_is_one_card(server: Server) -> None:
    for method in ("GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"):
        assert call(server, method).json()["error"]["code"] == -32007


# -- requests that nobody can answer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b"[]", 400, -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "GetTask"}', 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "Dance"}', 200, -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask"}', 200, -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {}}}', 200, -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "none"}}', 200, -32001),
    ],
)
def test_errors_have_the_codes_of_the_protocol(server: Server, body: bytes, status: int, code: int) -> None:
    answer = server.client.post("/a2a", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["id"] == (1 if status == 200 else None)


def test_another_version_is_refused(server: Server) -> None:
    for version, code in (("1.0", None), ("1.0.2", None), ("0.3", None), ("", None), ("2.0", -32009), ("x", -32009)):
        said = call(server, "SendMessage", message("q1"), headers={"A2A-Version": version}).json()
        assert said.get("error", {}).get("code") == code, (version, said)


def test_a_full_queue_says_so_in_the_form_of_each_version(server: Server, at: Checkpoints) -> None:
    at.hold("busy model 0")
    for number, text in enumerate(("busy", "one", "two")):
        params = {**message(text, f"m{number}", contextId="s"), "configuration": {"returnImmediately": True}}
        assert "result" in call(server, "SendMessage", params).json()
    for method in ("SendMessage", "message/send"):
        refused = call(server, method, message("three", "m3", contextId="s"))
        error = refused.json()["error"]
        assert (error["code"], refused.headers["retry-after"]) == (-32000, "1")
        info = error["data"] if method == "message/send" else error["data"][0]["metadata"]
        assert (info["code"], str(info["position"])) == ("queue_full", "3")
