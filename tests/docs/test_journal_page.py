"""The commands of `docs/journal.md` do what the page says, as they stand there."""

import asyncio
import os
import re
import subprocess
from pathlib import Path

import pytest

import strands_sessions
from acceptance.server import COMMAND, TARGETS, environment, serving
from strandline._journal.ownership import SCHEMA_VERSION

PAGE = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


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
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    variables = environment({"HOME": str(folder), "PATH": path})
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=60
    )
    refused = " import " in command and "--as" not in command  # one of the sessions is of two agents
    assert done.returncode == (1 if refused else 0), done.stderr
    assert done.stdout


def test_the_schema_that_it_names_is_that_of_this_version() -> None:
    assert f"which is {SCHEMA_VERSION} in this version" in PAGE
