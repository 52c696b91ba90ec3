"""The page of AgentCore's contract: its commands and its program print what it shows, and what it names is there."""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config

from acceptance.server import Server, serving
from acceptance.test_agentcore import connected
from docs.pages import DOCS, block, blocks, commands_and_output, printed
from docs.test_input_requests_page import shows
from strandline._http.dialects.agentcore import wire as agentcore
from strandline._http.exchange.run_request import RunOptions
from strandline._model import ErrorCode

PAGE = "agentcore.md"
TEXT = (DOCS / PAGE).read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("agentcore")
    (folder / "agent.py").write_text(block("quick-start.md", "python", "make_agent"))
    with serving("agent.py", folder=folder) as server:
        yield server


def test_its_command_prints_what_it_shows(server: Server) -> None:
    ((command, shown),) = commands_and_output(PAGE)
    answer = json.loads(printed(command, folder=server.folder, url=server.url))
    assert shows(answer, json.loads(shown)), answer
    assert answer.keys() == json.loads(shown).keys()


def test_its_stream_is_lines_of_text(server: Server) -> None:
    assert len(blocks(PAGE, "sh")) == 2
    output = printed(block(PAGE, "sh", "event-stream"), folder=server.folder, url=server.url).split("\n")
    pieces = [json.loads(line.removeprefix("data: ")) for line in output if line.startswith("data: ")]
    assert len(pieces) > 1
    assert "".join(pieces).startswith("I am a script. You said: hello.")
    assert {line for line in output if not line.startswith((":", "data: "))} == {""}


def test_its_program_prints_what_it_shows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = connected(server)

    def client(name: str, config: Config) -> Any:
        assert (name, config.retries) == ("bedrock-agentcore", {"total_max_attempts": 1})
        return aws

    monkeypatch.setattr(boto3, "client", client)
    (program,) = blocks(PAGE, "python")
    (shown,) = blocks(PAGE, "text")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(program, {})
    assert output.getvalue() == shown


def test_what_it_names_is_there() -> None:
    for code in ErrorCode:
        assert f"`{code}`" in TEXT
    for name in (agentcore.SESSION, *agentcore.RUNTIME_HEADERS.values(), *agentcore.Invocation.__struct_fields__):
        assert f"`{name}`" in TEXT, name
    assert {*RunOptions.__struct_fields__} <= {*agentcore.Invocation.__struct_fields__}
    assert f"up to {agentcore.LONGEST} characters" in TEXT
    for status in get_args(agentcore.PingBody.__annotations__["status"]):
        assert status in TEXT
    for kind in (agentcore.InputNeeded, agentcore.StreamFailure):
        for name in kind.__struct_fields__:
            assert re.search(rf'"{name}"', TEXT), name
