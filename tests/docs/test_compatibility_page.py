"""`docs/compatibility.md`: the versions that it names are those of the project."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from docs.test_words import PAGES
from strandline import _compat as compat
from strandline import _older_names as names
from strandline._journal import migrations
from strandline._journal.ownership import SCHEMA_VERSION
from unit.test_exports import PUBLIC

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
JOURNALS: Final = re.findall(r"(?m)^\| ([\w. ]+?) \| (\d+) \| (?:1 to )?(\d+) \|$", PAGE)


def test_the_versions_of_python_are_those_that_the_package_names() -> None:
    (versions,) = re.findall(r"(?m)^\| Python \| (3.+) \|$", PAGE)
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert versions.split(", ") == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("package", compat.TESTED_VERSIONS)
def test_the_bounds_are_those_that_were_tried(package: str) -> None:
    assert f"| `{package}` | `{compat.bounds(package)}` |" in PAGE


def test_no_other_dependency_has_an_upper_bound() -> None:
    bounded = {re.split(r"[<>=]", each)[0] for each in PROJECT["dependencies"] if "<" in each}
    assert bounded == set(compat.TESTED_VERSIONS)


def test_the_newest_version_writes_the_schema_of_the_source_and_reads_all_before() -> None:
    _, writes, reads = JOURNALS[0]
    assert int(writes) == int(reads) == SCHEMA_VERSION
    schemas = sorted((Path(migrations.__file__).parent / "schema").glob("*.sql"))
    assert [int(each.name[:4]) for each in schemas] == list(range(1, SCHEMA_VERSION + 1))


def test_every_version_of_the_changelog_has_a_row() -> None:
    released = re.findall(r"(?m)^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert [version for version, _, _ in JOURNALS if version != "not released yet"] == released


def test_the_stable_modules_are_those_that_are_public() -> None:
    (row,) = re.findall(r"(?m)^\| Python \| (what .*) \|$", PAGE)
    assert re.findall(r"`(strandline[\w.]*)`", row) == list(PUBLIC)


WHERE: Final = {
    "RunBody": "run",
    "SessionBody": "session",
    "HealthBody": "`/health`",
    "CallerBody": "`/health`, in `callers`",
}


def test_every_name_with_an_older_one_is_listed_and_no_other() -> None:
    listed = re.findall(r"(?m)^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \|$", PAGE)
    renamed = [(name, older, "setting") for name, older in names.SETTINGS.items()]
    for setting, values in names.VALUES.items():
        renamed += [(name, older, f"value of the setting `{setting}`") for name, older in values.items()]
    renamed.append((names.CALLER, names.OLDER_CALLER, "placeholder of the setting `session_files`"))
    for command, options in names.OPTIONS.items():
        renamed += [(name, older, f"option of `strandline {command}`") for name, older in options.items()]
    for body, fields in names.FIELDS.items():
        renamed += [(name, older, WHERE[body]) for name, older in fields.items()]
    for command, fields in names.PRINTED.items():
        renamed += [(name, older, f"`strandline {command} --json`") for name, older in fields.items()]
    assert sorted((name, older, where.partition(", in an operator's")[0]) for name, older, where in listed) == sorted(
        renamed
    )


@pytest.mark.parametrize("page", [each for each in PAGES if not each.endswith("compatibility.md")])
def test_pages_use_the_clearer_names(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    older = [*names.NEWER_SETTINGS, *(each.replace("_", "-") for each in names.NEWER_SETTINGS), "unknown_tool=tell"]
    older += [each.upper() for each in names.NEWER_SETTINGS]
    found = re.findall(rf"(?<![A-Za-z0-9])(?:{'|'.join(older)}|history[ =]+\"?external)(?![\w-])", text)
    assert found == []
