"""`docs/run-control.md` is true: typed one after the other, its commands print what stands below them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import Server, ran, serving
from docs.pages import DOCS, api_variables, pattern, printed, typed_and_shown
from strandline._model import IfBusy, OnDisconnect

PAGE = "run-control.md"
TEXT = (DOCS / PAGE).read_text()
SHOWN = typed_and_shown(PAGE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("control")
    assert ran("init", folder=folder).returncode == 0
    with serving(None, folder=folder, variables={"STRANDLINE_DEMO_PACE": "0"}) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("typed")


def test_every_command_prints_what_the_page_shows(server: Server, folder: Path) -> None:
    assert len(SHOWN) == 17
    for command, shown in SHOWN:
        said = printed(command, folder=folder, url=server.url, **api_variables(command, server.url))
        said = "\n".join(line.rstrip() for line in said.splitlines())
        assert re.fullmatch(pattern(shown), f"{said}\n" if said else ""), f"{command}:\n{said}\nshown:\n{shown}"


def test_it_has_every_policy_and_all_that_may_become_of_a_run_whose_clients_are_gone() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert rows == ["if_busy", *IfBusy]
    assert {f'"{each}"' for each in OnDisconnect if each != OnDisconnect.CONTINUE} <= set(re.findall(r'"\w+"', TEXT))


def test_every_block_is_one_that_is_typed_here() -> None:
    assert set(re.findall(r"^```(\w+)", TEXT, re.MULTILINE)) == {"console"}
