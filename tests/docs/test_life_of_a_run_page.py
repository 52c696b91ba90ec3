"""What the page of a run's life shows of each ending is what a real server answers and keeps now."""

from pathlib import Path

import pytest

from strandline._config import descriptions
from tools.pages.__main__ import BEGIN, END, PAGE, section
from tools.pages.endings import blocks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def endings() -> dict[str, str]:
    return blocks()


def test_every_ending_is_shown_as_it_is(endings: dict[str, str]) -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == section(endings), "write it anew with: python -m tools.pages"


def test_no_tool_of_a_killed_run_is_started_again(endings: dict[str, str]) -> None:
    (killed,) = [text for title, text in endings.items() if title.endswith("after a tool")]
    assert killed.count("calls book") == killed.count("booked Oslo\n") - 1 == 1


def test_the_settings_that_it_names_exist() -> None:
    names = {line.split("`")[1].split(" ")[0] for line in PAGE.read_text().splitlines() if line.startswith("- `")}
    assert len(names) == 4
    assert names <= descriptions().keys()
