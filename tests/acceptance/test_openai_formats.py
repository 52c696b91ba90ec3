"""`response_format` at a real server: the answer is the JSON that the client wants, whatever happens meanwhile."""

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from acceptance.server import DEADLINE_S, TARGETS, Server, serving, until

WANTED = TARGETS / "wanted.py"
SAID: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "said",
        "schema": {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]},
    },
}


class Step(BaseModel):
    a: int
    b: list[str]


class Tree(BaseModel):
    name: str
    children: list["Tree"] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(WANTED, folder=tmp_path_factory.mktemp("formats")) as made:
        yield made


def asked(text: str, user: str, **more: Any) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], "user": user, **more}


def post(server: Server, **body: Any) -> tuple[int, dict[str, Any]]:
    said = server.client.post("/v1/chat/completions", json=body)
    return said.status_code, said.json()


def test_an_answer_is_parsed_by_openais_client(client: OpenAI) -> None:
    said = client.chat.completions.parse(response_format=Step, **asked('json {"a": 1, "b": ["x"]}', "parsed"))
    assert said.choices[0].message.parsed == Step(a=1, b=["x"])
    assert said.choices[0].message.content == '{"a":1,"b":["x"]}'
    assert said.choices[0].finish_reason == "stop"


def test_a_form_may_refer_to_itself(client: OpenAI) -> None:
    text = 'json! {"name": "root", "children": [{"name": "leaf", "children": []}]}'
    said = client.chat.completions.parse(response_format=Tree, **asked(text, "tree"))
    assert said.choices[0].message.parsed == Tree(name="root", children=[Tree(name="leaf")])


def test_a_stream_has_the_json_and_nothing_of_what_the_model_said_before_it(client: OpenAI) -> None:
    with client.chat.completions.stream(response_format=Step, **asked('json {"a": 2, "b": []}', "streamed")) as pieces:
        content = "".join(each.delta for each in pieces if each.type == "content.delta")
        final = pieces.get_final_completion()
    assert content == '{"a":2,"b":[]}'
    assert final.choices[0].message.parsed == Step(a=2, b=[])


def test_a_response_has_a_format_too(server: Server, client: OpenAI) -> None:
    said = client.responses.parse(model="any", input='json {"a": 1, "b": ["x"]}', text_format=Step)
    assert said.output_parsed == Step(a=1, b=["x"])
    assert said.output_text == '{"a":1,"b":["x"]}'
    assert client.responses.retrieve(said.id).output_text == said.output_text
    with client.responses.stream(model="any", input='json {"a": 2, "b": []}', text_format=Step) as events:
        content = "".join(each.delta for each in events if each.type == "response.output_text.delta")
        final = events.get_final_response()
    assert content == '{"a":2,"b":[]}'
    assert final.output_parsed == Step(a=2, b=[])
    where = f"/v1/responses/{final.id}"
    resumed = server.client.get(f"{where}?stream=true").text
    assert resumed.count("event: response.output_text.delta") == 1
    assert server.client.get(where).json()["metadata"] == {}
    refused = server.client.post("/v1/responses", json={"input": "x", "text": {"format": {"type": "json_schema"}}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "text.format")


def test_any_object_is_one_json_object(client: OpenAI) -> None:
    given = {"any": [1, {"x": None}], "self": 1, "_id": 2, "model_config": {"copy": 3}, "Ä ö": 1.5}
    said = client.chat.completions.create(
        response_format={"type": "json_object"}, **asked(f"json {json.dumps(given)}", "object")
    )
    assert json.loads(said.choices[0].message.content or "") == given


def test_the_next_message_of_a_session_gets_text_again(client: OpenAI) -> None:
    client.chat.completions.parse(response_format=Step, **asked('json {"a": 1, "b": []}', "mixed"))
    plain = client.chat.completions.create(**asked("hello", "mixed"))
    assert plain.choices[0].message.content == "did hello"
    again = client.chat.completions.parse(response_format=Tree, **asked('json {"name": "x", "children": []}', "mixed"))
    assert again.choices[0].message.parsed == Tree(name="x", children=[])


def test_the_model_is_told_what_is_wrong_and_a_run_without_a_right_answer_fails(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not as the client's schema says"):
        client.chat.completions.parse(response_format=Step, **asked('json {"a": "x", "b": []}', "wrong"))
    told = [
        block["toolResult"]["content"][0]["text"]
        for message in server.history("wrong")
        for block in message["content"]
        if "toolResult" in block
    ]
    assert "$.a: 'x' is not of type 'integer'" in told[0]
    assert len(told) == 5
    runs = server.client.get("/v1/sessions/wrong/runs").json()["runs"]
    assert [run["status"] for run in runs] == ["failed"]  # (no client has sent it again)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"type": "grammar"}, "text, json_object or json_schema - at `$.response_format.type`"),
        ({"type": "json_schema"}, "A JSON Schema is needed"),
        ({"type": "json_schema", "json_schema": {"schema": [1]}}, "A JSON Schema is needed"),
        ({"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}, "must be texts"),
        ({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}, "the name of a format must be"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}, "must be that of an object"),
        ({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x"}}}, "nothing is fetched"),
        ({"type": "json_schema", "json_schema": {"schema": {"title": "x" * 132_000}}}, "max_client_options_bytes"),
    ],
)
def test_a_form_that_cannot_be_is_refused(server: Server, form: dict[str, Any], message: str) -> None:
    status, body = post(server, **asked("hi", "refused", response_format=form))
    assert (status, body["error"]["code"]) == (400, "invalid")
    assert message in body["error"]["message"]
    assert server.client.get("/v1/sessions/refused").status_code == 404


def test_a_form_is_no_metadata_and_stays_with_a_run_that_is_made_again(server: Server) -> None:
    _, said = post(
        server, **asked('call [["add", {"a": 1, "b": 2}]]', "again", response_format=SAID, metadata={"colour": "blue"})
    )
    assert server.run(said["id"])["metadata"] == {"colour": "blue"}
    body = {"metadata": {"colour": "red", "$client_options": {"format": {"json_schema": {}}}}}
    again = server.client.post(f"/v1/runs/{said['id']}/again", json=body, headers={"Prefer": "wait=60"})
    assert again.json()["metadata"] == {"colour": "red"}
    assert json.loads(again.json()["output"]) == {"said": 'got [["add", "3"]]'}


def test_a_form_cannot_be_a_default_of_a_session(server: Server) -> None:
    options: dict[str, Any] = {"metadata": {"$client_options": {"format": {"json_schema": {}}}}}
    refused = server.client.patch("/v1/sessions/defaults", json={"options": options})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert "leave it out" in refused.json()["detail"]


def test_a_function_cannot_give_an_answer_a_form(tmp_path: Path) -> None:
    with serving(f"{WANTED}:echo", folder=tmp_path) as server:
        status, body = post(server, **asked("hi", "function", response_format=SAID))
        assert status == 400
        assert "the agent is a function" in body["error"]["message"]
        assert post(server, **asked("hi", "function"))[0] == 200


@pytest.mark.parametrize("workers", [0, 2])
def test_a_form_survives_the_servers_death(tmp_path: Path, workers: int) -> None:
    flags = ["--idempotent-tools", "wait", *(["--workers", str(workers)] if workers else [])]
    body = asked('call [["wait", {"name": "held"}]]', "killed", response_format=SAID)
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    with serving(WANTED, *flags, folder=tmp_path) as server:
        with ThreadPoolExecutor(1) as asker:
            answer = asker.submit(server.client.post, "/v1/chat/completions", json=body, headers=headers)
            until(lambda: list(tmp_path.rglob("held-waits")), "the tool waits")
            server.kill()
            assert answer.exception() is not None
        next(tmp_path.rglob("held-waits")).with_name("held").touch()
        server.start()
        said = server.client.post("/v1/chat/completions", json=body, headers=headers, timeout=DEADLINE_S)
        assert json.loads(said.json()["choices"][0]["message"]["content"]) == {"said": 'got [["wait", "there"]]'}
        assert server.run(said.json()["id"])["attempt"] == 2
