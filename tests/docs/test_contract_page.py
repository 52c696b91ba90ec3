"""The page of the original contract: each of its requests gets what stands below it; its settings exist."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from acceptance.server import COMMAND, Server, environment, serving
from docs.pages import DOCS, block, blocks, commands_and_output, documents, printed
from strandline._config import ALIASES

PAGE = "contract.md"
PAIRS = commands_and_output(PAGE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("contract")
    (folder / "agent.py").write_text(block("quick-start.md", "python", "make_agent"))
    with serving("agent.py", folder=folder, variables={"STRANDLINE_DEMO_PACE": "0"}) as server:
        yield server


def test_every_request_gets_what_is_shown_below_it(server: Server) -> None:
    assert len(PAIRS) == len(blocks(PAGE, "sh")) == 4
    for command, shown in PAIRS:
        (got,) = documents(printed(command, folder=server.folder, url=server.url))
        (expected,) = documents(shown)
        assert got == expected, command
        assert list(got) == list(expected), command


def test_the_variables_of_the_original_are_honoured() -> None:
    named = re.findall(r"`(PORT|AGENT_ID|IDLE_TIMEOUT_MINUTES)`", (DOCS / PAGE).read_text())
    assert sorted(named) == sorted(ALIASES.values())


def test_the_commands_of_the_concepts_work(server: Server) -> None:
    (command,) = blocks("concepts.md", "sh")
    done = subprocess.run(
        [COMMAND, *command.split()[1:], "journal.db"],
        cwd=server.folder,
        env=environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
