"""Fixtures of many files. Each of these has a fixture `server` of its own, with what its tests are about."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.openai_client import connected
from acceptance.server import Server


@pytest.fixture(scope="module")
def at() -> Iterator[Checkpoints]:
    """What a server of the whole file reports to. (Files whose tests each have a server define it anew.)"""
    with checkpoints() as made:
        yield made


@pytest.fixture
def nothing_left_behind(server: Server, at: Checkpoints) -> Iterator[None]:
    """Leave the file's server to the next test with nothing held, and nothing that executes."""
    yield
    at.release()
    server.quiet()


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's own client."""
    with connected(server) as made:
        yield made
