"""`docs/compatibility.md`: the versions that it names are those of the project."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from strandline import _compat as compat
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
