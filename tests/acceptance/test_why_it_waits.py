"""Why a run waits is shown over HTTP, in the terminal and by the typed client, in the same words."""

from collections.abc import Iterator
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, ran, serving, until
from acceptance.terminal import CTRL_D, terminal
from strandline.client import Client, RunQueued

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("why")
    limits = ("--max-running", "2", "--cancel-grace", "0.2")
    with serving(TARGETS / "agent.py", *limits, folder=folder, variables=at.environment) as made:
        (folder / "strandline.toml").write_text(f"port = {made.url.rpartition(':')[2]}\n")
        yield made


def sent(server: Server, session: str, prompt: str) -> str:
    answer = server.client.post(f"/v1/sessions/{session}/runs", json={"input": prompt})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def executing(server: Server, at: Checkpoints, session: str, label: str) -> str:
    at.hold(f"{label} model 0")
    run_id = sent(server, session, label)
    at.reached(f"{label} model 0")
    return run_id


def why_of(server: Server, session: str) -> Any:
    return server.client.get(f"/v1/sessions/{session}").json()["why"]


def code(server: Server, run_id: str) -> str | None:
    why = server.run(run_id)["why"]
    return None if why is None else str(why["code"])


def test_behind_paused_and_without_a_slot_a_run_says_so_everywhere(server: Server, at: Checkpoints) -> None:
    first = executing(server, at, "one", "a1")
    behind = sent(server, "one", "a2")
    assert server.run(first)["why"] is None
    assert server.run(behind)["why"] == {"code": "behind", "text": "1 run is ahead of it in its session"}
    assert why_of(server, "one")["code"] == "behind"
    executing(server, at, "two", "b1")
    full = sent(server, "three", "c1")
    expected = {"code": "server_busy", "text": "the server executes as many runs as it may at once: 2"}
    assert server.run(full)["why"] == expected == why_of(server, "three")
    (listed,) = server.client.get("/v1/sessions/three/runs").json()["runs"]
    assert listed["why"] == expected
    assert f"next: {expected['text']}" in ran("runs", "three", folder=server.folder).stdout
    assert expected["text"] in ran("sessions", folder=server.folder).stdout
    server.client.post("/v1/sessions/one/pause")
    assert code(server, behind) == "paused"
    assert "the session is paused" in ran("runs", behind, folder=server.folder).stdout
    server.client.post("/v1/sessions/one/resume")


def test_the_typed_client_has_it_in_a_run_and_in_its_events(server: Server, at: Checkpoints) -> None:
    executing(server, at, "typed", "t1")
    with Client(server.url) as client:
        events = client.run("t2", "typed")
        queued = next(events)
        assert isinstance(queued, RunQueued)
        assert queued.why is not None
        assert (queued.why.code, queued.why.text) == ("behind", "1 run is ahead of it in its session")
        at.release()
        events.close()
        assert client.wait(queued.run_id).why is None


def test_a_held_session_names_its_tool_and_cancel_offers_force(server: Server, at: Checkpoints) -> None:
    at.hold("h1 a")
    run_id = sent(server, "held", "h1 a")
    at.reached("h1 a")
    server.client.post(f"/v1/runs/{run_id}/cancel").raise_for_status()
    until(lambda: server.run(run_id)["held"], "it has ended, and its tool works on")
    waiting = sent(server, "held", "h2")
    why = server.run(waiting)["why"]
    assert why["code"] == "held"
    assert why["text"].startswith("locked since ")
    assert why["text"].endswith(f" UTC by tool work of {run_id}, which has ended and is still executing")
    assert server.run(run_id)["why"] == why == why_of(server, "held")
    assert why["text"] in ran("runs", "held", folder=server.folder).stdout
    done = ran("cancel", run_id, folder=server.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"To release session held now: strandline cancel {run_id} --force\n")
    server.client.post(f"/v1/runs/{waiting}/cancel").raise_for_status()
    done = ran("cancel", "--session", "held", "--running", folder=server.folder)
    assert done.stderr.endswith(f"strandline cancel {run_id} --force\n")
    answer = server.client.post(f"/v1/runs/{run_id}/cancel", json={})
    assert answer.json()["locks_session"]
    done = ran("cancel", run_id, "--force", folder=server.folder)
    assert done.returncode == 0, done.stderr
    until(lambda: why_of(server, "held") is None, "the lock ends, if not within the time that an answer waits for that")


def test_a_session_with_a_question_says_until_when_it_waits(server: Server) -> None:
    run_id = sent(server, "asks", "i1 @b")
    assert server.run(run_id, wait_s=20)["status"] == "needs_input"
    why = server.run(run_id)["why"]
    assert why["code"] == "waits_for_input"
    assert why["text"].startswith("the session waits for an answer to its question, until ")
    waiting = sent(server, "asks", "i2")
    until(lambda: code(server, waiting) == "waits_for_input", "it knows why it waits")
    assert why_of(server, "asks")["code"] == "waits_for_input"
    assert "waits for an answer: @b (until " in ran("sessions", folder=server.folder).stdout
    (asking,) = [
        line for line in ran("runs", "asks", folder=server.folder).stdout.splitlines() if line.startswith(run_id)
    ]
    assert f"@b: {why['text']}" in asking
    server.client.post(f"/v1/runs/{run_id}/cancel").raise_for_status()
    assert server.run(run_id)["why"] is None


def test_a_chat_shows_why_it_waits(server: Server, at: Checkpoints) -> None:
    executing(server, at, "chat", "k1")
    with terminal("chat", "--session", "chat", folder=server.folder) as shown:
        shown.until("chat> ")
        shown.type("k2\n")
        shown.until("next in its queue")
        server.client.post("/v1/sessions/chat/pause").raise_for_status()
        shown.until("the session is paused")
        server.client.post("/v1/sessions/chat/resume").raise_for_status()
        at.release()
        shown.until("chat> ")
        shown.type(CTRL_D)
        assert shown.ended() == 0
