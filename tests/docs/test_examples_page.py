"""The page of examples names them all, and each of their pages is short, true to its folder, and tried by a test."""

import re

import pytest

from docs.pages import ROOT, block, text
from examples_shown import EXAMPLES, SCRIPTED, Example

PAGE = text("examples.md")
FOLDERS = sorted(each for each in EXAMPLES.iterdir() if (each / "README.md").exists())

every_example = pytest.mark.parametrize("shown", [Example(each) for each in FOLDERS], ids=[f.name for f in FOLDERS])


def test_the_page_names_every_example_once() -> None:
    named = re.findall(r"^\| `examples/([\w-]+)/`", PAGE, re.MULTILINE)
    assert sorted(named) == [each.name for each in FOLDERS]


def test_the_commands_of_the_page_are_those_of_the_example() -> None:
    change, serve = block("examples.md", "sh").splitlines()
    folder = ROOT / change.removeprefix("cd ")
    assert serve in Example(folder).readme


@every_example
def test_its_page_is_short(shown: Example) -> None:
    assert len(shown.readme.splitlines()) <= 25


@every_example
def test_its_page_names_only_files_that_are_there(shown: Example) -> None:
    for name in re.findall(r"`([\w.]+\.(?:py|txt|yaml|html))`", shown.readme):
        assert (shown.folder / name).exists(), name


@every_example
def test_its_page_says_how_to_put_a_real_model_in(shown: Example) -> None:
    assert re.search(r"^\*\*(With a real model|Your model)\*\*", shown.readme, re.MULTILINE)
    if SCRIPTED.strip() in shown.readme:
        assert sum(SCRIPTED in file.read_text() for file in shown.folder.glob("*.py")) >= 1


@every_example
def test_it_has_a_test_of_its_own(shown: Example) -> None:
    assert (ROOT / "tests" / "examples" / f"test_{shown.folder.name.replace('-', '_')}.py").exists()
