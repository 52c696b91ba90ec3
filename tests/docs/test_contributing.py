"""What CONTRIBUTING says to type is there, and what helps on the way asks for nothing from elsewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

from docs.pages import ROOT, block
from strandline._journal import ownership
from strandline._journal.postgres import schema as postgres_schema

CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TEMPLATES: Final = sorted((ROOT / ".github").rglob("*.md"))
HOOKS: Final[list[dict[str, Any]]] = [
    hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]
]
PLACES: Final = (
    "src/strandline",
    "bench",
    "container",
    "deploy",
    "judging",
    "simulation",
    "soak",
    "tools",
    "tests/fakes",
)
"""Where the modules are that `tests/unit` tests."""
ABOUT_MANY: Final = {
    "exports": "all public modules together",
    "found_by_simulation": "worlds that failed once, whichever module was wrong",
}
"""Unit tests of no single module, and why."""
TESTED_BY: Final = {
    "_agents": "tests/unit/test_strands.py",
    "_chat": "tests/acceptance/test_chat_command.py",
    "_cli": "tests/acceptance/test_command.py",
    "_demo": "tests/acceptance/test_demo.py",
    "_doctor": "tests/acceptance/test_doctor.py",
    "_engine": "tests/unit/test_service.py",
    "_http": "tests/acceptance/test_http.py",
    "_journal": "tests/contract/test_sqlite.py",
    "_reload": "tests/acceptance/test_reload.py",
    "_remote": "tests/acceptance/test_errors_in_the_terminal.py",
    "_scripted": "tests/unit/test_scripted_model.py",
    "testing/_contract": "tests/contract/test_memory.py",
    "testing": "tests/unit/test_history.py",
    "__main__.py": "tests/acceptance/test_command.py",
    "_composition.py": "tests/unit/test_settings.py",
    "_exits.py": "tests/acceptance/test_stop.py",
    "_garbage.py": "tests/acceptance/test_health.py",
    "_lifespan.py": "tests/unit/test_library_start.py",
    "_model.py": "tests/unit/test_encoding.py",
    "_normalize.py": "tests/unit/test_history.py",
    "_printable.py": "tests/unit/test_logs.py",
    "_server.py": "tests/acceptance/test_stop.py",
    "_stacks.py": "tests/acceptance/test_timeouts.py",
    "errors.py": "tests/docs/test_reference.py",
    "events.py": "tests/unit/test_library_service.py",
}
"""Where modules and packages are tested that have no file of their own in `tests/unit`: by what is made of them."""


def modules() -> dict[str, set[Path]]:
    """Return modules and packages by name: `commits` and `journal_commits` are both `_journal/commits.py`."""
    found: dict[str, set[Path]] = {}
    for place in map(ROOT.joinpath, PLACES):
        for path in [place, *place.rglob("*")]:
            if path.is_dir() or path.suffix == ".py":
                parts = path.relative_to(ROOT / "src/strandline" if place.name == "strandline" else place.parent).parts
                names = [part.removesuffix(".py").lstrip("_").replace("-", "_") for part in parts]
                for first in range(len(names)):
                    found.setdefault("_".join(names[first:]), set()).add(path)
    return found


def named(test: str, known: dict[str, set[Path]]) -> set[Path]:
    """Return the modules that a file of tests is named for: all of its name, or all but a topic at its end."""
    words = test.split("_")
    return next((known[name] for n in range(len(words), 0, -1) if (name := "_".join(words[:n])) in known), set())


def covered() -> set[Path]:
    """Return the modules and packages with unit tests of their own; a file about a topic of a package is not enough."""
    known = modules()
    return {path for test in UNITS for path in named(test, known) if test in known or path.is_file()}


UNITS: Final = {path.stem.removeprefix("test_") for path in (ROOT / "tests/unit").glob("test_*.py")}


def test_a_file_of_unit_tests_is_named_for_its_module_or_package() -> None:
    known = modules()
    assert {test for test in UNITS if not named(test, known)} == ABOUT_MANY.keys(), (
        "name it test_MODULE.py or test_PACKAGE.py, with a topic at the end if there are several"
    )


def test_every_module_has_tests_under_its_name_or_that_of_its_package() -> None:
    source = ROOT / "src/strandline"
    tested = covered() | {source / name for name in TESTED_BY}
    files = {path for path in source.rglob("*.py") if path.name != "__init__.py"}
    assert {path for path in files if not {path, *path.parents} & tested} == set(), "write tests/unit/test_MODULE.py"


@pytest.mark.parametrize("name", TESTED_BY)
def test_what_is_tested_elsewhere_is_there_and_needs_to_be_named(name: str) -> None:
    own, path = covered(), ROOT / "src/strandline" / name
    assert path.exists()
    assert (ROOT / TESTED_BY[name]).is_file()
    inside = [path] if path.is_file() else [each for each in path.rglob("*.py") if each.name != "__init__.py"]
    assert [each for each in inside if not {each, *each.parents} & own] != [], "it has unit tests of its own by now"


def test_every_target_of_make_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`(?:[A-Z_]+=\S+ )*make ([a-z ]+)", CONTRIBUTING))
    targets = {target for words in commands for target in words.split()}
    assert {"check", "test", "coverage", "docs"} <= targets
    assert {target for target in targets if not re.search(rf"(?m)^{target}:", makefile)} == set()


def test_a_journal_is_tested_as_shown(tmp_path: Path) -> None:
    imported = "from strandline._journal.sqlite import SqliteJournal as MyJournal\n"
    (tmp_path / "test_mine.py").write_text(imported + block("CONTRIBUTING.md", "python", "TestMyJournal"))
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-k", "free_session or order_of_acceptance", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:src|tests|tools|docs|simulation|soak)/[\w./-]+)`", CONTRIBUTING))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_hooks_fetch_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert {hook["language"] for hook in HOOKS} == {"system"}
    assert "://" not in (ROOT / ".pre-commit-config.yaml").read_text()


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_the_hooks_check_what_make_check_checks(hook: dict[str, Any]) -> None:
    command = hook["entry"].replace(".venv/bin/", "$(BIN)/")
    said = (ROOT / "Makefile").read_text()
    assert command in said or command in said.replace(" --check", "")


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if "ruff" in hook["entry"]], ids=lambda hook: hook["id"])
def test_a_hook_passes_on_a_file_of_ours(hook: dict[str, Any]) -> None:
    command = [str(Path(sys.executable).with_name("ruff")), *shlex.split(hook["entry"])[1:], "tests/docs/test_adr.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_templates_lead_to_files_of_ours_and_nowhere_else() -> None:
    assert {path.name for path in TEMPLATES} == {"defect.md", "feature.md", "pull_request_template.md"}
    for path in TEMPLATES:
        text = path.read_text()
        assert "://" not in text
        for file in re.findall(r"\]\(\.\./blob/HEAD/([^)#]+)", text):
            assert (ROOT / file).is_file(), file


@pytest.mark.parametrize(
    "path", [path for path in TEMPLATES if path.parent.name == "ISSUE_TEMPLATE"], ids=lambda p: p.stem
)
def test_an_issue_template_says_what_it_is_for(path: Path) -> None:
    _, head, body = path.read_text().split("---\n", 2)
    assert yaml.safe_load(head).keys() == {"name", "about"}
    assert "**" in body


def test_commands_that_templates_ask_for_are_there() -> None:
    text = (ROOT / ".github/ISSUE_TEMPLATE/defect.md").read_text()
    for command in re.findall(r"`strandline ([a-z]+)(?: (--[a-z]+))?`", text):
        done = subprocess.run(
            [sys.executable, "-m", "strandline", command[0], "--help"], capture_output=True, text=True, check=True
        )
        assert command[1] in done.stdout


@pytest.mark.parametrize(
    ("folder", "version"), [("", ownership.SCHEMA_VERSION), ("postgres", postgres_schema.SCHEMA_VERSION)]
)
def test_each_version_of_the_tables_has_one_file(folder: str, version: int) -> None:
    """Two of one number are both made for a new journal, and one of them for nobody who has that version."""
    files = sorted((ROOT / "src/strandline/_journal" / folder / "schema").glob("*.sql"))
    assert [int(each.name[:4]) for each in files] == list(range(1, version + 1))
