"""examples/migration: the original runner's conversation continues in Strandline, unnoticed by its client."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import strands_sessions
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, environment, serving, texts, until
from examples_shown import example
from ports import reserved_port

SHOWN = example("migration")
VARIABLES = {"AGENT_ID": "librarian", "IDLE_TIMEOUT_MINUTES": "10"}


@contextmanager
def original_runner(folder: Path, sessions: Path) -> Iterator[str]:
    """Run `agent_runner.py` and give its URL."""
    port = reserved_port()
    variables = {**VARIABLES, "HOST": "127.0.0.1", "PORT": str(port), "SESSIONS": str(sessions)}
    process = subprocess.Popen([sys.executable, "agent_runner.py"], cwd=folder, env=environment(variables))
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or answers(url), "the original runner answers")
        yield url
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def old_client(folder: Path, url: str, *messages: str) -> list[str]:
    """Return what the client of the original runner shows, line by line."""
    command = [sys.executable, "client.py", url, *messages]
    variables = environment({"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"})
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return SHOWN.copy(tmp_path / "migration")


def test_the_conversation_continues_and_the_client_notices_nothing(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with original_runner(folder, data) as url:
        before = old_client(folder, url, "lend Emma", "hello", "fail", "lend Dune")
        assert before == [
            "librarian (success): You have Emma now.",
            "librarian (success): This was question 2 of our conversation.",
            "librarian (error): the provider is out of order",
            "librarian (success): You have Dune now.",
            "healthy, processing: False, waiting: 0",
            "last: assistant: You have Dune now.",
        ]

    imported = bring_along(data, folder)
    assert "default" in imported
    assert "1 imported" in imported
    assert "it was closed" in imported, "the question that had failed has no answer in the old folder"

    flags = [flag.replace("/data", str(data)) for flag in SHOWN.serve]
    with serving(*flags, folder=folder, variables=VARIABLES, journal=None) as server:
        after = old_client(folder, server.url, "what do I have?", "hello", "fail")
        assert after == [
            "librarian (success): You have Emma, Dune.",
            "librarian (success): This was question 6 of our conversation.",
            "librarian (error): ConnectionError: the provider is out of order",
            "healthy, processing: False, waiting: 0",
            "last: assistant: (This run ended early: agent_error.)",
        ]
        questions = ["lend Emma", "hello", "fail", "lend Dune", "what do I have?", "hello", "fail"]
        assert texts(server.history(), "user") == questions
        old = {"agent_id", "response", "status"}
        assert old < server.chat("hello").keys()


@pytest.mark.parametrize("place", ["session_librarian", ".agent/session/session_agent"])
def test_a_conversation_with_a_tool_round_and_a_failure_comes_along_from_where_either_version_has_it(
    place: str, tmp_path: Path
) -> None:
    """Both paths stand on the page, and its command takes them; written by Strands' own session manager."""
    assert place.replace("librarian", "$AGENT_ID") in SHOWN.readme
    data = tmp_path / "data"
    asyncio.run(strands_sessions.write(tmp_path / "sessions"))
    shutil.copytree(tmp_path / "sessions/session_failed", data / place)
    command = next(line for block in SHOWN.blocks("sh") for line in block.splitlines() if "journal import" in line)
    output = typed(command.replace("session_$AGENT_ID", place).replace("/data", str(data)), tmp_path)
    assert "1 imported" in output
    with serving(TARGETS / "remembers.py", folder=data, journal=f"sqlite:{data}/journal.db") as server:
        history = server.history()
        questions = ["one fail", "two", "tool three fail", "four fail", "five fail"]
        assert texts(history, "user") == questions
        assert [block for message in history for block in message["content"] if "toolResult" in block]
        server.chat("and now?")
        assert texts(server.history(), "user") == [*questions, "and now?"]


def bring_along(data: Path, folder: Path) -> str:
    """Do what the page says, with another place for /data, up to the line that serves. Return what was said."""
    lines = next(block for block in SHOWN.blocks("sh") if "journal import" in block).replace("/data", str(data))
    commands = [line for line in lines.splitlines() if "strandline serve" not in line]
    return typed("\n".join(commands), folder)


def typed(commands: str, folder: Path) -> str:
    """Return what a shell prints of commands, with the variables of the original."""
    variables = environment(VARIABLES)
    variables["PATH"] = f"{COMMAND.parent}{os.pathsep}{variables['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", commands],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_variable_of_the_original_is_explained_and_has_an_equivalent(folder: Path) -> None:
    text = SHOWN.readme
    with serving("agent.py", folder=folder, variables={**VARIABLES, "PORT": str(reserved_port())}, port=None) as server:
        assert server.health()["agent_id"] == "librarian"
        for variable in ("AGENT_ID", "PORT", "IDLE_TIMEOUT_MINUTES"):
            assert f'"{variable}"' in (folder / "agent_runner.py").read_text()
            assert f"`{variable}`" in text
