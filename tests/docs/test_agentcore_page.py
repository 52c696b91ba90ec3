"""`docs/agentcore.md`: its stream, and its program with AWS's own client."""

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from botocore.config import Config

from acceptance.server import Server, serving
from acceptance.test_agentcore import connected
from docs.page_run import init
from docs.pages import block, blocks, printed

PAGE = "agentcore.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("agentcore")
    with serving(*init(folder), folder=folder) as server:
        yield server


def test_its_stream_is_lines_of_text(server: Server) -> None:
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
