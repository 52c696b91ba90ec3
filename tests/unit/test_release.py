"""`tools/release.py`: what it reads and writes."""

import importlib.util
import sys
import tomllib
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

import strandline

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

### Added
- A thing.

## [0.1.0]

- The first.
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release"] = module  # (its records look their module up)
    spec.loader.exec_module(module)
    return module


release = load()


def test_versions_are_ordered_as_they_come() -> None:
    versions = ["0.9.0", "0.10.0a1", "0.10.0b1", "0.10.0rc1", "0.10.0rc2", "0.10.0", "0.10.1", "1.0.0"]
    assert sorted({*versions}, key=release.key) == versions


@pytest.mark.parametrize("version", ["", "1.0", "v1.0.0", "1.0.0-rc1", "1.0.0.dev1", "1.0.0 "])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(release.Refused, match="is no version"):
        release.key(version)


def test_the_version_stands_in_one_place() -> None:
    assert release.version_of((ROOT / release.SOURCE).read_text()) == strandline.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == release.SOURCE
    assert release.SOURCE in (ROOT / "Makefile").read_text()


def test_a_changelog_gets_the_version_and_its_day_above_what_was_not_released() -> None:
    made = release.dated(CHANGELOG, "0.2.0", date(2026, 12, 1))
    assert "\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n### Added\n- A thing.\n\n## [0.1.0]\n" in made
    assert release.entries(made) == ""


def test_the_entries_of_a_changelog_are_those_that_were_not_released() -> None:
    assert release.entries(CHANGELOG) == "### Added\n- A thing."
    assert release.entries(CHANGELOG.replace("- A thing.\n", "")) == ""
    with pytest.raises(release.Refused, match="no heading"):
        release.entries("# Changelog\n")


def test_ours_has_the_heading() -> None:
    release.entries((ROOT / release.CHANGELOG).read_text())


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("Strandline 0.1.0 serves factory", "Strandline 0.2.0 serves factory"),
        ("ok  packages  strandline 0.1.0, strands-agents", "ok  packages  strandline 0.2.0, strands-agents"),
        ('{"version":"0.1.0","x":1}', '{"version":"0.2.0","x":1}'),
        ('"version": "0.1.0",', '"version": "0.2.0",'),
        ("as of Strandline 0.1.0.", "as of Strandline 0.2.0."),
        ("uvicorn 0.1.0", "uvicorn 0.1.0"),
        ("Strandline 0.1.0rc1", "Strandline 0.1.0rc1"),
        ("Strandline 0.1.01", "Strandline 0.1.01"),
    ],
)
def test_pages_show_servers_of_the_new_version(line: str, becomes: str) -> None:
    assert release.renamed(line, "0.1.0", "0.2.0") == becomes


TABLE = "| version | writes schema | reads schemas |\n|---|---|---|\n"


@pytest.mark.parametrize(
    ("rows", "become"),
    [
        ("| not released yet | 7 | 1 to 7 |\n| 0.1.0 | 1 | 1 |\n", "| 0.2.0 | 7 | 1 to 7 |\n| 0.1.0 | 1 | 1 |\n"),
        ("| 0.1.0 | 7 | 1 to 7 |\n", "| 0.2.0 | 7 | 1 to 7 |\n| 0.1.0 | 7 | 1 to 7 |\n"),
    ],
)
def test_a_release_gets_a_row_in_the_table_of_journals(rows: str, become: str) -> None:
    assert release.with_journals(f"{TABLE}{rows}\nMore.\n", "0.2.0") == f"{TABLE}{become}\nMore.\n"


def test_ours_has_the_table_of_journals() -> None:
    page = (ROOT / release.COMPATIBILITY).read_text()
    assert "\n| 77.0.0 | " in release.with_journals(page, "77.0.0")
