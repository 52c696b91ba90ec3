"""What callers may do with runs that were accepted, over real HTTP: what was answered is true, also after a kill."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, tool_results, until
from strandline._history import UNKNOWN_OUTCOME

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"
EARLY = "(This run ended early: cancelled.)"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("control")
    with serving(AGENT, "--cancel-grace", "0.6", folder=folder, variables=at.environment) as made:
        yield made


def ids(server: Server, session_id: str) -> list[str]:
    """Return the ids of a session's runs, in order of acceptance."""
    server.wait_until_stored()
    return [run.run_id for run in server.stored() if run.session_id == session_id]


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    return server.client.post(f"/v1/{path}", json=body)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    return body


# -- pause and move --------------------------------------------------------------------------------


def test_a_session_is_paused_and_resumed(server: Server, at: Checkpoints) -> None:
    at.hold("p1 model 0")
    first, second = server.line_up("p1", "p2", session_id="paused")
    answer = post(server, "sessions/paused/pause")
    assert (answer.status_code, answer.json()["paused"], answer.json()["queue_depth"]) == (200, True, 1)
    at.release()
    assert first.result(DEADLINE_S).json()["response"] == "p1"
    assert server.chat("meanwhile", "another")["response"] == "meanwhile"
    assert "p2 model 0" not in at.steps
    answer = post(server, "sessions/paused/resume")
    assert (answer.status_code, answer.json()["paused"]) == (200, False)
    assert second.result(DEADLINE_S).json()["response"] == "p2"
    problem(post(server, "sessions/none/pause"), 404, "not_found")
    problem(post(server, "sessions/none/resume"), 404, "not_found")


def test_runs_are_moved(server: Server, at: Checkpoints) -> None:
    at.hold("m1 model 0")
    requests = server.line_up("m1", "m2", "m3", "m4", session_id="moved")
    run_ids = ids(server, "moved")
    answer = post(server, f"runs/{run_ids[3]}/move", front=True)
    assert (answer.status_code, answer.json()["position"]) == (200, 1)
    answer = post(server, f"runs/{run_ids[1]}/move", priority=5.0)
    assert (answer.json()["position"], answer.json()["priority"]) == (3, 5)
    problem(post(server, f"runs/{run_ids[0]}/move", front=True), 409, "too_late")
    for body in (
        {},
        {"front": True, "priority": 1},
        {"priority": 6},
        {"priority": 4.5},
        {"front": 1},
        {"front": False},
    ):
        problem(post(server, f"runs/{run_ids[2]}/move", **body), 422, "invalid")
    problem(post(server, "runs/none/move", front=True), 404, "not_found")
    at.release()
    assert [each.result(DEADLINE_S).json()["response"] for each in requests] == ["m1", "m2", "m3", "m4"]
    assert texts(server.history("moved"), "user") == ["m1", "m4", "m3", "m2"]
    problem(post(server, f"runs/{run_ids[3]}/move", front=True), 409, "already_ended")


def test_a_pause_and_a_place_survive_a_kill(tmp_path: Path) -> None:
    with checkpoints() as at, serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        at.hold("d1 model 0")
        server.line_up("d1", "d2", "d3", session_id="durable")
        run_ids = ids(server, "durable")
        assert post(server, f"runs/{run_ids[2]}/move", front=True).status_code == 200
        assert post(server, "sessions/durable/pause").status_code == 200
        server.kill()
        at.release()
        server.start()
        assert [server.run(each)["position"] for each in run_ids] == [1, 3, 2]
        assert server.client.get("/v1/sessions/durable").json()["paused"]
        assert post(server, "sessions/durable/resume").status_code == 200
        server.quiet()
        assert texts(server.history("durable"), "user") == ["d1", "d3", "d2"]


# -- edit ---------------------------------------------------------------------------------------------


def patch(server: Server, run_id: str, *, etag: str | None = None, **body: Any) -> httpx.Response:
    headers = {} if etag is None else {"If-Match": etag}
    return server.client.patch(f"/v1/runs/{run_id}", json=body, headers=headers)


def test_what_waits_is_edited(server: Server, at: Checkpoints) -> None:
    at.hold("e1 model 0")
    requests = server.line_up("e1", "e2", "e3", session_id="edited")
    run_ids = ids(server, "edited")
    seen = server.client.get(f"/v1/runs/{run_ids[1]}").headers["etag"]
    answer = patch(server, run_ids[1], etag=seen, input="e4", metadata={"k": 1}, priority=4.0)
    assert (answer.status_code, answer.json()["priority"], answer.json()["metadata"]) == (200, 4, {"k": 1})
    assert answer.json()["position"] == 2
    assert answer.headers["etag"] == server.client.get(f"/v1/runs/{run_ids[1]}").headers["etag"] != seen
    again = patch(server, run_ids[1], etag=seen, input="e4", metadata={"k": 1}, priority=4)
    assert again.status_code == 200, "its answer may have been lost"
    problem(patch(server, run_ids[1], etag=seen, input="e5"), 412, "changed_meanwhile")
    problem(patch(server, run_ids[1], etag=f"W/{answer.headers['etag']}", input="e5"), 412, "changed_meanwhile")
    assert patch(server, run_ids[1], etag=f'"other", {answer.headers["etag"]}', metadata={}).status_code == 200
    assert patch(server, run_ids[1], etag="*", metadata={"k": 2}).status_code == 200
    problem(patch(server, run_ids[0], input="e5"), 409, "too_late")
    problem(patch(server, "none", input="e5"), 404, "not_found")
    invalid: list[dict[str, Any]] = [
        {}, {"priority": 6}, {"input": []}, {"input": 5}, {"metadata": []}, {"if_busy": "reject"},
    ]  # fmt: skip
    for body in invalid:
        problem(patch(server, run_ids[1], **body), 422, "invalid")
    assert "etag" not in server.client.get(f"/v1/runs/{run_ids[0]}").headers, "it cannot be edited"
    at.release()
    assert [each.result(DEADLINE_S).json()["response"] for each in requests] == ["e1", "e4", "e3"]
    assert texts(server.history("edited"), "user") == ["e1", "e3", "e4"]
    problem(patch(server, run_ids[1], input="e5"), 409, "already_ended")
    events = server.client.get(f"/v1/runs/{run_ids[1]}/events", headers={"Accept": "text/event-stream"}).text
    changed = [json.loads(each) for each in re.findall(r"event: run\.changed\r?\ndata: (.*)", events)]
    assert [(each["changed"], each["priority"]) for each in changed] == [
        (["input", "metadata", "priority"], 4),
        (["metadata"], 4),
        (["metadata"], 4),
    ]


def test_an_edit_survives_a_kill_and_the_key_stands_for_what_was_sent(tmp_path: Path) -> None:
    with checkpoints() as at, serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        at.hold("k1 model 0")
        server.line_up("k1", session_id="keyed")
        sent: dict[str, Any] = {"json": {"input": "k2"}, "headers": {"Idempotency-Key": "k"}}
        run_id = server.client.post("/v1/sessions/keyed/runs", **sent).json()["run_id"]
        assert patch(server, run_id, input="k3").status_code == 200
        server.kill()
        at.release()
        server.start()
        assert server.client.post("/v1/sessions/keyed/runs", **sent).json()["run_id"] == run_id
        server.quiet()
        assert texts(server.history("keyed"), "user") == ["k1", "k3"]


# -- if_busy ------------------------------------------------------------------------------------------


def test_an_interrupt_and_a_rollback(server: Server, at: Checkpoints) -> None:
    first = server.submit(server.client.post, "/chat", json={"message": "i1 a ?b", "session_id": "busy"})
    at.reached("i1 ?b")
    refusal = problem(post(server, "sessions/busy/runs", input="no", if_busy="reject"), 409, "session_busy")
    assert "busy" in refusal["detail"]
    chat = {"message": "i2", "session_id": "busy", "if_busy": "interrupt"}
    assert server.client.post("/chat", json=chat).json()["response"] == "i2"
    assert first.result(DEADLINE_S).json()["error_code"] == "cancelled"
    assert texts(server.history("busy"), "user") == ["i1 a ?b", "i2"]
    at.hold("i3 c")
    third = server.submit(server.client.post, "/chat", json={"message": "i3 c", "session_id": "busy"})
    at.reached("i3 c")
    answer = post(server, "sessions/busy/runs", input="i4", if_busy="rollback")
    assert (answer.status_code, answer.json()["if_busy"], answer.json()["position"]) == (202, "rollback", 1)
    assert third.result(DEADLINE_S).json()["error_code"] == "cancelled"
    at.release()
    ended = server.client.get(answer.headers["location"], headers={"Prefer": "wait=20"}).json()
    assert (ended["status"], ended["output"]) == ("succeeded", "i4")
    assert texts(server.history("busy"), "user") == ["i1 a ?b", "i2", "i4"]
    page = server.client.get("/v1/sessions/busy/history", params={"discarded": "true"}).json()["messages"]
    assert texts([message for message in page if message["discarded"]], "user") == ["i3 c"]
    refusal = problem(post(server, "sessions/busy/runs", input="no", if_busy="shout"), 422, "invalid")
    assert "if_busy" in refusal["detail"]
    assert post(server, "sessions/idle/runs", input="i5", if_busy="reject").status_code == 202


# -- cancel -------------------------------------------------------------------------------------------


def test_a_waiting_run_is_cancelled_at_once_and_its_client_answered(server: Server, at: Checkpoints) -> None:
    at.hold("w1 model 0")
    first, second, third = server.line_up("w1", "w2", "w3", session_id="waits")
    run_ids = ids(server, "waits")
    answer = post(server, f"runs/{run_ids[1]}/cancel")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["status"], answer.json()["started_at"], answer.json()["phase"]) == ("cancelled", None, None)
    response = second.result(DEADLINE_S)
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["error_code"]) == ("error", "cancelled")
    assert server.run(run_ids[2])["position"] == 1
    at.release()
    assert [each.result(DEADLINE_S).json()["response"] for each in (first, third)] == ["w1", "w3"]
    assert texts(server.history("waits"), "user") == ["w1", "w3"]
    assert "w2 model 0" not in at.steps
    again = post(server, f"runs/{run_ids[1]}/cancel")
    assert (again.status_code, again.json()) == (200, answer.json())


def test_an_executing_run_is_cancelled_within_the_grace_and_keeps_what_it_did(server: Server, at: Checkpoints) -> None:
    """A tool that can be asked to end ends by itself, and its result is kept."""
    requests, behind = server.line_up("e1 a ?b", "e2", session_id="executes")
    at.reached("e1 ?b")
    run_id = ids(server, "executes")[0]
    answer = post(server, f"runs/{run_id}/cancel")
    assert answer.status_code == 202, answer.text
    assert answer.json()["cancel_requested"]
    body = requests.result(DEADLINE_S).json()
    assert (body["status"], body["error_code"], body["run_id"]) == ("error", "cancelled", run_id)
    assert server.run(run_id)["status"] == "cancelled"
    assert behind.result(DEADLINE_S).json()["response"] == "e2"
    messages = server.history("executes")
    assert tool_results(messages)[0] == "did a"
    assert texts(messages, "assistant")[-2:] == [EARLY, "e2"]
    again = post(server, f"runs/{run_id}/cancel")
    assert (again.status_code, again.json()) == (200, server.run(run_id))


def test_a_cancelled_run_whose_tool_heeds_nothing_holds_its_session_until_somebody_forces_it(
    server: Server, at: Checkpoints
) -> None:
    at.hold("h1 a")
    server.line_up("h1 a", session_id="held")
    at.reached("h1 a")
    run_id = ids(server, "held")[0]
    assert post(server, f"runs/{run_id}/cancel").status_code == 202
    until(lambda: server.run(run_id)["status"] == "cancelled", "it has ended")
    assert server.run(run_id)["held"]
    (behind,) = server.line_up_behind("h2", "held")
    again = post(server, f"runs/{run_id}/cancel")
    assert (again.status_code, again.json()["locks_session"]) == (200, True)
    answer = post(server, f"runs/{run_id}/cancel", force=True)
    assert answer.status_code == 200
    until(lambda: not server.run(run_id)["held"], "its session is free")
    assert behind.result(DEADLINE_S).json()["response"] == "h2"
    assert tool_results(server.history("held")) == [UNKNOWN_OUTCOME]
    again = post(server, f"runs/{run_id}/cancel", force=True)
    assert (again.status_code, again.json()["locks_session"]) == (200, False)


def test_a_run_that_is_cancelled_with_force_does_not_hold_its_session(server: Server, at: Checkpoints) -> None:
    at.hold("f1 a")
    server.line_up("f1 a", "f2", session_id="forced")
    at.reached("f1 a")
    first, second = ids(server, "forced")
    assert post(server, f"runs/{first}/cancel", force=True).status_code == 202
    until(lambda: server.run(second)["status"] == "succeeded", "the next one is not kept waiting")
    assert not server.run(first)["held"]


def test_a_session_is_cancelled(server: Server, at: Checkpoints) -> None:
    at.hold("s1 model 0")
    requests = server.line_up("s1", "s2", "s3", session_id="all")
    first, second, third = ids(server, "all")
    answer = post(server, "sessions/all/cancel")
    assert (answer.status_code, answer.json()) == (
        200,
        {"cancelled": [second, third], "cancelling": [], "dismissed": False},
    )
    assert [each.result(DEADLINE_S).json()["error_code"] for each in requests[1:]] == ["cancelled"] * 2
    answer = post(server, "sessions/all/cancel", running=True)
    assert (answer.status_code, answer.json()) == (202, {"cancelled": [], "cancelling": [first], "dismissed": False})
    at.release()
    assert requests[0].result(DEADLINE_S).json()["error_code"] == "cancelled"
    assert server.chat("s4", "all")["response"] == "s4"
    problem(post(server, "sessions/none/cancel"), 404, "not_found")


def test_what_a_cancel_refuses(server: Server) -> None:
    run_id = server.chat("r1", "refused")["run_id"]
    path = f"/v1/runs/{run_id}/cancel"
    problem(server.client.post(path), 409, "already_ended")
    problem(server.client.post(path, content="force=true"), 415, "not_json")
    problem(server.client.post(path, content="{}", headers={"Content-Type": "text/plain"}), 415, "not_json")
    problem(server.client.post(path, content="{", headers={"Content-Type": "application/json"}), 400, "malformed")
    refusal = problem(server.client.post(path, json={"force": "yes"}), 422, "invalid")
    assert "`force`" in refusal["detail"]
    problem(server.client.post("/v1/runs/none/cancel"), 404, "not_found")
    problem(server.client.get(path), 405, "method_not_allowed")
    problem(server.client.post("/v1/sessions/a%20b/cancel"), 422, "invalid")


def test_a_cancel_that_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """In every state of a run: waiting, in a tool, and requeued by a stopped server."""
    flags = ["--cancel-grace", "60", "--drain-grace", "0.1"]
    with checkpoints() as at, serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("k1 b", "g1 model 1")
        server.line_up("k1 a b", "k2", "k3", session_id="killed")
        server.line_up("g1 a", session_id="other")
        at.reached("k1 b", "g1 model 1")
        running, waiting, left = ids(server, "killed")
        (requeued,) = ids(server, "other")
        assert post(server, f"runs/{running}/cancel").status_code == 202
        assert post(server, f"runs/{waiting}/cancel").status_code == 200
        assert post(server, f"runs/{requeued}/cancel").status_code == 202
        server.kill()
        at.release()
        server.start()
        server.quiet()
        assert [server.run(each)["status"] for each in (running, waiting, left, requeued)] == [
            "cancelled", "cancelled", "succeeded", "cancelled",
        ]  # fmt: skip
        messages = server.history("killed")
        assert texts(messages, "user") == ["k1 a b", "k3"]
        assert tool_results(messages) == ["did a", UNKNOWN_OUTCOME]
        assert texts(messages, "assistant")[-2:] == [EARLY, "k3"]
        assert (tool_results(server.history("other")), texts(server.history("other"), "assistant")[-1]) == (
            ["did a"],
            EARLY,
        )
        assert at.steps.count("k1 b") == 1
