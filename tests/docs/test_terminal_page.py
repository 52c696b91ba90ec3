"""`docs/terminal.md`: no command or flag is left out."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
import typer.main

from docs.pages import text
from strandline._cli import app
from strandline._settings import Settings

PAGE: Final = text("terminal.md")
EVERYWHERE: Final = PAGE + "".join(
    map(
        text,
        ("check.md", "schedules.md", "webhooks.md", "files.md", "chat-and-reload.md", "comparison.md", "journal.md"),
    )
)


def commands(command: Any, name: str = "strandline") -> Iterator[tuple[str, Any]]:
    yield name, command
    for each, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {each}")


COMMANDS: Final = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_stands_there(name: str) -> None:
    """Those of settings stand in the reference; commands with a page of their own are linked, and described there."""
    top = " ".join(name.split()[:2])
    assert f"`{name}`" in PAGE or top in PAGE
    for parameter in COMMANDS[name].params:
        is_setting = name == "strandline serve" and parameter.name in Settings.__struct_encode_fields__
        if parameter.param_type_name == "option" and not is_setting and not getattr(parameter, "hidden", False):
            assert any(flag in EVERYWHERE for flag in parameter.opts), f"{name} {parameter.opts}"
