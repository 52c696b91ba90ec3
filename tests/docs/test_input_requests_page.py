"""The page of input requests: its code is the example's, its commands print what it shows, its settings are true."""

from pathlib import Path
from typing import Any

from msgspec import json

from acceptance.server import serving
from docs.pages import DOCS, block, blocks, commands_and_output, printed
from examples_shown import example
from strandline._config import default_of

PAGE = "input-requests.md"
SHOWN = example("approval")


def shows(whole: Any, shown: Any) -> bool:
    """Return whether all that is shown is there, `...` being anything."""
    match shown:
        case "...":
            return whole not in (None, "")
        case dict():
            return all(key in whole and shows(whole[key], value) for key, value in shown.items())
        case list():
            return len(whole) == len(shown) and all(map(shows, whole, shown))
        case _:
            return bool(whole == shown)


def test_its_code_is_that_of_the_example() -> None:
    (code,) = blocks(PAGE, "python")
    assert code in (SHOWN.folder / "agent.py").read_text()


def test_its_commands_print_what_it_shows(tmp_path: Path) -> None:
    folder = SHOWN.copy(tmp_path / "approval")
    pairs = commands_and_output(PAGE)
    assert len(pairs) == len(blocks(PAGE, "json")) == len(blocks(PAGE, "sh")) == 5
    with serving(*SHOWN.serve, folder=folder, journal=None) as server:
        for command, shown in pairs:
            answer = json.decode(printed(command, folder=folder, url=server.url))
            assert shows(answer, json.decode(shown)), answer
        history = server.client.get("/v1/sessions/till/history").json()["messages"]
        assert [message["pending"] for message in history] == [False] * 4, "the plain message has answered"


def test_its_numbers_are_true() -> None:
    assert f"`input_timeout` seconds ({default_of('input_timeout'):g})" in (DOCS / PAGE).read_text()
    assert "responses" in block(PAGE, "sh", "ID=")
