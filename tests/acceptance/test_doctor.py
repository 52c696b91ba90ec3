"""`strandline doctor`: what it finds in good and in bad states, and that nobody notices that it looked."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from acceptance.server import ran, serving
from strandline._access.keyring import new_key

AGENT = """
from strands import Agent
from strandline.providers import load_model


def make_agent(session_id: str) -> Agent:
    print("noise")
    return Agent(model=load_model("scripted"))
"""
BARE = {
    **{name: "" for name in os.environ if name.startswith(("AWS_", "OPENAI_", "OLLAMA_"))},
    "HOME": "/nowhere", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


def run(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    done = ran("doctor", *arguments, folder=folder, variables={**BARE, **variables})
    assert done.stderr == ""
    return done


def doctor(folder: Path, *arguments: str, **variables: str) -> dict[str, list[Mapping[str, Any]]]:
    """Return what it finds, by what it is about; the exit code must fit."""
    done = run(folder, *arguments, "--json", **variables)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for each in json.loads(done.stdout):
        found.setdefault(each["about"], []).append(each)
    bad = any(each["level"] == "problem" for several in found.values() for each in several)
    assert done.returncode == (1 if bad else 0)
    return found


def problems(found: Mapping[str, list[Mapping[str, Any]]]) -> dict[str, str]:
    return {about: each["told"] for about, several in found.items() for each in several if each["level"] == "problem"}


def test_a_fresh_folder_with_an_agent_is_fine(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    found = doctor(tmp_path, STRANDLINE_PORT="0")
    assert problems(found) == {}
    assert found["agent"][0]["told"].endswith("agent.py:make_agent was imported, and builds an agent")
    assert "does not exist yet" in found["journal"][0]["told"]
    assert {each for each in found if found[each][0]["level"] == "note"} == {"openai", "bedrock", "ollama"}
    assert "OPENAI_API_KEY" in found["openai"][0]["fix"]
    assert not (tmp_path / ".strandline").exists(), "it made something"


def test_every_line_is_one_for_grep_and_a_problem_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path, STRANDLINE_MAX_RUNNING="zz", STRANDLINE_PORT="0", COLUMNS="50")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem")]
    assert "settings" in line
    assert "max_running is 'zz' (STRANDLINE_MAX_RUNNING); it must be a whole number" in line
    assert done.stdout.splitlines()[-1] == "1 problem."
    assert "`strandline init` makes one" in done.stdout


def test_a_variable_that_is_nearly_a_setting_is_noted(tmp_path: Path) -> None:
    done = run(tmp_path, STRANDLINE_TIMEOOT="5", STRANDLINE_SERVICE_HOST="10.0.0.11", STRANDLINE_PORT="0")
    lines = [line for line in done.stdout.splitlines() if "is not a setting" in line]
    assert len(lines) == 1
    assert lines[0].startswith("note")
    assert "STRANDLINE_TIMEOOT is not a setting; did you mean `STRANDLINE_TIMEOUT`?" in lines[0]


def test_a_disk_with_less_left_than_the_reserve_is_a_problem(tmp_path: Path) -> None:
    """Of which a server would accept no run."""
    (tmp_path / "agent.py").write_text(AGENT)
    found = doctor(tmp_path, STRANDLINE_PORT="0", STRANDLINE_DISK_RESERVE_BYTES=str(1 << 60))
    assert "reserved for accepted runs (setting disk_reserve_bytes)" in problems(found)["disk"]
    assert "a smaller disk_reserve_bytes" in found["disk"][0]["fix"]


def test_beside_a_server_it_says_who_answers_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    with serving("agent.py", folder=tmp_path, variables={"STRANDLINE_DEMO_PACE": "0"}) as server:
        server.chat("hello")
        server.quiet()
        server.wait_until_stored()
        before = {
            each.name: each.read_bytes() for each in tmp_path.glob("journal.db*") if not each.name.endswith("-shm")
        }
        port = server.url.rpartition(":")[2]
        found = doctor(tmp_path, STRANDLINE_PORT=port, STRANDLINE_JOURNAL="sqlite:journal.db")
        after = {
            each.name: each.read_bytes() for each in tmp_path.glob("journal.db*") if not each.name.endswith("-shm")
        }
        assert after == before
        assert problems(found) == {}
        assert "(strandline) answers there, ready: 0 running, 0 waiting" in found["port"][0]["told"]
        assert f"sound, in use by process {server.pid} on {socket.gethostname()}" in found["journal"][0]["told"]
        assert server.chat("again")["status"] == "success"


def test_a_port_of_another_program_and_one_of_another_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use by another program" in problems(doctor(tmp_path, STRANDLINE_PORT=port))["port"]
    assert "cannot assign" in problems(doctor(tmp_path, STRANDLINE_HOST="192.0.2.1"))["port"].lower()


def test_several_servers_over_a_file(tmp_path: Path) -> None:
    found = problems(doctor(tmp_path, STRANDLINE_SERVERS="2", STRANDLINE_PORT="0"))
    assert "servers is 2, and the journal is sqlite:" in found["journal"]


def test_who_may_reach_it(tmp_path: Path) -> None:
    refused = problems(doctor(tmp_path, STRANDLINE_HOST="0.0.0.0", STRANDLINE_PORT="0"))
    assert "STRANDLINE_ALLOW_ANONYMOUS=1" in refused["exposure"]
    found = doctor(tmp_path, STRANDLINE_HOST="0.0.0.0", STRANDLINE_PORT="0", STRANDLINE_ALLOW_ANONYMOUS="1")
    assert (found["exposure"][0]["level"], problems(found)) == ("note", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_package", ["agent.py, line 1", "Install it"]),
        ("def make_agent(:", ["line 1"]),
        ("import os\nos._exit(7)", ["ended with status 7"]),
        ("def make_agent(sid):\n    return 5", ["the factory returned"]),
        ("import json\ndef make_agent(sid):\n    return json.loads('{')", ["JSONDecodeError", "agent.py, line 3"]),
        (
            "from strandline.providers import load_model\nmodel = load_model('openai:x')",
            ["Set OPENAI_API_KEY", "line 2"],
        ),
    ],
)
def test_an_agent_that_cannot_be_served(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "agent.py").write_text(text + "\n")
    said = problems(doctor(tmp_path, STRANDLINE_PORT="0"))["agent"]
    for each in expected:
        assert each in said
    assert "site-packages" not in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not a database, but long enough to have a head" * 10, "is no SQLite database"),
        (b"SQLite format 3\0" + bytes(200), "another program"),
    ],
)
def test_a_journal_that_is_none_is_left_as_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "j.db").write_bytes(content)
    found = doctor(tmp_path, STRANDLINE_JOURNAL="sqlite:j.db", STRANDLINE_PORT="0")
    assert expected in problems(found)["journal"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["j.db"]
    assert (tmp_path / "j.db").read_bytes() == content


def test_a_journal_that_no_server_would_open_is_reported(tmp_path: Path) -> None:
    """One with two names; one that is gone from beside its WAL."""
    variables = {"STRANDLINE_JOURNAL": "sqlite:j.db", "STRANDLINE_PORT": "0"}
    (tmp_path / "j.db").touch()
    (tmp_path / "other.db").hardlink_to(tmp_path / "j.db")
    assert "has 2 names" in problems(doctor(tmp_path, **variables))["journal"]
    (tmp_path / "other.db").unlink()
    (tmp_path / "j.db-wal").write_bytes(b"something")
    assert "Put j.db back" in problems(doctor(tmp_path, **variables))["journal"]


def test_no_key_is_ever_shown(tmp_path: Path) -> None:
    secrets = {"OPENAI_API_KEY": "sk-very-secret", "AWS_ACCESS_KEY_ID": "AKIASECRET", "AWS_SECRET_ACCESS_KEY": "hidden"}
    done = run(tmp_path, STRANDLINE_PORT="0", **secrets)
    for secret in secrets.values():
        assert secret not in done.stdout
    assert done.stdout.count("credentials found") == 2


def test_an_agent_that_would_let_two_principals_share_a_conversation_is_a_problem(tmp_path: Path) -> None:
    keeper = """
from strands import Agent
from strands.session import FileSessionManager
from strandline.providers import load_model


def make_agent(TAKES) -> Agent:
    return Agent(model=load_model("scripted"), session_manager=FileSessionManager(session_id, storage_dir="kept"))
"""
    keys = {"STRANDLINE_API_KEYS": new_key("ada")[1].line(), "STRANDLINE_PORT": "0"}
    (tmp_path / "agent.py").write_text(keeper.replace("TAKES", "session_id"))
    found = problems(doctor(tmp_path, STRANDLINE_HISTORY="session_manager", **keys))
    assert "does not take `principal`" in found["agent"]
    assert problems(doctor(tmp_path, STRANDLINE_HISTORY="session_manager", STRANDLINE_PORT="0")) == {}
    (tmp_path / "agent.py").write_text(keeper.replace("TAKES", "session_id, principal"))
    assert problems(doctor(tmp_path, STRANDLINE_HISTORY="session_manager", **keys)) == {}
