"""A real server whose journal loses one of its files while it runs, and what becomes of what it had acknowledged."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from acceptance.server import Server, refused, serving, until

AGENT = "agent.py:answer"


@pytest.fixture(autouse=True)
def agent(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message.upper()\n")


def _delete_wal(folder: Path) -> None:
    (folder / "journal.db-wal").unlink()


def _delete_lock(folder: Path) -> None:
    (folder / "journal.db.lock").unlink()


def _empty(folder: Path) -> None:
    os.truncate(folder / "journal.db", 0)


def _ready(server: Server) -> bool:
    response = server.client.get("/readyz")
    assert response.status_code in (200, 503)
    return response.status_code == 200


@pytest.mark.parametrize("take_away", [_delete_wal, _delete_lock, _empty])
def test_a_server_whose_journal_loses_a_file_is_not_ready_and_refuses_runs(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    server = Server(AGENT, folder=tmp_path)
    try:
        server.start()
        server.chat("one", "a")
        server.chat("two", "a")
        take_away(tmp_path)
        for path in ("/v1/sessions/a", "/v1/sessions/a/runs", "/v1/sessions/a/history"):
            assert server.client.get(path).status_code in (200, 503)
        until(lambda: not _ready(server), "noticed, although no run is requested")
        assert server.client.get("/readyz").json()["status"] == "journal_unavailable"
        for _ in range(2):
            response = server.client.post("/v1/sessions/a/runs", json={"input": "two"})
            assert (response.status_code, response.json()["code"]) == (503, "journal_unavailable")
            assert "Retry-After" in response.headers
        assert server.client.get("/v1/sessions/a/history").status_code == 503
        assert server.client.get("/health").status_code == 200
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()


def test_what_was_acknowledged_before_a_wal_was_deleted_is_there_after_a_kill(tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path) as server:
        for number in range(10):
            server.chat(f"message {number}", "a")
        before = server.history("a")
        assert len(before) == 20
        _delete_wal(tmp_path)
        until(lambda: not _ready(server), "noticed")
        server.kill()
        server.start()
        assert server.history("a") == before
        server.chat("goes on", "a")


def test_a_start_without_the_journal_beside_its_wal_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path) as server:
        server.chat("one", "a")
        before = server.history("a")
        server.kill()
        journal, wal = tmp_path / "journal.db", tmp_path / "journal.db-wal"
        journal.rename(tmp_path / "elsewhere.db")
        kept = wal.read_bytes()
        said = refused(AGENT, "--journal", "sqlite:journal.db", "--port", "0", folder=tmp_path)
        assert "Put journal.db back" in said
        assert (wal.read_bytes(), journal.exists()) == (kept, False)
        (tmp_path / "elsewhere.db").rename(journal)
        server.start()
        assert server.history("a") == before
