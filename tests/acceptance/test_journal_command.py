"""`strandline journal` as people and scripts use it: beside a server, and with what it made served again."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import strands_sessions
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, ran, serving, texts
from strandline._history import NO_ANSWER


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def journal(
    folder: Path, *arguments: str | Path, code: int = 0, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `strandline journal` with `arguments`; it must end with `code`, and without a traceback."""
    done = ran("journal", *arguments, folder=folder, variables=variables)
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    if code == 2:
        assert done.stdout == ""
        assert len(done.stderr.strip().split("\n\n")) == 1
    return done


def test_a_backup_made_beside_a_server_is_served_elsewhere(at: Checkpoints, tmp_path: Path) -> None:
    """Runs that waited or executed at the backup continue there; later ones are not in it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        server.chat("done a", "first")
        at.hold("runs model 0")
        server.line_up("runs", "waits", session_id="second")
        server.wait_until_stored()
        assert "verified and on disk" in journal(tmp_path, "backup", "journal.db", elsewhere / "journal.db").stdout
        output = json.loads(journal(tmp_path, "verify", "sqlite:journal.db", "--json").stdout)
        assert (output["sound"], output["runs"]["running"], output["runs"]["queued"]) == (True, 1, 1)
        server.chat("late", "first")
        at.release()
        server.quiet()
        assert json.loads(journal(tmp_path, "verify", "journal.db", "--json").stdout)["faults"] == []
    with serving(TARGETS / "agent.py", folder=elsewhere, variables=at.environment) as server:
        server.quiet()
        assert texts(server.history("first"), "user") == ["done a"]
        assert texts(server.history("second"), "assistant") == ["runs", "waits"]
    assert "none: it is sound" in journal(elsewhere, "verify", "journal.db").stdout


def test_the_settings_name_the_journal_unless_the_command_does(tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        server.chat("hello")
    journal(tmp_path, "backup", "one.db", STRANDLINE_JOURNAL="sqlite:journal.db")
    (tmp_path / "strandline.toml").write_text('journal = "sqlite:one.db"\n')
    assert "one.db" in journal(tmp_path, "verify").stdout
    assert "is not a file" in journal(tmp_path, "verify", STRANDLINE_JOURNAL="memory:", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "none.db"], "there is no journal at none.db"),
        (["verify", "text.db"], "is no SQLite database"),
        (["verify", "."], "is a folder, not a file"),
        (["backup", "none.db", "to.db"], "there is no journal at none.db"),
        (["backup", "a", "b", "c"], "3 files were named"),
        (["prune", "none.db", "--older-than", "30d"], "there is no journal at none.db"),
        (["prune", "none.db", "--older-than", "old"], "which is not an age"),
        (["import", "nowhere", "to.db"], "the folder nowhere cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_paragraph(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "text.db").write_text("no database " * 20)
    assert said in journal(tmp_path, *arguments, code=2).stderr
    assert [each.name for each in tmp_path.iterdir()] == ["text.db"]


def test_a_damaged_journal_ends_with_1_and_says_where(tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        server.chat("hello there", "somebody")
        server.terminate()
        assert server.ended() == 0
    file = tmp_path / "journal.db"
    file.write_bytes(file.read_bytes().replace(b"hello there", b"hullo there"))
    output = journal(tmp_path, "verify", "journal.db", code=1).stdout
    assert "the history of session somebody from message 0 on is damaged" in output
    assert json.loads(journal(tmp_path, "verify", "journal.db", "--json", code=1).stdout)["sound"] is False
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        response = server.client.get("/history", params={"session_id": "somebody"})
        assert (response.status_code, response.json()["code"]) == (503, "journal_unavailable")
        assert server.chat("hello", "another")["status"] == "success"


def test_a_server_prunes_by_itself(tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path):
        said = journal(tmp_path, "prune", "journal.db", "--older-than", "30d", code=2).stderr
        assert "in use by process" in said
        assert "run_retention" in said


def test_old_runs_are_deleted_and_their_space_is_freed(tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        for n in range(30):
            server.chat("x" * 20_000, f"s{n % 3}")
    before = (tmp_path / "journal.db").stat().st_size
    assert "0 runs deleted" in journal(tmp_path, "prune", "journal.db", "--older-than", "1h").stdout
    output = journal(tmp_path, "prune", "--older-than", "0s", "journal.db", "--vacuum").stdout
    assert "30 runs deleted" in output
    assert (tmp_path / "journal.db").stat().st_size < before * 0.8
    assert json.loads(journal(tmp_path, "verify", "journal.db", "--json").stdout)["runs"]["succeeded"] == 0
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        assert len(server.history("s0")) == 20


def test_what_strands_kept_is_served_on(tmp_path: Path) -> None:
    """Each conversation is shown and continues with the next question, and the model sees earlier messages."""
    folder = tmp_path / "sessions"
    asyncio.run(strands_sessions.write(folder))
    dry = journal(tmp_path, "import", folder, "journal.db", "--dry-run", code=1)
    assert "nothing was written" in dry.stdout
    assert not (tmp_path / "journal.db").exists()
    output = journal(tmp_path, "import", folder, "journal.db", "--session-prefix", "old.", "--json", code=1).stdout
    results = {each["session_id"]: each for each in json.loads(output)}
    assert [name for name, each in results.items() if each["result"] == "refused"] == ["old.two"]
    skipped = journal(
        tmp_path, "import", folder, "journal.db", "--session-prefix", "old.", "--skip-existing", code=1
    ).stdout
    assert "7 skipped, 1 refused" in skipped
    assert "none: it is sound" in journal(tmp_path, "verify", "journal.db").stdout
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        assert texts(server.history("old.failed"), "assistant")[0] == NO_ANSWER
        for session, seen in [
            ("sound", "one | tool two | three | next"),
            ("failed", "one fail | two | tool three fail | four fail | five fail | next"),
            ("cut", "one | hang two | next"),
            ("went-on", "hang one | two | next"),
            ("windowed", "e | f | next"),
            ("empty", "next"),
        ]:
            answer = server.chat("next", f"old.{session}")
            assert (answer["status"], answer["response"]) == ("success", seen)
            assert texts(server.history(f"old.{session}"), "user")[-1] == "next"
        assert len(server.history("old.windowed")) == 14
        assert server.client.delete("/v1/sessions/old.cut").status_code == 204
        assert server.history("old.cut") == []


def test_a_terminal_of_80_columns_shows_everything(tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        server.chat("hello")
    for arguments in (["verify", "journal.db"], ["--help"], ["verify", "--help"], ["import", "--help"]):
        output = journal(tmp_path, *arguments, COLUMNS="80").stdout
        assert max(map(len, output.splitlines())) <= 80
        assert "…" not in output
    for command in ("backup", "verify", "prune", "import"):
        assert "Example: strandline journal" in journal(tmp_path, command, "--help").stdout
