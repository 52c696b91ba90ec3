"""The installed command with its journal in a real PostgreSQL: killed, frozen, and with the database gone."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, ran, serving, texts, until
from postgres_relay import Relay
from postgres_support import lease_of
from strandline._journal.postgres import schema
from strandline._journal.postgres.wire import Wire
from tools.postgres import Cluster

AGENT = TARGETS / "agent.py"
LEASE_MS = 4_000
LONG_BEFORE_S = 20.0
"""Of servers that are killed or frozen: another one waits for so long."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture
def leased(database: str) -> str:
    """Where a database is whose servers hold short leases."""
    wire = Wire(database)
    schema.migrate(wire)
    wire.execute("UPDATE meta SET value = ? WHERE name = 'lease_ms'", (LEASE_MS,))
    wire.close()
    return database


def test_a_database_that_falls_silent_is_told_by_readyz_long_before_its_lease_is_over(
    at: Checkpoints, database: str, through: str, relay: Relay, tmp_path: Path
) -> None:
    """Runs wait meanwhile, since nothing else is known of it yet."""
    lease_of(database, 120_000)
    with serving(AGENT, folder=tmp_path, journal=through, variables=at.environment) as server:
        assert ready(server) is None
        relay.pause()
        until(lambda: ready(server) is not None, "it is not ready", deadline_s=LONG_BEFORE_S)
        assert (ready(server) or {})["status"] == "journal_unavailable"
        waiting = server.ask("hello")
        assert server.health()["ready"] is False
        relay.resume()
        until(lambda: ready(server) is None, "it is ready again", deadline_s=LONG_BEFORE_S)
        assert waiting.result().json()["response"] == "hello"


def submitted(server: Server, message: str, session_id: str) -> str:
    response = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": message})
    return str(response.raise_for_status().json()["run_id"])


def ended(server: Server, runs: list[str]) -> list[dict[str, Any]]:
    return [server.run(each, wait_s=60) for each in runs]


def ready(server: Server) -> dict[str, Any] | None:
    """Return what a server says that is not ready, None if it is."""
    response = server.client.get("/readyz")
    return None if response.status_code == 200 else dict(response.json())


def test_killed_with_runs_at_every_place_nothing_is_lost_and_they_go_on(
    at: Checkpoints, leased: str, tmp_path: Path
) -> None:
    with serving(AGENT, folder=tmp_path, journal=leased, variables=at.environment, installed=True) as server:
        at.hold("model-1 model 0", "between-1 model 1", "tool-1 b")
        runs = {
            session: [submitted(server, each, session) for each in (f"{session}-1 a b", f"{session}-2")]
            for session in ("model", "between", "tool")
        }
        at.reached("model-1 model 0", "between-1 model 1", "tool-1 b")
        server.kill()
        at.release()
        server.start()
        assert [(each["status"], each["output"]) for each in ended(server, runs["model"])] == [
            ("succeeded", "model-1: did a, did b"), ("succeeded", "model-2"),
        ]  # fmt: skip
        first, second = ended(server, runs["between"])
        assert (first["output"], first["attempt"], second["output"]) == ("between-1: did a, did b", 2, "between-2")
        crashed, after = ended(server, runs["tool"])
        assert (crashed["status"], crashed["error"]["code"], after["status"]) == ("failed", "crashed", "succeeded")
        assert texts(server.history("between"), "user") == ["between-1 a b", "between-2"]
    begun = [step for step in at.steps if step.split()[-1] in ("a", "b")]
    assert len(begun) == len(set(begun)), "a tool was started twice"


def test_requests_at_once_are_answered_in_order(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, journal=database, variables=at.environment) as server:
        at.hold("q0 model 0")
        answers = server.line_up(*(f"q{number} a" for number in range(5)), session_id="ada")
        at.release()
        assert [each.result().json()["response"] for each in answers] == [f"q{n}: did a" for n in range(5)]
        assert texts(server.history("ada"), "user") == [f"q{n} a" for n in range(5)]


def test_a_database_that_is_gone_makes_a_server_unready_and_its_return_ready_again(
    at: Checkpoints, tmp_path: Path
) -> None:
    cluster = Cluster()
    try:
        database = cluster.new_database()
        server = Server(AGENT, folder=tmp_path, journal=database, variables=at.environment)
        try:
            server.start()
            server.chat("one", "a")
            cluster.stop()
            until(lambda: ready(server), "told that the database is gone", deadline_s=5)
            assert (told := ready(server)) is not None
            assert told["status"] == "journal_unavailable"
            response = server.client.post("/v1/sessions/a/runs", json={"input": "two"})
            assert (response.status_code, response.json()["code"]) == (503, "journal_unavailable")
            assert server.client.get("/health").status_code == 200
            cluster.start()
            until(lambda: ready(server) is None, "told that it is back", deadline_s=5)
            assert server.chat("three", "a")["response"] == "three"
            server.terminate()
            assert server.ended() == 0
        finally:
            server.close()
    finally:
        cluster.remove()


def test_a_frozen_server_loses_the_journal_and_leaves_when_it_wakes(
    at: Checkpoints, leased: str, tmp_path: Path
) -> None:
    first = Server(AGENT, folder=tmp_path, journal=leased, variables=at.environment)
    try:
        first.start()
        at.hold("q model 0")
        run = submitted(first, "q a", "s")
        at.reached("q model 0")
        first.signal(signal.SIGSTOP)
        with serving(AGENT, folder=tmp_path, journal=leased, variables=at.environment) as second:
            at.reached("q model 0", times=2)
            first.signal(signal.SIGCONT)
            assert first.ended() == 75
            assert "exited at once" in first.stderr
            at.release()
            assert ended(second, [run])[0]["output"] == "q: did a"
    finally:
        first.close()
    assert at.steps.count("q a") == 1


def test_a_server_leaves_rather_than_work_on_without_its_lease(at: Checkpoints, tmp_path: Path) -> None:
    cluster = Cluster()
    try:
        database = cluster.new_database()
        wire = Wire(database)
        schema.migrate(wire)
        wire.execute("UPDATE meta SET value = ? WHERE name = 'lease_ms'", (LEASE_MS,))
        wire.close()
        server = Server(AGENT, folder=tmp_path, journal=database, variables=at.environment)
        try:
            server.start()
            at.hold("q model 0")
            run = submitted(server, "q a", "s")
            at.reached("q model 0")
            gone_at = time.monotonic()
            cluster.stop("immediate")
            assert server.ended() == 75
            assert time.monotonic() - gone_at < LEASE_MS / 1000 + 5
            assert "could not be renewed" in server.stderr
            cluster.start()
            at.release()
            server.start()
            assert ended(server, [run])[0]["output"] == "q: did a"
        finally:
            server.close()
    finally:
        cluster.remove()


def test_a_password_is_shown_nowhere(tmp_path: Path) -> None:
    address = "postgresql://ada:s3cret@127.0.0.1:1/none"
    variables, wrong = {"STRANDLINE_JOURNAL": address}, address.replace(":1/", ":x/")
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")
    shown = [
        ran("settings", folder=tmp_path, variables=variables),
        ran("settings", "--json", folder=tmp_path, variables=variables),
        ran("doctor", "agent.py:answer", folder=tmp_path, variables=variables),
        ran("serve", "agent.py:answer", "--port", "0", folder=tmp_path, variables=variables),
        ran("journal", "verify", folder=tmp_path, variables=variables),
        ran("settings", folder=tmp_path, variables={"STRANDLINE_JOURNAL": "postgres:ada:s3cret@h"}),
        ran("serve", "agent.py:answer", folder=tmp_path, variables={"STRANDLINE_JOURNAL": wrong}),
    ]
    for each in shown:
        assert "s3cret" not in each.stdout + each.stderr, each.args
        assert "Traceback" not in each.stderr
    assert "postgresql://ada:***@127.0.0.1:1/none" in shown[0].stdout
    assert "cannot be reached" in shown[2].stdout
    assert shown[3].returncode == 2
    assert "cannot be opened: the database cannot be reached" in shown[3].stderr
