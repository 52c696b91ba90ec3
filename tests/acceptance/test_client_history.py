"""Chat programs that let people edit what they said: the agent has the conversation that the program shows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, ConflictError, OpenAI, UnprocessableEntityError

from acceptance.chat_program import ChatProgram, told
from acceptance.checkpoints import Checkpoints
from acceptance.openai_client import connected
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("client_history")
    with serving(AGENT, folder=folder, variables=at.environment, installed=True) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with connected(server, max_retries=0) as made:
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


def test_another_answer_replaces_the_last_one(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "regenerated")
    chat.send("one")
    first = chat.send("two a")
    second = chat.regenerate()
    assert told(second)["superseded"] == [first.id]
    third = chat.regenerate()
    assert told(third)["superseded"] == [second.id]
    assert users(server, "regenerated") == chat.users == ["one", "two a"]


def test_a_message_that_is_said_twice_is_said_twice(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "twice")
    for _ in range(3):
        assert "superseded" not in told(chat.send("on"))
    assert users(server, "twice") == ["on", "on", "on"]
    chat.regenerate()
    assert users(server, "twice") == ["on", "on", "on"]
    chat.edit(1, "off")
    assert users(server, "twice") == ["on", "off"]


def test_an_earlier_version_can_be_gone_on_from(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "versions")
    chat.send("one")
    chat.send("two")
    before = chat.messages
    chat.edit(1, "zwei")
    chat.send("drei")
    chat.messages = before
    chat.send("three")
    assert users(server, "versions") == chat.users == ["one", "two", "three"]


def test_a_trimmed_list_goes_on(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "trimmed")
    for text in ("one", "two", "three"):
        chat.send(text)
    assert "superseded" not in told(chat.send("four", last=2)), "the last message and its answer"
    assert "superseded" not in told(chat.send("five", last=1)), "the last answer alone"
    assert users(server, "trimmed") == ["one", "two", "three", "four", "five"]
    chat.edit(4, "six", last=2)
    assert users(server, "trimmed") == ["one", "two", "three", "four", "six"]


def test_a_list_of_one_message_begins_anew(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "anew")
    first = chat.send("one")
    second = chat.send("two")
    edited = chat.edit(0, "eins")
    assert (told(edited)["after"], told(edited)["superseded"]) == (None, [first.id, second.id])
    assert users(server, "anew") == ["eins"]


def test_messages_that_came_another_way_are_no_difference(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "others")
    chat.send("one")
    server.chat("from a schedule", "others")
    assert "superseded" not in told(chat.send("two"))
    assert "superseded" not in told(chat.send("three"))
    assert users(server, "others") == ["one", "from a schedule", "two", "three"]
    chat.edit(1, "zwei")
    assert users(server, "others") == ["one", "zwei"]


def test_what_the_header_does_not_say_the_setting_says(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "ignored", how=None)
    chat.send("one")
    chat.edit(0, "eins")
    assert users(server, "ignored") == ["one", "eins"], "by default nothing but the last message counts"
    with pytest.raises(BadRequestError, match="X-Client-History must be ignore, follow or refuse"):
        ChatProgram(client, "ignored", how="obey").send("x")


def test_a_list_that_differs_is_refused(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "refused", how="refuse")
    for text in ("one", "two", "three"):
        chat.send(text)
    shown = chat.messages
    chat.send("four", last=4)
    chat.messages = [*shown, *chat.messages[-2:]]
    with pytest.raises(ConflictError) as refused:
        chat.edit(1, "zwei")
    error = refused.value
    assert error.code == "conversation_differs"
    assert error.response.headers["X-Should-Retry"] == "false"
    assert users(server, "refused") == ["one", "two", "three", "four"]


def test_an_edit_waits_until_nothing_executes(server: Server, client: OpenAI, at: Checkpoints) -> None:
    chat = ChatProgram(client, "busy")
    chat.send("one")
    at.hold("late model 0")
    with ThreadPoolExecutor(2) as beside:
        waiting = beside.submit(chat.send, "late")
        at.reached("late model 0")
        shown = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "one"}]
        edited = [{"role": "user", "content": "eins"}]
        with pytest.raises(ConflictError) as refused:
            chat.complete(edited)
        assert refused.value.code == "session_busy"
        assert int(refused.value.response.headers["Retry-After"]) > 0
        assert "X-Should-Retry" not in refused.value.response.headers
        behind = beside.submit(chat.complete, [*shown, {"role": "user", "content": "three"}])
        until(lambda: server.health()["queue_depth"] == 1, "the third message waits")
        at.release()
        waiting.result(DEADLINE_S)
        behind.result(DEADLINE_S)
    assert users(server, "busy") == ["one", "late", "three"], "what has no answer yet may be missing"
    assert chat.complete(edited).choices[0].message.content == "eins"
    assert users(server, "busy") == ["eins"]


def test_an_edit_can_interrupt(server: Server, client: OpenAI, at: Checkpoints) -> None:
    chat = ChatProgram(client, "interrupted")
    chat.send("one")
    at.hold("two ?a")
    shown = chat.messages
    with ThreadPoolExecutor(2) as beside:
        waiting = beside.submit(chat.send, "two ?a")
        at.reached("two ?a")
        zwei = [*shown, {"role": "user", "content": "zwei"}]
        edited = beside.submit(chat.complete, zwei, if_busy="rollback")
        at.release()
        edited.result(DEADLINE_S)
        with pytest.raises(UnprocessableEntityError):
            waiting.result(DEADLINE_S)
    assert users(server, "interrupted") == ["one", "zwei"]


def test_a_repeated_request_is_the_same_run(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "repeated")
    chat.send("one")
    chat.send("two")
    keyed = {"headers": {"Idempotency-Key": "k"}}
    before = chat.messages
    edited = chat.edit(0, "eins", **keyed)
    chat.send("zwei")
    chat.messages = before
    again = chat.edit(0, "eins", **keyed)
    assert again.id == edited.id
    assert told(again)["superseded"] == told(edited)["superseded"]
    assert users(server, "repeated") == ["eins", "zwei"]


def test_a_repeated_request_is_answered_again_whatever_its_list_lacks_by_now(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "kept", how="refuse")
    chat.send("one")
    keyed: Any = {"headers": {"Idempotency-Key": "k"}}
    before = chat.messages
    answer = chat.send("two", **keyed)
    chat.messages = before
    assert chat.send("two", **keyed).id == answer.id, "its own turn is no difference"
    chat.send("three")
    chat.messages = before
    assert chat.send("two", **keyed).id == answer.id
    chat.messages = before
    with pytest.raises(BadRequestError, match="was used for another request"):
        chat.send("zwei", **keyed)
    assert users(server, "kept") == ["one", "two", "three"]


def test_a_message_can_be_edited_after_the_metadata_of_its_run_was(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "changed")
    chat.send("one")
    server.client.post("/v1/sessions/changed/pause").raise_for_status()
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(chat.send, "two")
        until(lambda: server.health()["queue_depth"] == 1, "the second message waits")
        runs = server.client.get("/v1/sessions/changed/runs").json()["runs"]
        (run_id,) = [each["run_id"] for each in runs if each["status"] == "queued"]
        changes = [server.client.patch(f"/v1/runs/{run_id}", json={"metadata": {"x": 1}}) for _ in range(2)]
        server.client.post("/v1/sessions/changed/resume").raise_for_status()
        waiting.result(DEADLINE_S)
    for changed in changes:  # (the second one as after a lost answer)
        assert (changed.status_code, changed.json()["metadata"]) == (200, {"x": 1, "client_history": "follow"})
    chat.edit(1, "zwei")
    assert users(server, "changed") == chat.users == ["one", "zwei"]


def test_a_stream_says_first_what_is_superseded(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "streamed")
    first = chat.send("one a")
    messages: Any = [{"role": "user", "content": "eins"}]
    headers = {"X-Session-Id": "streamed", "X-Client-History": "follow"}
    pieces = list(client.chat.completions.create(model="x", messages=messages, stream=True, extra_headers=headers))
    for piece in (pieces[0], pieces[-1]):
        assert told(piece)["superseded"] == [first.id]
        assert [each["name"] for each in told(piece)["effects"]] == ["work"]


def test_what_programs_add_to_the_last_message_is_no_difference(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "documents")
    found = "### Task:\nUse this:\n<context>\n  <source>one</source>\n</context>\n\nread  it"
    answer = chat.complete([{"role": "user", "content": found}])
    chat.messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "read it"}]},
        {"role": "assistant", "content": "<details>thought</details> " + str(answer.choices[0].message.content)},
    ]
    assert "superseded" not in told(chat.send("two"))
    assert users(server, "documents") == [found, "two"]


def test_titles_do_not_stay_in_the_conversation(server: Server, client: OpenAI) -> None:
    chat = ChatProgram(client, "titled")
    chat.send("one")
    chat.complete([{"role": "user", "content": "### Task:\nSuggest a title.\nUSER: one"}])
    chat.send("two")
    chat.send("three")
    assert users(server, "titled") == chat.users == ["one", "two", "three"]
