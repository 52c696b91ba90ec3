"""Chat programs that let people edit what they said: the agent has the conversation that the program shows."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from acceptance.chat_program import ChatProgram, told
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("client_history")
    with serving(AGENT, folder=folder, variables=at.environment, installed=True) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left_behind(server: Server, at: Checkpoints) -> Iterator[None]:
    yield
    at.release()
    server.quiet()


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_S, max_retries=0) as made:
        yield made


def users(server: Server, session_id: str) -> list[str]:
    return texts(server.history(session_id), "user")


def test_an_edited_message_takes_the_conversation_back(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "edited")
    chat.send("one")
    first = chat.send("two a")
    chat.send("three")
    assert "superseded" not in told(first)
    edited = chat.edit(1, "two b")
    assert edited.choices[0].message.content == "two: did b"
    assert users(server, "edited") == chat.users == ["one", "two b"]
    fields = told(edited)
    assert fields["after"] == server.client.get("/v1/sessions/edited/history").json()["messages"][0]["run_id"]
    assert fields["superseded"][0] == first.id
    assert [(each["run_id"], each["name"]) for each in fields["effects"]] == [(first.id, "work")]
    chat.send("four")
    assert users(server, "edited") == chat.users == ["one", "two b", "four"]
