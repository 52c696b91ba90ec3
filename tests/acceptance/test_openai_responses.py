"""OpenAI's Responses API at a real server, by its own client: responses, events, resumed streams, conversations.

Each answer and each event is checked against the types of the package `openai`.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from acceptance.checkpoints import Checkpoints
from acceptance.cutting import cutting
from acceptance.openai_client import connected, connected_async
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from ports import reserved_port

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
EPOCH = 1 << 32


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("responses")
    with serving(AGENT, folder=folder, variables=at.environment) as made:
        yield made


def ask(client: OpenAI, text: str, **more: Any) -> Response:
    made: Callable[..., Response] = client.responses.create
    return made(model="any", input=text, **more)


def raw(server: Server, **body: Any) -> httpx.Response:
    return server.client.post("/v1/responses", json={"input": "raw", **body})


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()["error"]
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert body["message"]
    return body


def checked(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream, each as the official package describes it, and numbered one after the other."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        kind, data = lines
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        EVENT.validate_python(event)
        if "response" in event:
            Response.model_validate(event["response"])
        events.append(event)
    numbers = [event["sequence_number"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return events


def without_comments(text: str) -> str:
    return text.replace(": alive\n\n", "")


def streamed(server: Server, run: str, after: int | None = None) -> str:
    query = "" if after is None else f"&starting_after={after}"
    response = server.client.get(f"/v1/responses/{run}?stream=true{query}")
    assert response.status_code == 200, response.text
    return without_comments(response.text)


# -- answers ------------------------------------------------------------------------------------------


def test_a_response_is_a_run(server: Server, client: OpenAI) -> None:
    said = ask(client, "q1 a", conversation="whole", metadata={"colour": "blue"})
    assert (said.status, said.output_text, said.model) == ("completed", "q1: did a", "strandline")
    run = server.run(said.id.removeprefix("resp_"))
    assert (run["session_id"], run["status"], run["metadata"]) == ("whole", "succeeded", {"colour": "blue"})
    assert said.metadata == {"colour": "blue"}
    assert said.conversation is not None
    assert said.conversation.id == "whole"
    assert said.usage is not None
    assert said.usage.total_tokens == run["usage"]["totalTokens"] > 0
    again = server.client.get(f"/v1/responses/{said.id}").json()
    assert Response.model_validate(again).output_text == "q1: did a"
    assert again == raw_of(said)


def raw_of(said: Response) -> dict[str, Any]:
    """Return a response as it was sent."""
    return json.loads(said.to_json())  # type: ignore[no-any-return]


def test_without_a_conversation_each_response_begins_one(server: Server, client: OpenAI) -> None:
    first, second = ask(client, "n1"), ask(client, "n2")
    assert first.conversation is not None
    assert second.conversation is not None
    assert first.conversation.id.startswith("conv_")
    assert first.conversation.id != second.conversation.id
    assert texts(server.history(first.conversation.id), "user") == ["n1"]


def test_the_response_before_says_where_the_conversation_goes_on(server: Server, client: OpenAI) -> None:
    first = ask(client, "p1")
    second = ask(client, "p2", previous_response_id=first.id)
    third = ask(client, "p3", previous_response_id=second.id)
    assert third.previous_response_id == second.id
    assert first.conversation == second.conversation == third.conversation
    assert first.conversation is not None
    assert texts(server.history(first.conversation.id), "user") == ["p1", "p2", "p3"]
    assert "after" not in server.run(third.id.removeprefix("resp_"))

    other = ask(client, "p4", previous_response_id=first.id)
    assert texts(server.history(first.conversation.id), "user") == ["p1", "p4"]
    run = server.run(other.id.removeprefix("resp_"))
    assert run["after"] == first.id.removeprefix("resp_")
    assert run["superseded"] == [each.id.removeprefix("resp_") for each in (second, third)]


def test_the_response_before_may_still_wait(server: Server, client: OpenAI, at: Checkpoints) -> None:
    at.hold("w1 model 0")
    first = ask(client, "w1", background=True)
    second = ask(client, "w2", background=True, previous_response_id=first.id)
    with pytest.raises(openai.ConflictError) as busy:
        connected(server, max_retries=0).responses.create(model="any", input="w3", previous_response_id=first.id)
    assert busy.value.code == "session_busy"
    assert int(busy.value.response.headers["retry-after"]) >= 1
    at.release()
    until(lambda: client.responses.retrieve(second.id).status == "completed", "the second has ended")
    assert first.conversation is not None
    assert texts(server.history(first.conversation.id), "user") == ["w1", "w2"]


def test_a_response_in_the_background_is_read_until_it_has_ended(
    server: Server, client: OpenAI, at: Checkpoints
) -> None:
    at.hold("b1 model 0")
    begun = client.responses.with_raw_response.create(model="any", input="b1 a", background=True)
    assert begun.http_response.status_code == 202
    said = begun.parse()
    assert said.background is True
    assert begun.headers["location"] == f"/v1/responses/{said.id}"
    until(lambda: client.responses.retrieve(said.id).status == "in_progress", "it executes")
    assert client.responses.retrieve(said.id).output == []
    assert said.conversation is not None
    waiting = ask(client, "b2", background=True, conversation=said.conversation.id)
    assert client.responses.retrieve(waiting.id).status == "queued"
    at.release()
    until(lambda: client.responses.retrieve(said.id).status == "completed", "it has ended")
    assert client.responses.retrieve(said.id).output_text == "b1: did a"
    assert client.responses.retrieve(said.id).background is True


def test_cancel(server: Server, client: OpenAI, at: Checkpoints) -> None:
    said = ask(client, "c1 ?a", background=True)
    at.reached("c1 ?a")
    client.responses.cancel(said.id)
    until(lambda: client.responses.retrieve(said.id).status == "cancelled", "it is cancelled")
    assert client.responses.cancel(said.id).status == "cancelled"
    last = checked(streamed(server, said.id))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")
    assert last["response"] == server.client.get(f"/v1/responses/{said.id}").json()
    pending = server.submit(ask, client, "c3 ?a", conversation="waits")  # type: ignore[arg-type]
    at.reached("c3 ?a")
    assert server.client.post("/v1/sessions/waits/cancel", json={"running": True}).status_code == 202
    waited: Any = pending.result(DEADLINE_S)
    assert (waited.status, waited.error.message) == ("failed", "the run was cancelled")
    assert waited.model_extra["strandline"]["status"] == "cancelled"
    done = ask(client, "c2")
    assert client.responses.cancel(done.id).status == "completed"


def test_a_run_that_fails_is_a_failed_response_and_is_not_tried_again(server: Server, client: OpenAI) -> None:
    said = ask(client, "f1 fail", conversation="fails")
    assert said.status == "failed"
    assert said.error is not None
    assert "out of order" in said.error.message
    assert said.model_extra is not None
    assert said.model_extra["strandline"]["error"]["code"] == "agent_error"
    assert len(server.client.get("/v1/sessions/fails/runs").json()["runs"]) == 1


def test_an_image_and_a_document_reach_the_agent(server: Server, client: OpenAI) -> None:
    content: Any = [
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "auto"},
        {"type": "input_file", "file_data": "data:text/plain;base64,aGk=", "filename": "note"},
        {"type": "input_text", "text": "seen"},
    ]
    client.responses.create(model="any", input=[{"role": "user", "content": content}], conversation="image")
    image, document, text = server.history("image")[0]["content"]
    assert image["image"]["format"] == "png"
    assert (document["document"]["format"], document["document"]["name"]) == ("txt", "note")
    assert text == {"text": "seen"}


def test_an_uploaded_file_is_named_by_its_id(server: Server, client: OpenAI) -> None:
    made = server.client.post(
        "/v1/sessions/filed/files?name=a.txt", content=b"hello", headers={"Content-Type": "application/octet-stream"}
    ).json()
    content: Any = [{"type": "input_file", "file_id": made["file_id"]}, {"type": "input_text", "text": "filed"}]
    client.responses.create(model="any", input=[{"role": "user", "content": content}], conversation="filed")
    assert server.history("filed")[0]["content"][0]["file"]["id"] == made["file_id"]


def test_messages_that_are_new_are_one_input(server: Server, client: OpenAI) -> None:
    client.responses.create(
        model="any",
        conversation="several",
        input=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "context"},
            {"role": "user", "content": [{"type": "input_text", "text": "m1"}]},
        ],
    )
    assert [block["text"] for block in server.history("several")[0]["content"]] == ["context", "m1"]


def test_a_copy_of_the_conversation_needs_a_header_and_its_last_message_counts(server: Server, client: OpenAI) -> None:
    listed: Any = [
        {"role": "user", "content": "made up"},
        {"role": "assistant", "content": "made up"},
        {"role": "user", "content": "l1"},
    ]
    with pytest.raises(openai.BadRequestError, match="only what is new"):
        client.responses.create(model="any", input=listed, conversation="lists")
    client.responses.create(model="any", input=listed, extra_headers={"X-Session-Id": "lists"})
    assert texts(server.history("lists"), "user") == ["l1"]


def test_run_options_go_into_the_body(server: Server, client: OpenAI) -> None:
    said = ask(client, "o1", extra_body={"priority": 1, "timeout": 7})
    assert server.run(said.id.removeprefix("resp_"))["priority"] == 1


def test_a_conversation_is_named_used_and_deleted(server: Server, client: OpenAI) -> None:
    made = client.conversations.create()
    assert made.created_at > 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)
    said = ask(client, "v1", conversation=made.id)
    assert said.conversation is not None
    assert said.conversation.id == made.id
    assert abs(client.conversations.retrieve(made.id).created_at - made.created_at) <= 1
    assert client.conversations.delete(made.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.conversations.delete(made.id)
    ask(client, "v2", conversation="named")
    assert client.conversations.retrieve("named").created_at == 0
    with pytest.raises(openai.BadRequestError, match="send it there"):
        client.conversations.create(items=[{"role": "user", "content": "x", "type": "message"}])
    with pytest.raises(openai.BadRequestError, match="send it there"):
        client.conversations.create(metadata={"topic": "x"})


def test_a_conversation_is_not_deleted_while_it_has_work(server: Server, client: OpenAI, at: Checkpoints) -> None:
    at.hold("x1 model 0")
    said = ask(client, "x1", conversation="works", background=True)
    with pytest.raises(openai.ConflictError):
        connected(server, max_retries=0).conversations.delete("works")
    at.release()
    until(lambda: client.responses.retrieve(said.id).status == "completed", "it has ended")


# -- events -------------------------------------------------------------------------------------------


def test_events_come_while_the_run_executes(client: OpenAI, at: Checkpoints) -> None:
    at.hold("s1 a")
    kinds, content = [], ""
    for event in client.responses.create(model="any", input="s1 a", conversation="pieces", stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            content += event.delta
        if content == "Round 0. ":
            at.reached("s1 a")
            at.release()
    assert content == "Round 0. s1: did a"
    message = [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    said = [kind for number, kind in enumerate(kinds) if number == 0 or kinds[number - 1] != kind]
    assert said == ["response.created", "response.in_progress", *message, *message, "response.completed"]


def test_a_waiting_response_says_that_it_is_queued(server: Server, client: OpenAI, at: Checkpoints) -> None:
    at.hold("u1 model 0")
    ask(client, "u1", conversation="queue", background=True)
    second = ask(client, "u2", conversation="queue", background=True)
    with server.client.stream("GET", f"/v1/responses/{second.id}?stream=true") as response:
        text = ""
        for piece in response.iter_text():
            text += piece
            if "event: response.queued" in text:
                at.release()
    kinds = [event["type"] for event in checked(without_comments(text))]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"


def test_a_stream_is_resumed_after_every_event_with_the_same_bytes(server: Server) -> None:
    whole = raw(server, input="r1 a ~b", conversation="resumed", stream=True).text
    events = checked(whole)
    run = events[0]["response"]["id"]
    assert streamed(server, run) == whole
    blocks = whole.split("\n\n")[:-1]
    assert len(blocks) == len(events)
    for number in range(len(events)):
        rest = "".join(f"{block}\n\n" for block in blocks[number + 1 :])
        assert streamed(server, run, number) == rest
    assert events[-1]["response"]["output"][-1]["content"][0]["text"] == "r1: did a, did ~b"


def test_a_hundred_streams_that_are_cut_again_and_again_are_the_same_to_the_byte(server: Server) -> None:
    random = Random(20)
    with cutting(server.url, lambda: random.randrange(200, 4_000)) as (url, proxy):
        with ThreadPoolExecutor(4) as clients:
            list(clients.map(lambda number: follow(server, url, f"cut{number}"), range(100)))
        assert proxy.cuts > 200


def follow(server: Server, url: str, name: str) -> None:
    """Read a response through a proxy that cuts connections, and compare what came with what was sent."""
    response = raw(server, input=f"{name} a b+c", conversation=name, background=True).json()
    where, received = f"/v1/responses/{response['id']}?stream=true", ""
    while "event: response.completed" not in received:
        numbers = re.findall(r'"sequence_number":(\d+)', received)
        after = f"&starting_after={numbers[-1]}" if numbers else ""
        came = b""
        with suppress(httpx.HTTPError), httpx.stream("GET", f"{url}{where}{after}") as stream:
            for piece in stream.iter_raw():
                came += piece
        whole = came.decode(errors="ignore").rpartition("\n\n")
        received += without_comments(whole[0] + whole[1])
    assert received == without_comments(server.client.get(where).text)
    checked(received)


def test_the_helpers_that_gather_a_stream(client: OpenAI) -> None:
    with client.responses.stream(model="any", input="g1 a", conversation="gathered") as stream:
        said = stream.get_final_response()
    assert said.output_text == "g1: did a"
    with client.responses.stream(response_id=said.id, starting_after=4) as resumed:
        again = resumed.get_final_response()
    assert again.output_text == "g1: did a"


def test_the_async_client(server: Server) -> None:
    async def main() -> tuple[str, str]:
        async with connected_async(server) as client:
            whole = await client.responses.create(model="any", input="a1 a", conversation="async")
            stream = await client.responses.create(model="any", input="a2", conversation="async", stream=True)
            pieces = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            return whole.output_text, "".join(pieces)

    assert asyncio.run(main()) == ("a1: did a", "a2")


def test_a_client_resumes_over_a_crash(at: Checkpoints, tmp_path: Path) -> None:
    """The events of the process that died are gone: the stream begins anew, above every number given before."""
    with (
        serving(AGENT, folder=tmp_path, variables=at.environment, port=reserved_port()) as server,
        connected(server) as client,
    ):
        at.hold("d1 model 1")
        last, run = -1, ""
        with suppress(openai.APIError, httpx.HTTPError):
            for event in client.responses.create(model="any", input="d1 a", conversation="crash", stream=True):
                last = event.sequence_number
                if event.type == "response.created":
                    run = event.response.id
                if event.type == "response.output_item.done":
                    at.reached("d1 model 1")
                    server.wait_until_stored()
                    server.kill()
        at.release()
        server.start()
        events = checked(streamed(server, run, last))
        assert events[0]["type"] == "response.created"
        assert events[0]["sequence_number"] >= EPOCH > last
        said = [event["text"] for event in events if event["type"] == "response.output_text.done"]
        assert said == ["Round 0. ", "d1: did a"]
        assert events[-1]["response"]["status"] == "completed"
        assert at.steps.count("d1 a") == 1


def test_an_answer_that_resumes_over_a_crash_repeats_nothing_of_the_response_that_asked(
    at: Checkpoints, tmp_path: Path
) -> None:
    with (
        serving(AGENT, folder=tmp_path, variables=at.environment, port=reserved_port()) as server,
        connected(server) as client,
    ):
        asked = ask(client, "z1 @pay", conversation="asked")
        call = asked.output[-1]
        assert call.type == "function_call"
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sure"}
        at.hold("z1 model 1")
        said = client.responses.create(model="any", previous_response_id=asked.id, input=[output], background=True)
        at.reached("z1 model 1")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        events = checked(streamed(server, said.id))
        done = [event["text"] for event in events if event["type"] == "response.output_text.done"]
        assert done == ["z1: did @pay (sure)"]
        own = server.client.get(f"/v1/runs/{said.id.removeprefix('resp_')}/events").text
        (restarted,) = re.findall(r'"type":"run.restarted".*?"messages":(.*?),"run_id"', own)
        assert [message["role"] for message in json.loads(restarted)] == ["user"]


# -- questions to a person ----------------------------------------------------------------------------


def test_a_question_is_a_function_call_and_its_output_the_answer(server: Server, client: OpenAI) -> None:
    said = ask(client, "i1 @pay", conversation="asks")
    assert said.status == "completed"
    message, call = said.output
    assert (message.type, call.type) == ("message", "function_call")
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("@pay", {"reason": "may I, i1?"})
    assert client.responses.retrieve(said.id).output == said.output
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sure"}
    answered = client.responses.create(model="any", previous_response_id=said.id, input=[output])
    assert answered.output_text == "i1: did @pay (sure)"
    assert answered.previous_response_id == said.id
    assert answered.conversation == said.conversation
    with pytest.raises(openai.ConflictError) as late:
        client.responses.create(model="any", previous_response_id=said.id, input=[output])
    assert late.value.code == "already_answered"


@pytest.mark.parametrize(("output", "value"), [('{"a": 1}', "{'a': 1}"), ("5", "5"), ("yes", "yes"), ('"5"', "5")])
def test_an_output_that_is_json_is_that_value(client: OpenAI, output: str, value: str) -> None:
    said = ask(client, "i2 @pay")
    call = said.output[-1]
    assert call.type == "function_call"
    given: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": output}]
    answered = client.responses.create(model="any", previous_response_id=said.id, input=given)
    assert answered.output_text == f"i2: did @pay ({value})"


@pytest.mark.parametrize(("approve", "value"), [(True, "yes"), (False, "no")])
def test_a_question_may_be_an_approval(server: Server, client: OpenAI, approve: bool, value: str) -> None:
    events = checked(raw(server, input="i3 @pay", stream=True, questions="mcp_approval_request").text)
    said = events[-1]["response"]
    request = said["output"][-1]
    assert request["type"] == "mcp_approval_request"
    assert client.responses.retrieve(said["id"]).output[-1].type == "mcp_approval_request"
    given: Any = [{"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve}]
    answered = client.responses.create(model="any", previous_response_id=said["id"], input=given)
    assert answered.output_text == f"i3: did @pay ({value})"


def test_a_question_may_be_text(client: OpenAI, at: Checkpoints) -> None:
    said = ask(client, "i4 @pay", extra_body={"questions": "text"})
    assert said.output_text == "Round 0. \n\n(This waits for a person's answer. @pay: may I, i4?)"
    assert said.conversation is not None
    waits = ask(client, "i5", conversation=said.conversation.id, background=True)
    answered = ask(client, "i6", previous_response_id=waits.id, extra_body={"on_question": "dismiss"})
    assert answered.output_text == "i6"
    assert client.responses.retrieve(waits.id).output_text == "i5"


def test_answers_name_what_they_answer_and_stand_alone(server: Server, client: OpenAI) -> None:
    said = ask(client, "i7 @pay")
    call = said.output[-1]
    assert call.type == "function_call"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sure"}
    message = {"role": "user", "content": "and?"}
    error(raw(server, input=[output]), 400, "invalid")
    for both in ([output, message], [message, output]):
        refusal = error(raw(server, input=both, previous_response_id=said.id), 400, "invalid")
        assert "Answer first" in refusal["message"]
    wrong = {**output, "output": ["x"]}
    error(raw(server, input=[wrong], previous_response_id=said.id), 400, "invalid")
    nothing = {**output, "output": "null"}
    error(raw(server, input=[nothing], previous_response_id=said.id), 400, "invalid")
    deep = {**output, "output": "[" * 100_000}
    assert raw(server, input=[deep], previous_response_id=said.id).json()["status"] == "completed"


# -- the same request again ---------------------------------------------------------------------------


def test_a_request_that_is_sent_again_under_its_key_is_the_same_response(server: Server, client: OpenAI) -> None:
    key = {"Idempotency-Key": "key"}
    first = ask(client, "k1 a", extra_headers=key)
    again = client.responses.with_raw_response.create(model="any", input="k1 a", extra_headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.parse() == first
    with pytest.raises(openai.BadRequestError) as reused:
        ask(client, "another", extra_headers=key)
    assert reused.value.code == "key_reused"


def test_a_response_in_the_background_that_is_sent_again_is_what_has_become_of_it(
    client: OpenAI, at: Checkpoints
) -> None:
    sent: Any = {"model": "any", "input": "k2 a", "background": True, "extra_headers": {"Idempotency-Key": "k2"}}
    at.hold("k2 model 0")
    first = client.responses.create(**sent)
    at.reached("k2 model 0")
    executing = client.responses.with_raw_response.create(**sent)
    assert (executing.http_response.status_code, executing.parse().status) == (202, "in_progress")
    at.release()
    until(lambda: client.responses.retrieve(first.id).status == "completed", "it has ended")
    ended = client.responses.with_raw_response.create(**sent)
    assert (ended.http_response.status_code, ended.headers["idempotency-replayed"]) == (200, "true")
    assert ended.parse() == client.responses.retrieve(first.id)


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refused",
    [
        {"tools": [{"type": "web_search"}]},
        {"text": {"format": {"type": "grammar"}}},
        {"prompt": {"id": "p"}},
        {"top_logprobs": 2},
        {"store": False},
        {"input": []},
        {"input": [{"role": "assistant", "content": "x"}]},
        {"input": [{"role": [], "content": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,é"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "data:text/plain;base64,é"}]}]},
        {"conversation": "a b"},
    ],
    ids=repr,
)
def test_what_cannot_be_done_is_refused_in_openais_form(server: Server, refused: dict[str, Any]) -> None:
    param = error(raw(server, **refused), 400, "invalid")["param"]
    assert param is None or param.startswith(next(iter(refused)))


def test_responses_that_do_not_exist(server: Server, client: OpenAI) -> None:
    for call in (client.responses.retrieve, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call("resp_run_none")
        with pytest.raises(openai.NotFoundError, match="begin with resp_"):
            call("run_none")
    refusal = error(raw(server, previous_response_id="resp_none"), 404, "not_found")
    assert refusal["param"] == "previous_response_id"
    both = raw(server, previous_response_id="resp_none", conversation="c")
    assert error(both, 400, "invalid")["param"] == "previous_response_id"
    said = ask(client, "e1")
    error(server.client.get(f"/v1/responses/{said.id}?stream=true&starting_after=x"), 400, "invalid")
