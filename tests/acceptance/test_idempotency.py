"""`Idempotency-Key` over real HTTP: a request that is sent again is answered by the run that it became, once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, refused, serving, texts

AGENT = TARGETS / "agent.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def ask(server: Server, message: str, key: str, session_id: str = "s", **more: Any) -> httpx.Response:
    body = {"message": message, "session_id": session_id, **more}
    return server.client.post("/chat", json=body, headers={"Idempotency-Key": key})


def test_a_request_that_is_sent_again_is_answered_again_and_done_once(at: Checkpoints, tmp_path: Path) -> None:
    """While it executes, when it has ended, and after a kill; the key bare or quoted, the body in any order."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        at.hold("q1 a")
        first = server.submit(ask, server, "q1 a", "k1")
        at.reached("q1 a")
        second = server.submit(ask, server, "q1 a", '"k1"')
        response = ask(server, "another", "k1")
        assert (response.status_code, response.json()["code"]) == (422, "key_reused")
        at.release()
        answers = [each.result(DEADLINE_S) for each in (first, second)]
        assert [answer.json()["response"] for answer in answers] == ["q1: did a"] * 2
        assert answers[0].json() == answers[1].json()
        assert "idempotency-replayed" not in answers[0].headers

        def replayed(content: str) -> httpx.Response:
            return server.client.post("/chat", content=content, headers={"Idempotency-Key": "k1"})

        again = replayed('{"session_id":"s",  "message":"q1 a"}')
        assert again.json() == answers[0].json()
        assert again.headers["idempotency-replayed"] == "true"
        assert replayed('{"session_id":"s","message":"q1 a","timeout":5}').status_code == 422
        server.wait_until_stored()
        server.kill()
        server.start()
        again = ask(server, "q1 a", "k1")
        assert (again.json(), again.headers["idempotency-replayed"]) == (answers[0].json(), "true")
        assert ask(server, "q1 a", "k1", "another").json()["run_id"] != answers[0].json()["run_id"]
        assert texts(server.history("s"), "user") == ["q1 a"]


def test_a_request_that_was_cut_off_by_a_kill_is_attached_to_its_run(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        at.hold("q1 model 1")
        server.submit(ask, server, "q1 a", "k1")
        at.reached("q1 model 1")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        answer = ask(server, "q1 a", "k1")
        assert answer.json()["response"] == "q1: did a"
        assert at.steps.count("q1 a") == 1
        assert len([run for run in server.stored() if run.session_id == "s"]) == 1


def test_a_key_while_the_server_stops(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("q1 model 0")
        first = server.submit(ask, server, "q1", "k1")
        at.reached("q1 model 0")
        (waiting,) = server.line_up_behind("w", "s")
        server.terminate()
        assert waiting.result(DEADLINE_S).status_code == 202
        second = server.submit(ask, server, "q1", "k1")
        response = ask(server, "q2", "k2")
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        at.release()
        assert [each.result(DEADLINE_S).json()["response"] for each in (first, second)] == ["q1", "q1"]
        assert server.ended() == 0


def test_a_key_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with serving(f"{TARGETS / 'function.py'}:answer", folder=tmp_path) as server:
        for key in (b"", b'"', b'"a', b"x" * 256, "ü".encode()):
            answer = server.client.post("/chat", content=b'{"message": "x"}', headers={b"Idempotency-Key": key})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), key
            assert "Idempotency-Key" in answer.json()["detail"]
        twice = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
        assert server.client.post("/chat", content=b'{"message": "x"}', headers=twice).status_code == 422
        assert server.stored() == []


def test_a_key_cannot_outlive_its_run(tmp_path: Path) -> None:
    message = refused(f"{TARGETS / 'function.py'}:answer", "--run-retention", "3600", folder=tmp_path)
    assert "run_retention is 3600 (--run-retention)" in message
    assert "idempotency_retention" in message
