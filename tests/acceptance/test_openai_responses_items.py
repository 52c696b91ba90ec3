"""Items of conversations and of inputs at a real server, by OpenAI's own client, which pages through them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from acceptance.openai_client import connected
from acceptance.server import TARGETS, Server, serving

WANTED = TARGETS / "wanted.py"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(WANTED, folder=tmp_path_factory.mktemp("items")) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with connected(server) as made:
        yield made


def ask(client: OpenAI, text: Any, **more: Any) -> Any:
    return client.responses.create(model="any", input=text, **more)


def brief(item: Any) -> str:
    """An item as `kind: content`."""
    match item.type:
        case "message":
            return f"{item.role}: {' '.join(getattr(part, 'text', part.type) for part in item.content)}"
        case "function_call":
            return f"call: {item.name} {item.arguments}"
        case "function_call_output":
            return f"output: {item.output}"
    return str(item.type)


def listed(client: OpenAI, conversation: str, **query: Any) -> list[str]:
    return [brief(item) for item in client.conversations.items.list(conversation, **query)]


def test_the_items_of_a_conversation_are_its_history(server: Server, client: OpenAI) -> None:
    ask(client, 'call [["add", {"a": 1, "b": 2}], ["add", {"a": 3, "b": 4}]]', conversation="history")
    ask(client, "hello", conversation="history")
    said = [
        'user: call [["add", {"a": 1, "b": 2}], ["add", {"a": 3, "b": 4}]]',
        'call: add {"a":1,"b":2}',
        'call: add {"a":3,"b":4}',
        "output: 3",
        "output: 7",
        'assistant: got [["add", "3"], ["add", "7"]]',
        "user: hello",
        "assistant: did hello",
    ]
    assert listed(client, "history", order="asc") == said
    assert listed(client, "history") == said[::-1]
    items = list(client.conversations.items.list("history", order="asc"))
    calls = [each.call_id for each in items if each.type == "function_call"]
    assert [each.call_id for each in items if each.type == "function_call_output"] == calls
    for limit in range(1, 10):  # (the client asks for pages until there is no other)
        assert listed(client, "history", order="asc", limit=limit) == said
        assert listed(client, "history", order="desc", limit=limit) == said[::-1]
    for number, item in enumerate(items):
        assert listed(client, "history", order="asc", after=item.id) == said[number + 1 :]
        assert listed(client, "history", order="desc", after=item.id) == said[:number][::-1]


def test_items_leave_out_what_is_superseded(client: OpenAI) -> None:
    first = ask(client, "one", conversation="branched")
    for number in range(30):
        ask(client, f"gone {number}", conversation="branched")
    ask(client, "two", previous_response_id=first.id)
    said = ["user: one", "assistant: did one", "user: two", "assistant: did two"]
    for limit in (1, 3, 100):
        assert listed(client, "branched", order="asc", limit=limit) == said
        assert listed(client, "branched", order="desc", limit=limit) == said[::-1]


def test_large_messages_are_all_there(client: OpenAI) -> None:
    for number in range(6):
        ask(client, f"{number} " + "x" * 700_000, conversation="large")
    for order in ("asc", "desc"):
        assert len(listed(client, "large", order=order, limit=100)) == 12
        assert len(listed(client, "large", order=order, limit=5)) == 12


def test_the_input_of_a_response(client: OpenAI) -> None:
    content: Any = [{"type": "input_image", "image_url": PIXEL}, {"type": "input_text", "text": "seen"}]
    said = ask(client, [{"role": "user", "content": content}], conversation="input")
    (item,) = client.responses.input_items.list(said.id)
    parts: Any = item.to_dict()["content"]
    image, text = parts
    assert (image["type"], image["image_url"]) == ("input_image", PIXEL)
    assert text == {"type": "input_text", "text": "seen"}
    asked = ask(client, 'call [["ask", {"text": "a"}], ["ask", {"text": "b"}]]')
    outputs = [
        {"type": "function_call_output", "call_id": each.call_id, "output": "yes"}
        for each in asked.output
        if each.type == "function_call"
    ]
    answered = ask(client, outputs, previous_response_id=asked.id)
    items: Any = list(client.responses.input_items.list(answered.id, order="asc", limit=1))
    assert [(each.type, each.call_id, each.output) for each in items] == [
        ("function_call_output", each["call_id"], "yes") for each in outputs
    ]
    newest: Any = list(client.responses.input_items.list(answered.id))
    assert [each.id for each in newest] == [each.id for each in items][::-1]


def test_the_metadata_of_a_conversation_are_those_of_its_later_responses(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.conversations.update("labelled", metadata={"topic": "x"})
    ask(client, "one", conversation="labelled")
    assert client.conversations.update("labelled", metadata={"topic": "sea"}).metadata == {"topic": "sea"}
    assert client.conversations.retrieve("labelled").metadata == {"topic": "sea"}
    said = ask(client, "two", conversation="labelled", metadata={"own": "1"})
    assert server.run(said.id.removeprefix("resp_"))["metadata"] == {"topic": "sea", "own": "1"}
    assert client.conversations.update("labelled", metadata={}).metadata == {}
    assert client.conversations.retrieve("labelled").metadata == {}


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nothing", "after=msg_1"])
def test_queries_that_are_none(server: Server, client: OpenAI, query: str) -> None:
    ask(client, "hi", conversation="queried")
    answer = server.client.get(f"/v1/conversations/queried/items?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")


def test_what_is_not_there(server: Server, client: OpenAI) -> None:
    for path in ("conversations/none/items", "responses/resp_run_none/input_items", "responses/none/input_items"):
        assert server.client.get(f"/v1/{path}").status_code == 404
    empty = server.client.get("/v1/conversations/queried/items?after=msg_0_0&order=desc").json()
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], "", False)


def test_a_conversation_of_another_caller_is_not_there(tmp_path: Path) -> None:
    from strandline._access.keyring import new_key

    (ada, kept), (bob, other) = new_key("ada"), new_key("bob")
    with serving(WANTED, "--api-keys", f"{kept.line()},{other.line()}", folder=tmp_path) as server:
        mine = {"Authorization": f"Bearer {ada}"}
        said = server.client.post("/v1/responses", json={"input": "hi", "conversation": "c"}, headers=mine).json()
        for path in ("conversations/c/items", f"responses/{said['id']}/input_items"):
            assert server.client.get(f"/v1/{path}", headers=mine).status_code == 200
            assert server.client.get(f"/v1/{path}", headers={"Authorization": f"Bearer {bob}"}).status_code == 404
        assert json.loads(server.client.get("/v1/conversations/c/items", headers=mine).text)["data"]
