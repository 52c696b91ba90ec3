"""The run API over real HTTP: runs that are submitted and read later, and lists of runs and sessions."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from strandline.client import Client

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("runs")
    flags = ("--max-queued-per-session", "6", "--on-failure", "drop")
    with serving(AGENT, *flags, folder=folder, variables=at.environment) as made:
        yield made


def ask(
    server: Server, session_id: str, prompt: Any, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    path = f"/v1/sessions/{session_id}/runs"
    return server.client.post(path, json={"input": prompt, **body}, headers=headers)


def get(server: Server, path: str, **query: Any) -> dict[str, Any]:
    answer = server.client.get(f"/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def pages(server: Server, path: str, what: str, **query: Any) -> list[dict[str, Any]]:
    """Return all that is listed, page by page."""
    found: list[dict[str, Any]] = []
    page = get(server, path, **query)
    while True:
        found += page[what]
        if page["next_cursor"] is None:
            return found
        page = get(server, path, **query, cursor=page["next_cursor"])


def test_a_run_is_accepted_and_read_later(server: Server, at: Checkpoints) -> None:
    at.hold("a1 model 0")
    answer = ask(server, "later", "a1", metadata={"from": "test"}, priority=2)
    assert answer.status_code == 202, answer.text
    run = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{run['run_id']}"
    assert (run["session_id"], run["priority"], run["metadata"]) == ("later", 2, {"from": "test"})
    assert run["status"] in ("queued", "running")
    at.reached("a1 model 0")
    waits = server.client.get(answer.headers["location"], headers={"Prefer": "wait=0"})
    assert (waits.status_code, waits.json()["status"]) == (200, "running")
    at.release()
    ended = server.client.get(answer.headers["location"], headers={"Prefer": "wait=20"}).json()
    assert (ended["status"], ended["output"]) == ("succeeded", "a1")


def test_a_client_that_prefers_to_wait_gets_the_ended_run(server: Server, at: Checkpoints) -> None:
    answer = ask(server, "waits", "b1", {"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["status"], answer.json()["output"]) == (200, "succeeded", "b1")
    assert answer.headers["preference-applied"] == "wait=20"
    at.hold("b2 model 0")
    answer = ask(server, "waits", "b2", {"Prefer": "wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")
    assert answer.headers["location"] == f"/v1/runs/{answer.json()['run_id']}"


def test_a_run_under_a_key_is_attached_to_and_replayed(server: Server, at: Checkpoints) -> None:
    at.hold("c1 model 0")
    first = ask(server, "keyed", "c1", {"Idempotency-Key": "k"})
    second = ask(server, "keyed", "c1", {"Idempotency-Key": '"k"'})
    assert [first.status_code, second.status_code] == [202, 202]
    assert second.json()["run_id"] == first.json()["run_id"]
    at.release()
    third = ask(server, "keyed", "c1", {"Idempotency-Key": "k", "Prefer": "wait=20"})
    assert (third.status_code, third.json()["output"]) == (200, "c1")
    fourth = ask(server, "keyed", "c1", {"Idempotency-Key": "k"})
    assert (fourth.status_code, fourth.json()["output"]) == (200, "c1")
    assert fourth.headers["idempotency-replayed"] == "true"
    other = ask(server, "keyed", "c1", {"Idempotency-Key": "k"}, priority=1)
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")
    chat = {"message": "c1", "session_id": "keyed"}
    other = server.client.post("/chat", json=chat, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "key_reused")


def test_priority_is_the_order_of_a_queue(server: Server, at: Checkpoints) -> None:
    at.hold("p0 model 0")
    ask(server, "urgent", "p0")
    at.reached("p0 model 0")
    runs = [ask(server, "urgent", f"p{priority}", priority=priority).json() for priority in (5, 1, 3, 2)]
    chat = server.submit(
        server.client.post, "/chat", json={"message": "p4", "session_id": "urgent", "priority": 4, "metadata": {"a": 1}}
    )
    assert [run["position"] for run in runs] == [1, 1, 2, 2]
    until(lambda: server.health()["queue_depth"] == 5, "all of them waiting")
    at.release()
    answered = chat.result(DEADLINE_S).json()
    assert server.run(answered["run_id"])["metadata"] == {"a": 1}
    server.client.get(f"/v1/runs/{runs[0]['run_id']}", headers={"Prefer": "wait=20"})
    assert texts(server.history("urgent"), "user") == ["p0", "p1", "p2", "p3", "p4", "p5"]


def test_a_run_for_a_later_time_lets_others_pass_and_starts_then(server: Server) -> None:
    """At every route that takes a run, in any time zone; also with a client, which gets the time back."""
    at = datetime.now(UTC) + timedelta(days=400)
    late = ask(server, "delayed", "late", not_before=at.isoformat()).json()
    assert (late["status"], late["position"], late["why"]["code"]) == ("queued", 1, "delayed")
    assert datetime.fromisoformat(late["not_before"]) == at
    soon = datetime.now(timezone(timedelta(hours=5))) + timedelta(seconds=1)
    body = {"session_id": "delayed", "message": "soon", "not_before": soon.isoformat()}
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(server.client.post, "/chat", json=body, timeout=DEADLINE_S)
        now = ask(server, "delayed", "now", {"Prefer": "wait=20"}).json()
        chat = waits.result(DEADLINE_S).json()
    run = get(server, f"runs/{chat['run_id']}")
    assert (now["status"], chat["response"]) == ("succeeded", "soon")
    assert datetime.fromisoformat(run["started_at"]) >= soon
    assert get(server, f"runs/{late['run_id']}")["status"] == "queued"
    with Client(server.url) as client:
        given = datetime.now(UTC) + timedelta(seconds=0.2)
        done = client.chat("hello", "delayed", not_before=given)
        assert (done.output, done.not_before) == ("hello", given)
    refused = ask(server, "delayed", "x", not_before=at.isoformat(), if_busy="interrupt")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert ask(server, "delayed", "x", not_before="2036-01-01T09:00:00").status_code == 422
    assert server.client.post(f"/v1/runs/{late['run_id']}/cancel").json()["status"] == "cancelled"


@pytest.mark.parametrize("priority", ["2", "2.0", "2e0", "20E-1"])
def test_a_whole_number_may_be_written_in_all_ways_of_json(server: Server, priority: str) -> None:
    """JSON has one type of numbers, and programs whose language has one too may write 2.0."""
    json = {"Content-Type": "application/json"}
    session = f"whole-{priority}"
    body = f'{{"input": "w", "priority": {priority}}}'
    accepted = server.client.post(f"/v1/sessions/{session}/runs", content=body, headers=json)
    assert accepted.status_code == 202, accepted.text
    assert '"priority":2,' in accepted.text
    chat = f'{{"session_id": "{session}", "message": "w", "priority": {priority}}}'
    assert server.client.post("/chat", content=chat, headers=json).status_code == 200
    completion = f'{{"user": "{session}", "n": 1.0, "messages": [{{"role": "user", "content": "w"}}]}}'
    assert server.client.post("/v1/chat/completions", content=completion, headers=json).status_code == 200


def test_a_run_may_ask_for_less_time(server: Server, at: Checkpoints) -> None:
    at.hold("t0 model 0")
    ask(server, "times", "t0")
    at.reached("t0 model 0")
    answer = ask(server, "times", "t1", {"Prefer": "wait=20"}, queue_timeout=0.2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (200, "queue_timeout")
    assert ask(server, "times", "t2", timeout=100_000).status_code == 422


def test_content_blocks_are_an_input(server: Server) -> None:
    source = {"bytes": {"__bytes_encoded__": True, "data": base64.b64encode(b"\x89PNG").decode()}}
    blocks = [
        {"text": "d1"},
        {"image": {"format": "png", "source": source}},
        {"document": {"format": "pdf", "name": "report.pdf", "source": source}},
        {"video": {"format": "mp4", "source": source}},
    ]
    answer = ask(server, "blocks", blocks, {"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["output"]) == (200, "d1"), answer.text
    assert get(server, "sessions/blocks/history")["messages"][0] == {
        "index": 0, "run_id": answer.json()["run_id"], "role": "user", "content": blocks, "sender": None,
        "discarded": False, "superseded": False, "pending": False,
    }  # fmt: skip


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({}, "`input`"),
    "a number": ({"input": 1}, "`input`"),
    "no blocks": ({"input": []}, "content block"),
    "no block": ({"input": ["text"]}, "`input`"),
    "two keys": ({"input": [{"text": "a", "image": {}}]}, "one key"),
    "a tool result": ({"input": [{"toolResult": {}}]}, "`toolResult`, which callers may not send"),
    "a text that is null": ({"input": [{"text": None}]}, "input[0].text must be a text"),
    "a cache point": ({"input": [{"text": "a"}, {"cachePoint": {"type": "default"}}]}, "allowed_content"),
    "what a guardrail looks at": ({"input": [{"guardContent": {"text": {"text": "a"}}}]}, "allowed_content"),
    "reasoning": ({"input": [{"reasoningContent": {"reasoningText": {"text": "a"}}}]}, "allowed_content"),
    "a file of the server's": (
        {"input": [{"image": {"format": "png", "source": {"location": {"type": "s3", "uri": "s3://a/b"}}}}]},
        "`location` is fetched only where",
    ),
    "base64 alone": ({"input": [{"image": {"format": "png", "source": {"bytes": "iVBO"}}}]}, "__bytes_encoded__"),
    "priority 0": ({"input": "a", "priority": 0}, "priority"),
    "priority 6": ({"input": "a", "priority": 6}, "priority"),
    "priority 2.5": ({"input": "a", "priority": 2.5}, "priority"),
    "priority true": ({"input": "a", "priority": True}, "priority"),
    "priority as a text": ({"input": "a", "priority": "2"}, "priority"),
    "metadata": ({"input": "a", "metadata": []}, "metadata"),
    "timeout": ({"input": "a", "timeout": -1}, "timeout"),
}


@pytest.mark.parametrize("name", WRONG)
def test_invalid_run_requests_are_refused(server: Server, name: str) -> None:
    body, expected = WRONG[name]
    answer = server.client.post("/v1/sessions/wrong/runs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert expected in answer.json()["detail"]
    assert get(server, "sessions/wrong/runs") == {"runs": [], "damaged": [], "next_cursor": None}
    assert server.client.get("/v1/sessions/wrong").status_code == 404


def test_a_full_queue_and_a_body_that_is_no_json(server: Server, at: Checkpoints) -> None:
    at.hold("f0 model 0")
    ask(server, "full", "f0")
    at.reached("f0 model 0")
    for number in range(6):
        assert ask(server, "full", f"f{number + 1}").status_code == 202
    answer = ask(server, "full", "over")
    assert (answer.status_code, answer.json()["code"], answer.json()["position"]) == (429, "queue_full", 7)
    assert int(answer.headers["retry-after"]) >= 1
    answer = server.client.post("/v1/sessions/full/runs", content='{"input": "x"}')
    assert (answer.status_code, answer.json()["code"]) == (415, "not_json")
    assert server.client.post("/v1/sessions/full/cancel").status_code == 200


# -- what is listed -----------------------------------------------------------------------------------


def test_the_runs_and_the_history_of_a_session(server: Server, at: Checkpoints) -> None:
    for text in ("l1", "l2 fail", "l3"):
        ask(server, "lists", text, {"Prefer": "wait=20"})
    at.hold("l4 model 0")
    for text in ("l4", "l5", "l6"):
        ask(server, "lists", text)
    at.reached("l4 model 0")
    runs = get(server, "sessions/lists/runs")["runs"]
    assert [run["status"] for run in runs] == ["queued", "queued", "running", "succeeded", "failed", "succeeded"]
    assert [run["position"] for run in runs] == [2, 1, None, None, None, None]
    assert [run["output"] for run in runs][3:] == ["l3", "", "l1"]
    for limit in (1, 2, 5):
        listed = pages(server, "sessions/lists/runs", "runs", limit=limit)
        assert [run["run_id"] for run in listed] == [run["run_id"] for run in runs]
    session = get(server, "sessions/lists")
    assert session == {
        "session_id": "lists", "messages": 6, "queue_depth": 2, "running": runs[2]["run_id"],
        "locked_by": None, "held": None,
        "paused": False,
        "input_requests": [],
        "input_until": None,
        "options": {},
        "why": {"code": "behind", "text": f"2 runs are behind {runs[2]['run_id']}, which executes"},
    }  # fmt: skip

    page = get(server, "sessions/lists/history", limit=3)
    assert [message["content"][0]["text"] for message in page["messages"]] == ["l3", "l3"], "hidden ones count, unseen"
    older = get(server, "sessions/lists/history", limit=3, cursor=page["next_cursor"])
    assert [message["content"][0]["text"] for message in older["messages"]] == ["l1", "l1"]
    assert older["next_cursor"] is None
    whole = get(server, "sessions/lists/history", discarded="true")["messages"]
    assert [message["discarded"] for message in whole] == [False, False, True, True, False, False]
    assert get(server, "sessions/nobody/history") == {"messages": [], "next_cursor": None}


def test_the_sessions(server: Server) -> None:
    for name in ("z.3", "z.1", "z.2"):
        ask(server, name, "s1", {"Prefer": "wait=20"})
    sessions = pages(server, "sessions", "sessions", limit=2)
    ids = [session["session_id"] for session in sessions]
    assert ids == sorted(ids)
    assert {"z.1", "z.2", "z.3"} <= set(ids)
    after = get(server, "sessions", cursor="z.1", limit=1)
    assert [session["session_id"] for session in after["sessions"]] == ["z.2"]


@pytest.mark.parametrize(
    "path",
    ["sessions?limit=0", "sessions?limit=1001", "sessions?limit=x", "sessions?cursor=a%20b", "sessions/s/runs?cursor=x",
     "sessions/s/history?cursor=-1", "sessions/s/history?discarded=maybe", "sessions/a%20b/runs"],
)  # fmt: skip
def test_what_cannot_be_listed(server: Server, path: str) -> None:
    server.chat("s", "s")
    answer = server.client.get(f"/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


def test_a_path_lists_all_its_methods(server: Server) -> None:
    answer = server.client.patch("/v1/sessions/s/runs")
    assert answer.status_code == 405
    assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "HEAD", "POST"}


def test_runs_of_all_sessions_are_listed_by_status(server: Server, at: Checkpoints) -> None:
    ended = [ask(server, f"all-{number}", f"e{number}").json()["run_id"] for number in range(3)]
    for run_id in ended:
        server.run(run_id, wait_s=20)
    failed = ask(server, "all-0", "f0 a fail").json()["run_id"]
    server.run(failed, wait_s=20)
    at.hold("x0 model 0")
    executes = ask(server, "all-1", "x0").json()["run_id"]
    at.reached("x0 model 0")
    waits = [ask(server, "all-1", f"w{number}").json()["run_id"] for number in range(2)]

    def ids(limit: int = 100, **query: Any) -> list[str]:
        runs = pages(server, "runs", "runs", limit=limit, **query)
        return [each["run_id"] for each in runs if each["session_id"].startswith("all-")]

    for limit in (1, 2, 100):
        assert ids(limit, status="queued") == waits[::-1]
        assert (
            ids(limit, status="queued,running") == ids(limit, status=["running", "queued"]) == [*waits[::-1], executes]
        )
        assert ids(limit, status="failed") == [failed]
        assert ids(limit) == [*waits[::-1], executes, failed, *ended[::-1]]
    (second, first) = [each for each in get(server, "runs", status="queued")["runs"] if each["run_id"] in waits]
    assert (first["position"], second["position"]) == (1, 2)
    assert first == {**server.run(first["run_id"])}, "as each is by itself"
    assert first["why"]["code"] == "behind"
    with Client(server.url) as client:
        assert [run.run_id for run in client.runs(["queued", "running"])] == [*waits[::-1], executes]
        assert [run.run_id for run in client.runs("queued", limit=2)] == waits[::-1]
    for query, expected in [("status=done", "it must be among queued"), ("cursor=x", "cursor"), ("limit=0", "limit")]:
        refused = server.client.get(f"/v1/runs?{query}")
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
        assert expected in refused.json()["detail"]
