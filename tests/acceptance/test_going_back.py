"""Conversations that go back: edited, replaced and restored runs, at real servers, over real kills."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving, texts, tool_results
from acceptance.test_any_server import sessions_of, two
from strandline._journal.verify import verify

AGENT = TARGETS / "agent.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def say(server: Server, text: str, session_id: str = "default", wait: int = 20, **options: Any) -> Any:
    """Have a run said to the end, and return it."""
    answer = sent(server, text, session_id, wait, **options)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def sent(server: Server, text: str, session_id: str = "default", wait: int = 20, **options: Any) -> httpx.Response:
    body = {"input": text, **options}
    return server.client.post(f"/v1/sessions/{session_id}/runs", json=body, headers={"Prefer": f"wait={wait}"})


def again(server: Server, run_id: str, wait: int = 20, headers: Any = None, **options: Any) -> httpx.Response:
    headers = {"Prefer": f"wait={wait}", **(headers or {})}
    return server.client.post(f"/v1/runs/{run_id}/again", json=options or None, headers=headers)


def restore(server: Server, run_id: str) -> httpx.Response:
    return server.client.post(f"/v1/runs/{run_id}/restore")


def users(server: Server, session_id: str = "default") -> list[str]:
    return texts(server.history(session_id), "user")


def superseded(server: Server, session_id: str = "default") -> list[str]:
    path = f"/v1/sessions/{session_id}/history?superseded=true&limit=1000"
    messages = server.client.get(path).raise_for_status().json()["messages"]
    return texts([each for each in messages if each["superseded"]], "user")


def test_a_conversation_is_edited_replaced_and_restored(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment, installed=True) as server:
        first = say(server, "one a")
        second = say(server, "two b")
        say(server, "three")
        assert "after" not in second
        edited = say(server, "two c", after=first["run_id"])
        assert edited["output"] == "two: did c"
        assert (edited["after"], edited["agent_state"]) == (first["run_id"], "restored")
        assert edited["superseded"][0] == second["run_id"]
        (effect,) = edited["effects"]
        assert (effect["run_id"], effect["name"]) == (second["run_id"], "work")
        assert users(server) == ["one a", "two c"]
        assert superseded(server) == ["two b", "three"]
        assert server.run(edited["run_id"])["effects"] == [effect]

        replaced = again(server, edited["run_id"], headers={"Idempotency-Key": '"k"'})
        assert (replaced.status_code, replaced.json()["again"]) == (200, edited["run_id"])
        assert replaced.json()["output"] == "two: did c"
        assert again(server, edited["run_id"], headers={"Idempotency-Key": '"k"'}).json() == replaced.json()
        assert at.steps.count("two c") == 2
        assert users(server) == ["one a", "two c"]
        assert tool_results(server.history()) == ["did a", "did c"]

        back = restore(server, second["run_id"])
        assert back.status_code == 200, back.text
        assert (back.json()["changed"], back.json()["superseded"]) == (True, [replaced.json()["run_id"]])
        assert [each["name"] for each in back.json()["effects"]] == ["work"]
        assert restore(server, second["run_id"]).json()["changed"] is False
        say(server, "four")
        assert users(server) == ["one a", "two b", "three", "four"]
        anew = say(server, "anew", after=None)
        assert (anew["after"], len(anew["superseded"])) == (None, 4)
        assert users(server) == ["anew"]
        assert at.steps.count("two b") == 1


def test_the_agent_has_what_it_had_then(at: Checkpoints, tmp_path: Path) -> None:
    """Also where it was kept in memory with what is superseded."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        first = say(server, "one")
        say(server, "two")
        seen = say(server, "history", after=first["run_id"])["output"]
        assert "two" not in seen
        restore(server, first["run_id"])
        server.kill()
        server.start()
        assert users(server) == ["one", "history"]


def test_a_session_that_is_not_at_rest_does_not_go_back(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        first = say(server, "one")
        at.hold("two a")
        under_way = say(server, "two a", wait=0)
        at.reached("two a")
        for refused in (
            sent(server, "x", after=first["run_id"]),
            again(server, first["run_id"]),
            again(server, under_way["run_id"]),
            restore(server, first["run_id"]),
        ):
            assert (refused.status_code, refused.json()["code"]) == (409, "session_busy"), refused.text
        at.hold("two ~b")
        edited = say(server, "two ~b", after=first["run_id"], if_busy="interrupt", wait=0)
        at.release("two a")
        at.reached("two ~b")
        assert server.run(under_way["run_id"])["status"] == "cancelled"
        assert [each["name"] for each in server.run(edited["run_id"])["effects"]] == ["work"]
        third = again(server, edited["run_id"], wait=0, if_busy="rollback")
        assert third.status_code == 202, third.text
        at.release()
        server.quiet()
        assert server.run(third.json()["run_id"])["output"] == "two: did ~b"
        assert users(server) == ["one", "two ~b"]


def test_a_later_run_does_not_start_before_one_that_goes_back(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment, installed=True) as server:
        first = say(server, "one")
        say(server, "two")
        assert server.client.post("/v1/sessions/default/pause").status_code == 200
        back = say(server, "edited two", wait=0, after=first["run_id"])
        later = say(server, "urgent", wait=0, priority=1)
        moved = server.client.patch(f"/v1/runs/{later['run_id']}", json={"priority": 1})
        assert moved.status_code == 200
        assert server.client.patch(f"/v1/runs/{back['run_id']}", json={"priority": 5}).json()["priority"] == 5
        stands = {each: server.client.get(f"/v1/runs/{each}").json() for each in (back["run_id"], later["run_id"])}
        assert [each["position"] for each in stands.values()] == [1, 2]
        assert stands[back["run_id"]]["superseded"], "it says beforehand what it will supersede"
        assert server.client.post("/v1/sessions/default/resume").status_code == 200
        assert server.run(later["run_id"], wait_s=20)["status"] == "succeeded"
        assert users(server) == ["one", "edited two", "urgent"]
        assert superseded(server) == ["two"]


def test_where_no_run_goes_back_to(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        first = say(server, "one")
        other = say(server, "other", "s2")
        assert sent(server, "x", after="run_none").status_code == 404
        assert sent(server, "x", after=other["run_id"]).status_code == 404
        assert again(server, "run_none").status_code == 404
        assert restore(server, "run_none").status_code == 404
        excluded: Any = ({"if_busy": "steer"}, {"on_question": "answer"}, {"not_before": "2040-01-01T00:00:00Z"})
        for options in excluded:
            assert sent(server, "x", after=first["run_id"], **options).status_code == 422
        assert sent(server, "x", after=5).status_code == 422
        assert again(server, first["run_id"], input="edited").status_code == 422, "it would have the old input"
        refused = again(server, first["run_id"], if_busy="steer")
        assert (refused.status_code, refused.json()["detail"].split()[0]) == (422, "again")
        asked = sent(server, "x", input={"responses": [{"id": "q", "response": 1}]}, after=first["run_id"])
        assert asked.status_code == 422
        server.client.post("/v1/sessions/s3/pause")
        at.hold("gone a")
        gone = say(server, "gone a", wait=0)
        at.reached("gone a")
        say(server, "next", wait=0, if_busy="rollback")
        at.release()
        server.quiet()
        refused = sent(server, "x", after=gone["run_id"])
        assert (refused.status_code, refused.json()["code"]) == (409, "cannot_go_back")
        assert users(server) == ["one", "next"]


def test_a_kill_before_the_claim_and_in_the_middle_of_the_branch_loses_nothing(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        first = say(server, "one")
        say(server, "two b")
        server.client.post("/v1/sessions/default/pause").raise_for_status()
        edited = say(server, "two c d", wait=0, after=first["run_id"])
        assert edited["status"] == "queued"
        server.kill()
        server.start()
        assert users(server) == ["one", "two b"]
        assert [each["name"] for each in server.run(edited["run_id"])["effects"]] == ["work"]
        at.hold("two model 2")
        server.client.post("/v1/sessions/default/resume").raise_for_status()
        at.reached("two model 2")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        server.quiet()
        assert server.run(edited["run_id"])["output"] == "two: did c, did d"
        assert users(server) == ["one", "two c d"]
        assert superseded(server) == ["two b"]
        assert (at.steps.count("two b"), at.steps.count("two c")) == (1, 1)
        server.close()
        assert verify(tmp_path / "journal.db").sound


def test_any_server_takes_a_conversation_back(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path) as (first, second):
        (session,) = sessions_of(first, second, 1)
        one = say(second, "one", session)
        two_b = say(second, "two b", session)
        edited = say(second, "two c", session, after=one["run_id"])
        assert (edited["superseded"], len(edited["effects"])) == ([two_b["run_id"]], 1)
        assert again(second, edited["run_id"]).json()["output"] == "two: did c"
        assert restore(second, two_b["run_id"]).json()["changed"] is True
        assert users(first, session)[-2:] == ["one", "two b"]
        at.hold("three a")
        under_way = say(second, "three a", session, wait=0)
        at.reached("three a")
        replaced = again(second, under_way["run_id"], wait=0, if_busy="interrupt").json()
        first.kill()
        at.release()
        assert second.run(replaced["run_id"], wait_s=60)["output"] == "three: did a"
        assert users(second, session)[-3:] == ["one", "two b", "three a"]


def test_workers_take_a_conversation_back(at: Checkpoints, tmp_path: Path) -> None:
    server = Server(AGENT, "--workers", "2", folder=tmp_path, variables=at.environment)
    server.start()
    try:
        first = say(server, "one")
        say(server, "two b")
        assert say(server, "two c", after=first["run_id"])["output"] == "two: did c"
        say(server, "three")
        assert users(server) == ["one", "two c", "three"]
    finally:
        server.close()
