"""The page of OpenAI's protocol: its code prints what it shows, with the official client at a real server."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import json

from acceptance.server import DEADLINE_S, Server, environment, serving
from docs.pages import DOCS, block, blocks, commands_and_output, printed
from docs.test_input_requests_page import shows
from examples_shown import example
from strandline._http.dialects.openai.wire import CompletionBody
from strandline._model import ErrorCode

PAGE = "openai.md"
TEXT = (DOCS / PAGE).read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openai")
    (folder / "agent.py").write_text(block("quick-start.md", "python", "make_agent"))
    with serving("agent.py", folder=folder) as server:
        yield server


def run(code: str, server: Server) -> str:
    """Run a program of the page at this server, and return what it prints."""
    assert "http://127.0.0.1:8080" in code
    done = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8080", server.url)],
        env=environment({}),
        cwd=server.folder,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown_below(containing: str) -> str:
    found = re.findall(r"^```python\n((?:(?!^```).)*)^```\n\n^```text\n((?:(?!^```).)*)^```", TEXT, re.M | re.S)
    return str(next(text for code, text in found if containing in code))


def test_its_programs_print_what_it_shows(server: Server) -> None:
    assert len(blocks(PAGE, "python")) == 4
    for code in ('"hello"', '"hello again"'):
        assert run(block(PAGE, "python", code), server) == shown_below(code)
    streamed = run(block(PAGE, "python", "stream=True"), server)
    (answer,) = server.client.get("/history?session_id=eve").json()["messages"]
    assert streamed.endswith(answer["content"][-1]["text"])


def test_its_command_prints_what_it_shows(server: Server) -> None:
    ((command, shown),) = commands_and_output(PAGE)
    answer = json.decode(printed(command, folder=server.folder, url=server.url))
    assert shows(answer, json.decode(shown)), answer
    assert answer.keys() == json.decode(shown).keys()


def test_a_person_gets_a_question_and_answers(tmp_path: Path) -> None:
    asking = example("approval")
    with serving(*asking.serve, folder=asking.copy(tmp_path / "approval"), journal=None) as server:
        assert run(block(PAGE, "python", "refund"), server) == shown_below("refund")


def test_what_it_names_is_there() -> None:
    for code in ErrorCode:
        assert f"`{code}`" in TEXT
    fields = {*CompletionBody.__struct_fields__} - {"responses"}
    assert {
        name for name in fields if f"`{name}" not in TEXT and f"{name}=" not in TEXT and f'"{name}"' not in TEXT
    } == set()
