"""Runs that crashed in a tool, and go on with what a person found out about it: at real servers, after real kills."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving, texts, tool_results
from acceptance.test_any_server import sessions_of, two
from acceptance.test_workers import workers
from docs.page_table import claimed
from strandline._history import UNKNOWN_OUTCOME

AGENT = TARGETS / "agent.py"
SAID = "(After a crash anonymous checked this tool call: it had taken effect.)"
AGAIN = "(After a crash anonymous checked this tool call: it had done nothing, and was started again.)"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def crashed_in(server: Server, at: Checkpoints, question: str, *tools: str, session_id: str = "default") -> str:
    """Have a server die while tools execute, and start it again; return the id of the run."""
    for tool in tools:
        at.hold(tool)
    server.ask(question, session_id)
    for tool in tools:
        at.reached(tool)
    server.wait_until_stored()
    server.kill()
    at.release()
    server.start()
    server.quiet()
    return next(run.run_id for run in reversed(server.stored()) if run.session_id == session_id)


def open_tools(server: Server, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get(f"/v1/runs/{run_id}/resolve").raise_for_status().json()["tools"]
    return found


def resolve(server: Server, run_id: str, *tools: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"Prefer": "wait=20", **headers}
    return server.client.post(f"/v1/runs/{run_id}/resolve", json={"tools": tools}, headers=headers)


def test_a_crashed_run_goes_on_with_what_a_person_found_out(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment, installed=True) as server:
        server.chat("before")
        run_id = crashed_in(server, at, "pay a b+~c d", "pay b")
        assert server.run(run_id)["error"]["code"] == "crashed"
        (tool,) = open_tools(server, run_id)
        assert (tool["name"], tool["input"]) == ("work", {"label": "pay", "name": "b"})
        done = {"tool_use_id": tool["tool_use_id"], "outcome": "done", "result": "did b, as the bank says"}
        assert resolve(server, run_id, {**done, "tool_use_id": "other"}).status_code == 422
        missing = resolve(server, run_id)
        assert (missing.status_code, tool["tool_use_id"] in missing.json()["detail"]) == (422, True)

        answer = resolve(server, run_id, done, **{"Idempotency-Key": '"once"'})
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"] == f"pay: did a, did b, as the bank says, {SAID}, did ~c, did d"
        assert answer.headers["Location"] == f"/v1/runs/{answer.json()['run_id']}"
        assert resolve(server, run_id, done, **{"Idempotency-Key": '"once"'}).json() == answer.json()

        messages = server.history()
        assert texts(messages, "user") == ["before", "pay a b+~c d"]
        assert tool_results(messages) == ["did a", f"did b, as the bank says{SAID}", "did ~c", "did d"]
        steps = [step for step in at.steps if step.startswith("pay") and " model " not in step]
        assert sorted(step for step in steps if not step.endswith("ended")) == ["pay a", "pay b", "pay d", "pay ~c"]

        again = resolve(server, run_id, done)
        assert (again.status_code, again.json()["code"]) == (409, "not_resolvable")
        assert server.client.get(f"/v1/runs/{run_id}/resolve").status_code == 409
        assert server.run(run_id)["status"] == "failed"
        kept = server.client.get("/v1/sessions/default/history?superseded=true").json()["messages"]
        assert [each["superseded"] for each in kept].count(True) == 6
        assert UNKNOWN_OUTCOME in str(kept)
        assert server.chat("after")["response"] == "after"


def test_a_resolved_run_is_made_again_from_where_the_crashed_one_began(at: Checkpoints, tmp_path: Path) -> None:
    """Both may be named: each time the tools start anew, and what the resolved run had said is superseded."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        server.chat("before")
        crashed = crashed_in(server, at, "pay a b+~c d", "pay b")
        (tool,) = open_tools(server, crashed)
        resolved = resolve(server, crashed, {"tool_use_id": tool["tool_use_id"], "outcome": "done"}).json()
        for named in (resolved["run_id"], crashed):
            again = server.client.post(f"/v1/runs/{named}/again", headers={"Prefer": "wait=20"})
            assert again.status_code == 200, again.text
            assert again.json()["output"] == "pay: did a, did b, did ~c, did d"
            assert texts(server.history(), "user") == ["before", "pay a b+~c d"]
            assert server.client.get(f"/v1/runs/{crashed}/resolve").status_code == 409
        assert at.steps.count("pay b") == 3
        restored = server.client.post(f"/v1/runs/{resolved['run_id']}/restore")
        assert restored.status_code == 200, restored.text
        assert SAID in str(server.client.get("/v1/sessions/default/history").json()["messages"])


def test_a_run_that_is_cancelled_while_it_waits_ends_no_chance(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run_id = crashed_in(server, at, "pay a b+~c d", "pay b")
        server.client.post("/v1/sessions/default/pause").raise_for_status()
        waiting = server.client.post("/v1/sessions/default/runs", json={"input": "late"}).raise_for_status().json()
        server.client.post(f"/v1/runs/{waiting['run_id']}/cancel").raise_for_status()
        server.client.post("/v1/sessions/default/resume").raise_for_status()
        (tool,) = open_tools(server, run_id)
        answer = resolve(server, run_id, {"tool_use_id": tool["tool_use_id"], "outcome": "done"})
        assert answer.status_code == 200, answer.text
        assert texts(server.history(), "user") == ["pay a b+~c d"]


def test_a_run_is_resolved_by_what_the_reference_sends(at: Checkpoints, tmp_path: Path) -> None:
    (block,) = claimed("reference.md", "test_a_run_is_resolved_by_what_the_reference_sends")
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run_id = crashed_in(server, at, "pay a b+~c d", "pay b", "pay ~c")
        sent = block.text
        for number, tool in enumerate(open_tools(server, run_id), 1):
            sent = sent.replace(f'"call_{number}"', f'"{tool["tool_use_id"]}"')
        headers = {"Prefer": "wait=20", "Content-Type": "application/json"}
        answer = server.client.post(f"/v1/runs/{run_id}/resolve", content=sent, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"] == f"pay: did a, booked, {SAID}, did ~c, {AGAIN}, did d"
        assert (at.steps.count("pay b"), at.steps.count("pay ~c")) == (1, 2)


def test_a_tool_that_had_done_nothing_starts_again_however_often_the_server_dies(
    at: Checkpoints, tmp_path: Path
) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run_id = crashed_in(server, at, "pay a b+~c d", "pay b")
        for _ in range(2):
            (tool,) = open_tools(server, run_id)
            at.hold("pay b")
            begun = at.steps.count("pay b")
            resolve(server, run_id, {"tool_use_id": tool["tool_use_id"], "outcome": "not_done"}, Prefer="wait=0")
            at.reached("pay b", times=begun + 1)
            server.wait_until_stored()
            server.kill()
            at.release()
            server.start()
            server.quiet()
            assert tool_results(server.history())[:2] == ["did a", UNKNOWN_OUTCOME]
            run_id = next(run.run_id for run in reversed(server.stored()) if run.session_id == "default")
        (tool,) = open_tools(server, run_id)
        answer = resolve(server, run_id, {"tool_use_id": tool["tool_use_id"], "outcome": "not_done"}).json()
        assert answer["output"] == f"pay: did a, did ~c, did b, {AGAIN}, did d"
        assert at.steps.count("pay b") == 4
        assert at.steps.count("pay a") == at.steps.count("pay ~c") == at.steps.count("pay d") == 1
        assert texts(server.history(), "user") == ["pay a b+~c d"]


def test_a_resolved_run_that_waits_survives_a_kill_and_keeps_its_place(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run_id = crashed_in(server, at, "pay a b", "pay b")
        (tool,) = open_tools(server, run_id)
        server.client.post("/v1/sessions/default/pause").raise_for_status()
        server.client.post("/v1/sessions/default/runs", json={"input": "next", "priority": 1}).raise_for_status()
        done = {"tool_use_id": tool["tool_use_id"], "outcome": "done"}
        accepted = resolve(server, run_id, done, Prefer="wait=0")
        assert (accepted.status_code, accepted.json()["position"]) == (202, 1)
        server.kill()
        server.start()
        assert resolve(server, run_id, done).status_code == 409
        server.client.post("/v1/sessions/default/resume").raise_for_status()
        server.quiet()
        assert server.run(accepted.json()["run_id"])["output"] == f"pay: did a, {SAID}"
        assert texts(server.history(), "user") == ["pay a b", "next"]


def test_a_run_that_others_had_joined_goes_on_with_what_they_said(at: Checkpoints, tmp_path: Path) -> None:
    """They have ended with the crashed run, and nothing more becomes of them."""
    with serving(TARGETS / "steered.py", folder=tmp_path, variables=at.environment) as server:
        at.hold("q a", "q b")
        host = server.client.post("/v1/sessions/s/runs", json={"input": "plan q a b c"}).json()
        at.reached("q a")
        steer = {"input": "be brief", "if_busy": "steer"}
        joined = server.client.post("/v1/sessions/s/runs", json=steer).json()
        at.release("q a")
        at.reached("q b")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        before = server.run(joined["run_id"], 30)
        assert (before["join"], before["error"]["code"]) == ("applied", "crashed")
        (tool,) = open_tools(server, host["run_id"])
        answer = resolve(server, host["run_id"], {"tool_use_id": tool["tool_use_id"], "outcome": "not_done"})
        assert answer.json()["output"] == "q: be brief"
        assert server.run(joined["run_id"]) == before
        assert "\n".join(texts(server.history("s"), "user")).count("be brief") == 1
        assert at.steps.count("q b") == 2


def test_a_run_goes_on_with_the_metadata_that_it_had(at: Checkpoints, tmp_path: Path) -> None:
    """Also if it was too much for one request, as some is that of its session, and came from AgentCore Runtime."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        server.chat("before", "s")
        options = {"metadata": {"of_session": "x" * 16_000}}
        server.client.patch("/v1/sessions/s", json={"options": options}).raise_for_status()
        at.hold("pay b")
        headers = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "s", "X-Amzn-Trace-Id": "t"}
        body = {"prompt": "pay b", "metadata": {"own": "y" * 1_000}}
        server.submit(server.client.post, "/invocations", json=body, headers=headers)
        at.reached("pay b")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        server.quiet()
        crashed = server.run(server.stored()[-1].run_id)
        assert sorted(crashed["metadata"]) == ["agentcore", "of_session", "own"]
        (tool,) = open_tools(server, crashed["run_id"])
        answer = resolve(server, crashed["run_id"], {"tool_use_id": tool["tool_use_id"], "outcome": "done"})
        assert (answer.status_code, answer.json().get("metadata")) == (200, crashed["metadata"]), answer.text


def test_what_cannot_be_resolved_says_so(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        fine = server.client.post("/v1/sessions/s/runs", json={"input": "fine"}, headers={"Prefer": "wait=20"}).json()
        done = {"tool_use_id": "t", "outcome": "done"}
        assert resolve(server, fine["run_id"], done).json()["code"] == "not_resolvable"
        assert resolve(server, "run_none", done).status_code == 404
        assert server.client.get("/v1/runs/run_none/resolve").status_code == 404
        run_id = crashed_in(server, at, "pay b", "pay b")
        (tool,) = open_tools(server, run_id)
        told = {"tool_use_id": tool["tool_use_id"], "outcome": "not_done", "result": "x"}
        assert "so it has no result" in resolve(server, run_id, told).json()["detail"]
        twice = {**told, "outcome": "done"}
        assert "each tool once" in resolve(server, run_id, twice, twice).json()["detail"]
        assert resolve(server, run_id, {**told, "outcome": "perhaps"}).status_code == 422
        server.chat("it went on")
        assert resolve(server, run_id, twice).json()["code"] == "not_resolvable"
        assert texts(server.history(), "user") == ["pay b", "it went on"]


def test_a_run_that_a_worker_process_took_with_it_goes_on_too(at: Checkpoints, tmp_path: Path) -> None:
    server = Server(AGENT, "--workers", "2", folder=tmp_path, variables=at.environment)
    server.start()
    try:
        at.hold("pay b")
        pending = server.ask("pay a b")
        at.reached("pay b")
        for worker in workers(server):
            os.kill(worker, signal.SIGKILL)
        assert pending.result().json()["error_code"] == "crashed"
        workers(server)
        at.release()
        run_id = server.stored()[-1].run_id
        (tool,) = open_tools(server, run_id)
        done = {"tool_use_id": tool["tool_use_id"], "outcome": "done"}
        assert resolve(server, run_id, done).json()["output"] == f"pay: did a, {SAID}"
        assert at.steps.count("pay a") == at.steps.count("pay b") == 1
    finally:
        server.close()


def test_any_server_resolves_a_run_of_any_other_one(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path) as (one, other):
        (session_id,) = sessions_of(one, other, most=1)
        assert other.chat("pay a ~^b", session_id)["error_code"] == "crashed"
        one.ended()
        one.start()
        run_id = other.client.get(f"/v1/sessions/{session_id}/runs").json()["runs"][0]["run_id"]
        (tool,) = open_tools(one, run_id)
        assert open_tools(other, run_id) == [tool]
        done = {"tool_use_id": tool["tool_use_id"], "outcome": "done", "result": {"sum": 5}}
        answer = resolve(one, run_id, done)
        assert answer.status_code == 200, answer.text
        assert [resolve(each, run_id, done).status_code for each in (one, other)] == [409, 409]
        assert texts(one.history(session_id), "user")[-1] == "pay a ~^b"
        assert {"json": {"sum": 5}} in one.history(session_id)[-2]["content"][0]["toolResult"]["content"]
        assert one.history(session_id) == other.history(session_id)
