"""Any server of a cluster answers for any session: installed servers on one PostgreSQL, clients of the wrong one."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, texts, until
from postgres_support import lease_of

AGENT = TARGETS / "agent.py"
LEASE_MS = 6_000
"""Longer than a busy machine keeps a process waiting: who has a session is for the test to decide."""
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@contextmanager
def two(
    at: Checkpoints,
    database: str,
    folder: Path,
    *,
    target: Path = AGENT,
    flags: Sequence[Sequence[str]] = ((), ()),
) -> Iterator[tuple[Server, Server]]:
    """Have two servers that own about half of the sessions each, with flags of their own."""
    lease_of(database, LEASE_MS)
    both = [Server(target, *own, folder=folder, journal=database, variables=at.environment) for own in flags]
    try:
        for each in both:
            each.start()
        until(lambda: min(partitions(each) for each in both) > 64, "both have a share")
        yield both[0], both[1]
    finally:
        for each in both:
            each.close()
            print(f"the log of the server at {each.url}:\n{each.stderr}")  # noqa: T201 (shown if the test fails)


def partitions(server: Server) -> int:
    return int(server.health()["cluster"]["partitions"])


def accepted(server: Server) -> int:
    """Return how many runs a server has accepted as their owner."""
    found = re.search(r"^strandline_runs_accepted_total (\d+)", server.client.get("/metrics").text, re.M)
    assert found is not None
    return int(found[1])


def sessions_of(owner: Server, other: Server, most: int = 2) -> list[str]:
    """Return sessions of one of two servers; the other one is asked."""
    found: list[str] = []
    for number in range(200):
        before = accepted(owner)
        assert other.chat("hello", f"s{number}")["status"] == "success"
        if accepted(owner) > before:
            found.append(f"s{number}")
        if len(found) == most:
            return found
    raise AssertionError("it owns nothing")


class Confined(Server):
    """A server that may open few files."""

    def command(self) -> list[str]:
        return ["sh", "-c", 'ulimit -n 1024 && exec "$0" "$@"', *super().command()]


def test_a_server_beside_others_takes_so_many_clients_that_it_can_pass_on_all_their_requests(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """Each takes a connection to another server besides, and others send as many."""
    server = Confined(AGENT, folder=tmp_path, journal=database, variables=at.environment)
    try:
        server.start()
        assert "at most 222 connections instead of 12000" in server.stderr
    finally:
        server.close()


def test_every_session_is_served_by_every_server(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path) as (first, second):
        for number in range(8):
            for turn, server in enumerate((first, second, first)):
                answer = server.chat(f"q{turn} a", f"t{number}")
                assert answer["response"] == f"q{turn}: did a", answer
        for number in range(8):
            for server in (first, second):
                assert texts(server.history(f"t{number}"), "user") == ["q0 a", "q1 a", "q2 a"]
                assert server.client.get(f"/v1/sessions/t{number}").json()["messages"] == 12
        assert [accepted(first) > 0, accepted(second) > 0] == [True, True]
        assert accepted(first) + accepted(second) == 24
        listed = [server.client.get("/v1/runs", params={"limit": 50}).json()["runs"] for server in (first, second)]
        assert [each["run_id"] for each in listed[0]] == [each["run_id"] for each in listed[1]]
        assert len(listed[0]) == 24


def test_any_server_answers_for_any_response(at: Checkpoints, database: str, tmp_path: Path) -> None:
    """One that begins a conversation is the server's own that was asked; all others are passed on."""

    def ask(server: Server, **body: Any) -> dict[str, Any]:
        response = server.client.post("/v1/responses", json=body)
        assert response.status_code == 200, response.text
        return dict(response.json())

    with two(at, database, tmp_path) as (first, second):
        for server, other in ((first, second), (second, first)) * 3:
            before = accepted(server)
            said = ask(server, input="q1 a")
            assert accepted(server) == before + 1
            where = f"/v1/responses/{said['id']}"
            assert other.client.get(where).json() == said
            events = [each.client.get(f"{where}?stream=true").text for each in (server, other)]
            assert events[0] == events[1]
            rest = other.client.get(f"{where}?stream=true&starting_after=5").text.partition("\n\n")[2]
            assert 0 < len(rest) < len(events[0])
            assert events[0].endswith(rest)
            more = ask(other, input="q2", previous_response_id=said["id"])
            assert more["conversation"] == said["conversation"]
            assert accepted(server) == before + 2
            assert other.client.post(f"{where}/cancel").json() == said
            keyed = [
                each.client.post("/v1/responses", json={"input": "q3"}, headers={"Idempotency-Key": said["id"]}).json()
                for each in (server, other)
            ]
            assert keyed[0] == keyed[1]


def test_any_server_says_who_said_what_and_which_run_left_it(at: Checkpoints, database: str, tmp_path: Path) -> None:
    flags = ("--trusted-senders",)
    with two(at, database, tmp_path, flags=(flags, flags)) as (first, second):
        (session,) = sessions_of(first, second, 1)
        ada = {"id": "U1", "name": "Ada"}
        body = {"session_id": session, "message": "hi", "sender": ada}
        run_id = second.client.post("/chat", json=body).json()["run_id"]
        for server in (first, second):
            assert server.client.get(f"/v1/runs/{run_id}").json()["sender"] == ada
            shown = server.client.get(f"/v1/sessions/{session}/history").json()["messages"][-2:]
            assert [(each["index"], each["run_id"], each["sender"]) for each in shown] == [
                (2, run_id, ada),
                (3, run_id, None),
            ]


def test_a_client_of_another_server_is_answered_although_the_owner_is_killed(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    with two(at, database, tmp_path) as (first, second):
        chats, streams = sessions_of(second, first)
        at.hold("c model 1", "e model 1")
        answer = first.ask("c a", chats)
        with first.client.stream(
            "POST", f"/v1/sessions/{streams}/runs", json={"input": "e a"}, headers=STREAM, timeout=60
        ) as stream:
            lines = stream.iter_lines()
            seen = [following(lines)]
            at.reached("c model 1", "e model 1")
            second.kill()
            at.release()
            while seen[-1]["type"] != "run.finished":
                seen.append(following(lines))
        assert answer.result().json()["response"] == "c: did a"
        types = [each["type"] for each in seen]
        assert types.count("run.restarted") == 1
        assert seen[-1]["output"] == "e: did a"
        ids = [each["id"] for each in seen if "id" in each]
        assert ids == sorted(set(ids))
        assert sorted(step for step in at.steps if step in ("c a", "e a")) == ["c a", "e a"]


def test_a_client_of_another_server_is_answered_although_the_owner_stops(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    with two(at, database, tmp_path) as (first, second):
        executing, waiting = sessions_of(second, first)
        at.hold("c model 1", "w model 0")
        answers = [first.ask("c a", executing), first.ask("w", waiting), first.ask("x", waiting)]
        at.reached("c model 1", "w model 0")
        second.terminate()
        until(lambda: "draining" in second.client.get("/readyz").text, "it stops")
        late = first.ask("y", waiting)
        at.release()
        assert second.ended() == 0
        assert [each.result().json()["response"] for each in answers] == ["c: did a", "w", "x"]
        assert late.result().json()["response"] == "y"


def test_a_server_that_stops_answers_its_clients_whose_runs_are_elsewhere(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    with two(at, database, tmp_path) as (first, second):
        (session,) = sessions_of(second, first, most=1)
        at.hold("c model 0")
        waiting = first.ask("c", session)
        at.reached("c model 0")
        first.terminate()
        answer = waiting.result()
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert first.ended() == 0
        at.release()
        assert second.run(answer.json()["run_id"], wait_s=30)["output"] == "c"
        assert "Traceback" not in first.stderr + second.stderr


def following(lines: Iterator[str]) -> dict[str, Any]:
    """Return the next event of a stream."""
    found: dict[str, Any] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            found["id"] = int(value)
        elif name == "data":
            found |= json.loads(value)
        elif not line and "type" in found:
            return found
    raise AssertionError("the stream ended")


def test_the_inner_listener_of_a_server_says_nothing_to_others(at: Checkpoints, database: str, tmp_path: Path) -> None:
    import psycopg

    with two(at, database, tmp_path):
        with psycopg.connect(database) as connection:
            addresses = [address for (address,) in connection.execute("SELECT address FROM servers WHERE alive")]
        assert len(set(addresses)) == 2
        for address in addresses:
            for path in ("/chat", "/health", "/forward", "/metrics"):
                answer = httpx.post(f"http://{address}{path}", content=b"{}", trust_env=False)
                assert (answer.status_code, answer.content) == (403, b"")


def test_a_stream_in_openais_format_breaks_off_when_its_server_is_killed_and_the_answer_is_in_history(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    with two(at, database, tmp_path) as (first, second):
        (session,) = sessions_of(second, first, most=1)
        at.hold("o model 1")
        body = {"model": "x", "user": session, "stream": True, "messages": [{"role": "user", "content": "o a"}]}
        with first.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if "Round 0." in line)
            at.reached("o model 1")
            second.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        at.release()
        runs = first.client.get(f"/v1/sessions/{session}/runs").json()["runs"]
        assert first.run(runs[0]["run_id"], wait_s=30)["output"] == "o: did a"
        assert at.steps.count("o a") == 1
        assert "Traceback" not in first.stderr


def test_a_request_that_meets_the_owner_at_its_limit_of_connections_is_sent_again(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """What the owner's listener says then is no answer to a client, whose protocol it does not know."""
    with two(at, database, tmp_path, flags=((), ("--max-connections", "1"))) as (first, second):
        busy, other = sessions_of(second, first)
        at.hold("c model 1")
        answer = first.ask("c a", busy)
        at.reached("c model 1")
        body = {"model": "any", "user": other, "messages": [{"role": "user", "content": "d"}]}
        openai = first.submit(first.client.post, "/v1/chat/completions", json=body)
        until(lambda: refused_connections(second) > 0, "it is refused")
        at.release()
        assert answer.result().json()["response"] == "c: did a"
        assert openai.result().status_code == 200, openai.result().text
        assert openai.result().json()["choices"][0]["message"]["content"] == "d"


def refused_connections(server: Server) -> int:
    text = server.client.get("/metrics").text
    found = re.search(r'^strandline_connections_cut_total\{reason="no_connection_left"\} (\d+)', text, re.M)
    return 0 if found is None else int(found[1])


def test_a_run_that_steers_through_another_server_reaches_the_agent_of_the_owner(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """It joins there, is shown at both, and its events come through the server of its client."""
    target = TARGETS / "steered.py"
    with two(at, database, tmp_path, target=target) as (owner, other):
        (session,) = sessions_of(owner, other, 1)
        at.hold("q a")
        host = owner.client.post(f"/v1/sessions/{session}/runs", json={"input": "plan q a"}).json()
        at.reached("q a")
        body = {"input": "be brief", "if_busy": "steer", "expected_run_id": host["run_id"]}
        joined = other.client.post(f"/v1/sessions/{session}/runs", json=body)
        assert (joined.status_code, joined.json()["join"]) == (202, "pending"), joined.text
        run_id = joined.json()["run_id"]
        at.release()
        with other.client.stream("GET", f"/v1/runs/{run_id}/events", headers=STREAM) as stream:
            kinds = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
        assert kinds[:2] == ["run.queued", "run.joined"]
        assert kinds.count("run.finished") == 1
        for server in (owner, other):
            run = server.run(run_id)
            assert (run["status"], run["output"], run["joined"]) == ("succeeded", "q: be brief", host["run_id"])
        late = other.client.post(f"/v1/sessions/{session}/runs", json=body)
        assert (late.status_code, late.json()["code"]) == (409, "not_running")
