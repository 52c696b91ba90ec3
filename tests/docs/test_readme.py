"""The README is true: its code runs as it stands there, its links lead somewhere, its guarantees name real tests."""

import ast
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import Server, serving

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    return str(next(text for kind, text in BLOCKS if kind == language and containing in text))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("readme")
    (folder / "agent.py").write_text(block("python", "make_agent"))
    with serving("agent.py", folder=folder) as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands use curl, which is not here")
def test_the_two_curls_get_what_the_readme_says(server: Server) -> None:
    commands = block("sh", "curl").replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(["sh", "-c", commands], capture_output=True, text=True, timeout=60, check=True)
    got = sorted(re.findall(r"\{.*?\}", done.stdout))
    shown = [json.loads(line) for line in block("json", "question 1").splitlines()]
    answers = sorted((json.loads(each) for each in got), key=lambda answer: str(answer["response"]))
    assert [answer.keys() for answer in answers] == [each.keys() for each in shown]
    for answer, expected in zip(answers, shown, strict=True):
        assert {**answer, "run_id": "run_..."} == expected


def test_every_guarantee_names_tests_that_exist() -> None:
    names = set(re.findall(r"`((?:test_|Test)\w+)`", README))
    assert len(names) > 10
    defined = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
    assert names <= defined, names - defined


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


@pytest.mark.parametrize("page", sorted(page.relative_to(ROOT).as_posix() for page in PAGES))
def test_every_link_leads_somewhere(page: str) -> None:
    file = ROOT / page
    prose = re.sub(r"^```.*?^```", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if not target.startswith("http"):
            assert (file.parent / target).exists(), f"{page} links to {target}"


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text[text.index("src/strandline/\n") :].split("```")[0]
    folder = Path("src/strandline")
    for line in tree.splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        first = line.split()[0] if line.split() else ""
        if indent == 2:
            folder = Path("src/strandline")
        if first.endswith("/") and indent <= 2:
            folder = Path("src/strandline") / first if indent == 2 else Path(first)
            assert (ROOT / folder).is_dir(), first
        for name in re.findall(r"\b(\w+\.py)\b", line):
            assert (ROOT / folder / name).exists(), f"{folder / name}"


def test_every_module_is_named_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for file in (ROOT / "src/strandline").rglob("*.py"):
        if not {"demo", "testing"} & set(file.parts) and not file.name.startswith("__"):
            assert re.search(rf"\b{file.name}\b", text), file.name
