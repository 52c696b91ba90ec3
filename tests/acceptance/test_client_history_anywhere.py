"""Lists of messages at any of several servers, and those that are long."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from acceptance.chat_program import ChatProgram, told
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.openai_client import connected
from acceptance.server import TARGETS, Server, serving, texts
from acceptance.test_any_server import sessions_of, two

AGENT = TARGETS / "agent.py"
MOST = 20_000


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def client(server: Server) -> OpenAI:
    return connected(server, max_retries=0)


def test_any_server_follows_the_list(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path) as (first, second), client(second) as asked:
        (session_id,) = sessions_of(first, second, 1)
        chat = ChatProgram(asked, session_id)
        chat.send("one")
        replaced = chat.send("two a")
        edited = chat.edit(1, "zwei")
        assert told(edited)["superseded"] == [replaced.id]
        assert [each["name"] for each in told(edited)["effects"]] == ["work"]
        assert texts(first.history(session_id), "user") == chat.users == ["one", "zwei"]


def test_long_lists_are_compared_too(at: Checkpoints, tmp_path: Path) -> None:
    flags = ("--max-body-bytes", str(MOST), "--client-history", "follow")
    long = "x" * (MOST // 2)
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server, client(server) as asked:
        chat = ChatProgram(asked, "long", how=None)
        for text in ("one", long, "three " + long, "four"):
            assert "superseded" not in told(chat.send(text))
        assert sum(map(len, chat.users)) > MOST
        chat.edit(2, "drei")
        assert texts(server.history("long"), "user") == chat.users == ["one", long, "drei"]
        chat.messages = [{"role": "user", "content": "y" * MOST}, *chat.messages]
        assert "superseded" not in told(chat.send("vier")), "what is too large to be compared counts as left out"
        assert texts(server.history("long"), "user") == ["one", long, "drei", "vier"]
