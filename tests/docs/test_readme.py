"""The README is true: its code runs as it stands there, its links lead somewhere, its guarantees name real tests."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from acceptance.server import DEADLINE_S, Server, serving
from docker_engine import container, volume
from docs.pages import documents, printed

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block(language: str, containing: str) -> str:
    return str(next(text for kind, text in BLOCKS if kind == language and containing in text))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What the README's commands start, on a port and with a journal as they come."""
    install, init, serve = block("sh", "strandline init").splitlines()
    assert install == "pip install ."  # as test_wheel.py does
    folder = tmp_path_factory.mktemp("readme")
    place = printed(f"{init}\npwd", folder=folder).splitlines()[-1]
    command, subcommand, *flags = shlex.split(serve)
    assert [command, subcommand] == ["strandline", "serve"]
    with serving(None, *flags, folder=Path(place), variables={"STRANDLINE_DEMO_PACE": "0.2"}, installed=True) as server:
        yield server


def test_the_two_curls_get_what_the_readme_says(server: Server) -> None:
    """Which of the two is first is theirs to decide: each says which message it was."""
    got = documents(printed(block("sh", "add 2 and 3"), folder=server.folder, url=server.url))
    shown = documents(block("json", "message 1"))
    assert [each.keys() for each in got] == [each.keys() for each in shown]
    number = re.compile(r"message [12] of this session")
    assert sorted(number.sub("", each["response"]) for each in got) == sorted(
        number.sub("", each["response"]) for each in shown
    )
    assert {number.findall(each["response"])[0] for each in got} == {
        "message 1 of this session",
        "message 2 of this session",
    }


def test_the_readmes_container_serves_the_file_that_init_writes(image: str, tmp_path: Path) -> None:
    """The command as it stands, but for names that other containers on this machine have."""
    (init,) = [line for line in block("sh", "strandline init").splitlines() if "init" in line]
    place = Path(printed(f"{init}\npwd", folder=tmp_path).splitlines()[-1])
    make, run = block("sh", "docker run").splitlines()
    assert make == "make -C .. image"  # which has built `image`, from the folder in which init was called
    words = shlex.split(run.replace("$PWD", str(place)))
    assert words[:4] == ["docker", "run", "-p", "127.0.0.1:8080:8080"]
    assert words[-1] == "strandline"
    with (
        volume(image) as data,
        container(image, *(w.replace("strandline-data", data.name) for w in words[4:-1])) as one,
    ):
        said = httpx.post(f"{one.until_ready()}/chat", json={"message": "add 2 and 3"}, timeout=DEADLINE_S).json()
        assert said["response"] == "add returned 5. That was message 1 of this session."
        assert one.stop() in (0, 143)
        one.start()
        history = httpx.get(f"{one.until_ready()}/history?count=0", timeout=DEADLINE_S).json()["messages"]
        assert history[0] == {"role": "user", "content": [{"text": "add 2 and 3"}]}


def test_make_knows_what_the_readme_tells_to_make() -> None:
    """`make run` is tried by test_demo.py, and this is `make test`."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake(?: -C \.\.)? ([a-z]+)", README))
    assert {"run", "test", "image", "docs"} <= named <= targets


def test_the_readme_has_no_block_that_no_test_knows() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "sh", "sh", "json", "sh"]


def test_the_rows_about_a_lock_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs" / "comparison.md").read_text().splitlines()
    rows = [line for line in README.partition("## Why not a lock?")[2].partition("##")[0].splitlines() if "|" in line]
    assert len(rows) > 6
    assert [row for row in rows if row not in measured and not set(row) <= set("|-")] == []


def test_every_guarantee_names_tests_that_exist() -> None:
    names = set(re.findall(r"`((?:test_|Test)\w+)`", README))
    assert len(names) > 10
    defined = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^ *(?:def |class )?((?:test_|Test)\w+)", file.read_text(), re.MULTILINE))
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
        if not {"demo", "testing"} & set(file.parts) and not file.name.startswith("__"):
            assert re.search(rf"\b{file.name}\b", text), file.name
