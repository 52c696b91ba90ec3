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

CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TEMPLATES: Final = sorted((ROOT / ".github").rglob("*.md"))
HOOKS: Final[list[dict[str, Any]]] = [
    hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]
]


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
    assert {path.name for path in TEMPLATES} == {"defect.md", "wish.md", "pull_request_template.md"}
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
