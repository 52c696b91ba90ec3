"""The commands of `docs/journal.md` do what the page says, as they stand there."""

import asyncio
from pathlib import Path

import pytest

import strands_sessions
from acceptance.server import TARGETS, serving
from docs.pages import blocks, shell

COMMANDS = [line.partition("#")[0].strip() for block in blocks("journal.md", "sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    journal = "sqlite:.strandline/journal.db"
    with serving(TARGETS / "remembers.py", folder=folder, journal=journal) as server:
        server.chat("hello")
        server.terminate()
        assert server.ended() == 0
    asyncio.run(strands_sessions.write(folder / ".strands" / "sessions"))
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works_as_it_stands_there(folder: Path, command: str) -> None:
    done = shell(command, folder=folder, HOME=str(folder))
    refused = " import " in command and "--as" not in command  # one of the sessions is of two agents
    assert done.returncode == (1 if refused else 0), done.stderr
    assert done.stdout
