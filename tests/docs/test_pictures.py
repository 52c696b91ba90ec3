"""The pictures of the pages are what the code draws now, and show what they say."""

import re
import xml.etree.ElementTree as ET

import pytest

from strandline._lifecycle import MOVES
from strandline._model import RunStatus
from tools.pictures.__main__ import FOLDER, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_code_draws_now(name: str) -> None:
    assert (FOLDER / name).read_text() == PICTURES[name](), "draw them anew with: make pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_well_formed_has_a_title_and_a_dark_side(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "<title" in text
    assert "prefers-color-scheme: dark" in text


def test_the_life_of_a_run_shows_every_status_and_every_move() -> None:
    said = re.findall(r"<text[^>]*>([^<]*)</text>", PICTURES["life-of-a-run.svg"]())
    assert set(RunStatus) <= set(said)
    assert sorted(move for _, move in MOVES) == sorted(word for word in said if word in {m for _, m in MOVES})
