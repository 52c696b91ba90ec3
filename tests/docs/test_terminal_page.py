"""`docs/terminal.md` is true: its commands print what stands below them, and no command or flag is left out."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from acceptance.server import COMMAND, DEADLINE_S, Server, environment, free_port, ran
from docs.pages import api_variables, pattern, typed_and_shown
from strandline._cli import app
from strandline._settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "terminal.md").read_text()
SHOWN = typed_and_shown("terminal.md")
BARE = dict.fromkeys(("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST", "AWS_PROFILE"), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands are typed, one after the other."""
    return tmp_path_factory.mktemp("terminal")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    assert ran("init", folder=folder).returncode == 0
    served = Server(None, folder=folder, variables={"STRANDLINE_DEMO_PACE": "0"})
    try:
        served.start()
        yield served
    finally:
        served.close()


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_every_command_prints_what_the_page_shows(folder: Path, server: Server, command: str, output: str) -> None:
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    variables = dict(api_variables(command, server.url))
    if command == "strandline doctor":  # the port of the page may be taken on this machine
        variables["STRANDLINE_PORT"] = str(free_port())
        output = output.replace("all have their default values", "...").replace("8080", "...")
    home = folder / "hello" if (folder / "hello").exists() and " init " not in command else folder
    done = subprocess.run(
        ["sh", "-c", command.replace("http://localhost:8080", server.url).replace("localhost:8080", server.url)],
        cwd=home,
        env=environment(
            {
                **BARE,
                **variables,
                "PATH": path,
                "HOME": str(folder),
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    said = done.stdout if done.stdout.endswith("\n") else done.stdout + "\n"
    assert re.fullmatch(pattern(output), said), f"{command}:\n{said}\nshown:\n{output}"


def commands(command: Any, name: str = "strandline") -> Iterator[tuple[str, Any]]:
    yield name, command
    for each, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {each}")


COMMANDS = dict(commands(typer.main.get_command(app)))
ELSEWHERE = ("check.md", "chat-and-reload.md", "comparison.md", "journal.md")
EVERYWHERE = PAGE + "".join((DOCS / page).read_text() for page in ELSEWHERE if (DOCS / page).exists())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_stands_there(name: str) -> None:
    """Those of settings stand in the reference; commands with a page of their own are linked, and described there."""
    top = " ".join(name.split()[:2])
    assert f"`{name}`" in PAGE or top in PAGE
    for parameter in COMMANDS[name].params:
        is_setting = name == "strandline serve" and parameter.name in Settings.__struct_encode_fields__
        if parameter.param_type_name == "option" and not is_setting and not getattr(parameter, "hidden", False):
            assert any(flag in EVERYWHERE for flag in parameter.opts), f"{name} {parameter.opts}"


def test_every_anchor_of_the_table_leads_to_a_heading() -> None:
    headings = {re.sub(r"[^a-z ]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^## (.*)$", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
