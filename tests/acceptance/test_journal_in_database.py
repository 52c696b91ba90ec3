"""`strandline journal` with a journal in PostgreSQL: each command works on it, or says what to do instead."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import strands_sessions
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, ran, refused, serving, texts
from tools.postgres import Cluster

AGENT = TARGETS / "agent.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def journal(folder: Path, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `strandline journal` with `arguments`; it must end with `code`, and without a traceback."""
    done = ran("journal", *arguments, folder=folder, variables=variables)
    assert done.returncode == code, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    if code == 2:
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
    return done


def ask(server: Server, prompt: Any, session_id: str, wait: int | None = 30) -> dict[str, Any]:
    """Send a message; return its run."""
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    response = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": prompt}, headers=headers)
    run: dict[str, Any] = response.raise_for_status().json()
    return run


def known(server: Server) -> dict[str, Any]:
    """Return what a server says of its sessions and runs."""
    sessions = server.client.get("/v1/sessions").raise_for_status().json()["sessions"]
    return {
        each["session_id"]: (
            each,
            server.client.get(f"/v1/sessions/{each['session_id']}/history").raise_for_status().json(),
            server.client.get(f"/v1/sessions/{each['session_id']}/runs").raise_for_status().json(),
        )
        for each in sessions
    }


def test_sessions_go_from_a_file_to_a_database_and_back_and_continue_in_both(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """Killed with a run between two tools, one behind it, a paused session, and a question without an answer yet."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        ask(server, "hello a", "talks")
        asked = ask(server, "go a @b", "asks")
        server.client.post("/v1/sessions/talks/pause").raise_for_status()
        at.hold("first model 1")
        first = ask(server, "first a b", "middle", wait=None)["run_id"]
        second = ask(server, "second", "middle", wait=None)["run_id"]
        waits = ask(server, "waits", "talks", wait=None)["run_id"]
        at.reached("first model 1")
        server.wait_until_stored()
        server.kill()
    done = journal(tmp_path, "copy", "journal.db", database)
    assert "4 sessions and 6 runs copied" in done.stdout
    assert "none: it is sound" in journal(tmp_path, "verify", database).stdout
    at.release()
    with serving(AGENT, folder=tmp_path, journal=database, variables=at.environment) as server:
        run = server.run(first, wait_s=60)
        assert (run["status"], run["output"], run["attempt"]) == ("succeeded", "first: did a, did b", 2)
        assert server.run(second, wait_s=60)["output"] == "second"
        (request,) = asked["input_requests"]
        answer = ask(server, {"responses": [{"id": request["id"], "response": "gladly"}]}, "asks")
        assert answer["output"] == "go: did a, did @b (gladly)"
        assert server.run(waits)["status"] == "queued"
        asked = ask(server, "again @c", "asks")
        before = known(server)
        server.terminate()
        assert server.ended() == 0
    begun = [step for step in at.steps if step in ("first a", "first b", "go a")]
    assert len(begun) == len(set(begun)) == 3, "a tool was started twice"
    journal(tmp_path, "copy", database, "back.db")
    assert json.loads(journal(tmp_path, "verify", "back.db", "--json").stdout)["faults"] == []
    with serving(AGENT, folder=tmp_path, journal="sqlite:back.db", variables=at.environment) as server:
        assert known(server) == before
        server.client.post("/v1/sessions/talks/resume").raise_for_status()
        assert server.run(waits, wait_s=60)["output"] == "waits"
        (request,) = asked["input_requests"]
        answer = ask(server, {"responses": [{"id": request["id"], "response": "no"}]}, "asks")
        assert answer["output"] == "again: did @c (no)"
        assert texts(server.history("middle"), "user") == ["first a b", "second"]


def test_a_copy_is_not_made_beside_a_server(database: str, tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=database) as server:
        server.chat("hello")
        said = journal(tmp_path, "copy", database, "to.db", code=2).stderr
        assert "belongs to process" in said
        assert "stop them all first" in said
        assert not (tmp_path / "to.db").exists()
    assert "no journal at none.db" in journal(tmp_path, "copy", "none.db", database, code=2).stderr


def test_a_database_is_verified_beside_its_server_and_pruned_without_one(database: str, tmp_path: Path) -> None:
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=database) as server:
        for n in range(4):
            server.chat("hello", f"s{n % 2}")
        found = json.loads(journal(tmp_path, "verify", database, "--json").stdout)
        assert (found["sound"], found["sessions"], found["runs"]["succeeded"]) == (True, 2, 4)
        said = journal(tmp_path, "prune", database, "--older-than", "0s", code=2).stderr
        assert "belongs to process" in said
        assert "run_retention" in said
        server.terminate()
        assert server.ended() == 0
    assert "4 runs deleted" in journal(tmp_path, "prune", "--older-than", "0s", STRANDLINE_JOURNAL=database).stdout
    assert "autovacuum" in journal(tmp_path, "prune", database, "--older-than", "0s", "--vacuum", code=2).stderr
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=database) as server:
        assert len(texts(server.history("s0"), "user")) == 2
        assert server.chat("hello", "s0")["status"] == "success"


def test_tables_are_made_without_a_server(database: str, tmp_path: Path) -> None:
    assert "no journal in the database" in journal(tmp_path, "verify", database, code=2).stderr
    assert "tables made, now schema" in journal(tmp_path, "migrate", database).stdout
    assert "nothing to do" in journal(tmp_path, "migrate", database).stdout
    assert "none: it is sound" in journal(tmp_path, "verify", database).stdout


def test_conversations_of_strands_come_into_a_database_and_go_on_there(database: str, tmp_path: Path) -> None:
    asyncio.run(strands_sessions.write(tmp_path / "sessions"))
    done = journal(tmp_path, "import", "sessions", database, "--json", code=1)
    results = {each["session_id"]: each["result"] for each in json.loads(done.stdout)}
    assert (results["sound"], results["two"]) == ("imported", "refused")
    assert "none: it is sound" in journal(tmp_path, "verify", database).stdout
    with serving(TARGETS / "remembers.py", folder=tmp_path, journal=database) as server:
        said = len(server.history("sound"))
        assert server.chat("hello", "sound")["status"] == "success"
        assert len(server.history("sound")) == said + 2 == 10
        refusal = journal(tmp_path, "import", "sessions", database, "--skip-existing", code=2).stderr
        assert "Sessions are imported while no server has the journal" in refusal


def test_what_a_database_does_itself_is_said_with_the_command_and_without_the_password(tmp_path: Path) -> None:
    address = "postgresql://ada:s3cret@127.0.0.1:1/none"
    (tmp_path / "sessions" / "session_a").mkdir(parents=True)
    for arguments, wanted in (
        (["backup", address, "monday.dump"], "strandline: Nothing was written to monday.dump: PostgreSQL's own tools"),
        (
            ["backup", address, "monday.dump"],
            ": pg_dump --format=custom --file=monday.dump 'postgresql://ada:***@127.0.0.1:1/none'\n",
        ),
        (["import", "sessions", address], "the database cannot be reached"),
        (["verify", address], "postgresql://ada:***@127.0.0.1:1/none: the database cannot be reached"),
        (["prune", address, "--older-than", "1d"], "the database cannot be reached"),
        (["migrate", address], "the database cannot be reached"),
        (["copy", "none.db", address], "no journal at none.db"),
        (["copy", address, "to.db"], "the database cannot be reached"),
        (["verify", address.replace(":1/", ":x/")], "no address that PostgreSQL's clients understand"),
    ):
        said = journal(tmp_path, *arguments, code=2).stderr
        assert wanted in said
        assert "s3cret" not in said


def test_a_server_that_starts_on_half_a_copy_says_so(database: str, postgres: Cluster, tmp_path: Path) -> None:
    from strandline._journal.postgres import schema
    from strandline._journal.postgres.wire import Wire

    wire = Wire(database)
    schema.migrate(wire)
    wire.execute("INSERT INTO meta VALUES (?, 1)", (schema.UNFINISHED,))
    wire.close()
    said = refused(str(AGENT), "--port", "0", "--journal", database, folder=tmp_path)
    assert "has an unfinished copy of a journal" in said
    assert "strandline journal copy" in said
