"""The README is true: its code runs as it stands there, its links lead somewhere, promises have real tests."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import Server, serving
from docs.pages import DOCS, ROOT, block, blocks, documents, printed, text

README = text("README.md")
PROMISES = text("promises.md")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the README's commands start, on a port and with a journal as they come."""
    install, serve = block("README.md", "sh", "strandline serve").splitlines()
    assert install == "pip install ."  # as test_wheel.py does
    command, subcommand, target = shlex.split(serve)
    assert [command, subcommand] == ["strandline", "serve"]
    folder = tmp_path_factory.mktemp("readme")
    (folder / target).write_text(block("README.md", "python", "make_agent"))
    pace = {"STRANDLINE_DEMO_PACE": "0.2"}
    with serving(target, folder=folder, variables=pace, journal=None, installed=True) as server:
        yield server


def test_the_two_curls_get_what_the_readme_says(server: Server) -> None:
    """Which of the two is first is theirs to decide: each says which message it was."""
    got = documents(printed(block("README.md", "sh", "add 2 and 3"), folder=server.folder, url=server.url))
    shown = documents(block("README.md", "json", "message 1"))
    assert [each.keys() for each in got] == [each.keys() for each in shown]
    number = re.compile(r"message [12] of this session")
    assert sorted(number.sub("", each["response"]) for each in got) == sorted(
        number.sub("", each["response"]) for each in shown
    )
    assert {number.findall(each["response"])[0] for each in got} == {
        "message 1 of this session",
        "message 2 of this session",
    }


def test_the_agent_of_the_readme_has_eight_lines_and_is_on_the_sites_first_page() -> None:
    agent = block("README.md", "python", "make_agent")
    assert len([line for line in agent.splitlines() if line and not line.startswith("#")]) == 8
    assert blocks("index.md", "python") == [agent]
    assert blocks("index.md", "sh") == [block("README.md", "sh", "strandline serve").splitlines(keepends=True)[1]]


def test_make_has_every_target_of_the_pages() -> None:
    """`make run` is tried by test_demo.py, and this is `make test`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = "".join(page.read_text() for page in [*ROOT.glob("[RC]*.md"), *DOCS.glob("*.md")])
    named = set(re.findall(r"\bmake ([a-z-]+)`", pages)) | set(re.findall(r"^make ([a-z-]+)$", pages, re.MULTILINE))
    assert {"run", "image", "docs"} <= named <= targets


def test_the_rows_about_a_lock_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs" / "comparison.md").read_text().splitlines()
    rows = [line for line in README.partition("## Why not a lock?")[2].partition("##")[0].splitlines() if "|" in line]
    assert len(rows) > 6
    assert [row for row in rows if row not in measured and not set(row) <= set("|-")] == []


def test_every_promise_links_to_tests_that_exist() -> None:
    rows = re.findall(r"^\| \*\*(.*?)\*\* (.*?) \| (.*?) \|$", PROMISES, re.MULTILINE)
    assert len(rows) > 12
    for promise, _, tests in rows:
        links = re.findall(r"\[`((?:test_|Test)\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", tests)
        assert len(links) == tests.count("](") > 0, promise
        for name, file in links:
            assert re.search(rf"^ *(?:(?:async )?def |class )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), name


def test_the_readme_is_short() -> None:
    assert len([word for word in README.split() if word not in {"|", "·"}]) <= 600


def test_every_file_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text[text.index("src/strandline/\n") :].split("```")[0]
    folders = [(0, Path("src/strandline"))]  # those that a line is in, each with its indent
    for line in tree.splitlines()[1:]:
        indent = len(line) - len(line.lstrip())
        first = line.split()[0] if line.split() else ""
        if first:
            folders = [each for each in folders if each[0] < indent] or [(-1, Path())]
        if first.endswith("/"):
            folders.append((indent, folders[-1][1] / first))
            assert (ROOT / folders[-1][1]).is_dir(), first
        for name in re.findall(r"\b(\w+\.py)\b", line):
            assert (ROOT / folders[-1][1] / name).exists(), f"{folders[-1][1] / name}"


def test_every_module_is_named_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for file in (ROOT / "src/strandline").rglob("*.py"):
        if not {"_demo", "testing"} & set(file.parts) and not file.name.startswith("__"):
            assert re.search(rf"\b{file.name}\b", text), file.name
