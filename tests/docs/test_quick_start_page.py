"""The quick start does what it says, as it stands there: init, serve, two at once, history."""

import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from acceptance.server import DEADLINE_S, Server, serving
from docker_engine import container, volume
from docs.pages import ROOT, below, block, documents, printed, shows, text

PAGE = "quick-start.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("quick")
    printed(block(PAGE, "sh", "strandline init"), folder=folder)
    pace = {"STRANDLINE_DEMO_PACE": "0.3"}
    with serving("agent.py", folder=folder / "my-agent", variables=pace, journal=None, installed=True) as server:
        yield server


def test_init_writes_the_file_that_is_shown(server: Server) -> None:
    assert (server.folder / "agent.py").read_text() == block(PAGE, "python", "make_agent")


@pytest.fixture(scope="module")
def answers(server: Server) -> tuple[str, str]:
    """What the two questions get, asked once, and what the page shows."""
    command, shown = block(PAGE, "sh", "and hello"), below(PAGE, "and hello")
    # Two that are sent at once arrive in either order; the page shows one of them.
    first, second = command.splitlines(keepends=True)[:2]
    inside = "until curl -s localhost:8080/health | grep -q '\"processing\":true'; do :; done"
    return printed(f"{first}{inside}\n{second}wait", folder=server.folder, url=server.url), shown


def test_the_two_questions_get_the_answers_that_are_shown(answers: tuple[str, str]) -> None:
    got, shown = answers
    assert shows(documents(got), documents(shown))


def test_history_is_as_it_is_shown(server: Server, answers: tuple[str, str]) -> None:
    got = printed(block(PAGE, "sh", "/history"), folder=server.folder, url=server.url)
    assert shows(documents(got), documents(below(PAGE, "/history")))


def test_health_answers_as_shown(server: Server) -> None:
    (got,) = documents(printed(block(PAGE, "sh", "/health"), folder=server.folder, url=server.url))
    assert got["status"] == "healthy"


def test_the_journal_is_where_the_page_says(server: Server) -> None:
    assert (server.folder / ".strandline" / "journal.db").exists()


def test_what_is_served_without_a_target_is_the_file_that_init_wrote(server: Server) -> None:
    assert block(PAGE, "sh", "strandline serve") == "cd my-agent\nstrandline serve\n"
    server.chat("hello", "bob")
    server.terminate()
    assert server.ended() == 0
    try:
        with _served_as_it_stands(server.folder) as again:
            assert [each["role"] for each in again.history("bob")][:1] == ["user"]
    finally:
        server.start()  # for the tests that come after it, whichever those are


def test_the_way_of_installing_names_extras_and_folders_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "pip install '.[demo]'" in text(PAGE)
    assert "demo" in project["optional-dependencies"]


def test_its_container_serves_the_file_that_init_writes(image: str, tmp_path: Path) -> None:
    """The command as it is written, but for names that other containers on this machine have."""
    printed(block(PAGE, "sh", "strandline init"), folder=tmp_path)
    make, run = block(PAGE, "sh", "docker run").split("\n", 1)
    assert make == "make image"  # which has built `image`
    words = shlex.split(run.replace("\\\n", " ").replace("$PWD", str(tmp_path)))
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


class _served_as_it_stands(Server):  # noqa: N801
    """`strandline serve`, without a TARGET."""

    def __init__(self, folder: Path) -> None:
        super().__init__("--port", "0", folder=folder, journal=None, port=None)

    def __enter__(self) -> "_served_as_it_stands":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
