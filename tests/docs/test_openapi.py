"""The OpenAPI document names every route, refers to nothing that is not there, and its page shows all of it."""

import ast
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from starlette.requests import Request

from strandline._encoding import decoder
from strandline._engine.requests import check_content
from strandline._http import wire
from strandline._http.app import event_schemas
from strandline._http.app.docs_page import page
from strandline._http.app.openapi import OPERATIONS, PARAMETERS, Described, document
from strandline._http.dialects.runs import NewRunBody
from strandline._http.exchange.idempotency import idempotency_key
from strandline._http.exchange.run_request import Responses
from strandline._http.middleware.auth import CARDS
from strandline._http.routes.events import TYPES
from strandline._older_names import FIELDS
from strandline.errors import Invalid

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


MESSAGE = {"role": "user", "content": "x"}
AGUI = {"threadId": "t", "runId": "r", "messages": [{"id": "m", **MESSAGE}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "f", "schema": {"type": "object"}}}


def references(node: Any) -> set[str]:
    """Return all that a document refers to."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_route_is_described_and_no_other() -> None:
    tree = ast.parse((ROOT / "src/strandline/_http/app/build.py").read_text())
    routes = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route":
            methods = next(ast.literal_eval(each.value) for each in node.keywords if each.arg == "methods")
            routes |= {(method, ast.literal_eval(node.args[0])) for method in methods}
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    pages = {"/openapi.json", "/docs", "/console", "/console/{name}"}
    assert described == routes - {("GET", each) for each in pages}


def test_whatever_it_refers_to_is_there() -> None:
    made = document()
    for reference in references(made):
        assert reference.removeprefix("#/components/schemas/") in made["components"]["schemas"]
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for methods in made["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_every_event_is_described_by_its_record_and_the_common_fields() -> None:
    schemas = document()["components"]["schemas"]
    for kind in (*event_schemas.RUN_EVENTS, *event_schemas.SESSION_EVENTS):
        schema = schemas[kind.__name__]
        tag = kind.__struct_config__.tag
        fields = {field.encode_name for field in msgspec.structs.fields(kind)}
        assert schema["properties"]["type"] == {"enum": [tag]}
        assert fields <= set(schema["properties"])
        assert {"type", "at"} <= set(schema["required"])
        assert schema["description"]
        unions = {name for name in (event_schemas.OF_A_RUN, event_schemas.OF_ALL) if tag in _mapping(schemas[name])}
        assert (event_schemas.OF_A_RUN in unions) is (kind in event_schemas.RUN_EVENTS)
        assert (event_schemas.OF_ALL in unions) is (tag in TYPES)
        assert ("session_id" in schema["properties"]) is (event_schemas.OF_ALL in unions and tag != "stream.gap")
    of_run, of_all = (set(_mapping(schemas[name])) for name in (event_schemas.OF_A_RUN, event_schemas.OF_ALL))
    assert of_all == TYPES
    assert "run.finished" in of_run & of_all


def _mapping(schema: Any) -> dict[str, str]:
    mapping: dict[str, str] = schema["discriminator"]["mapping"]
    assert [{"$ref": each} for each in mapping.values()] == schema["oneOf"]
    return mapping


def test_whatever_may_be_a_stream_is_described_as_one() -> None:
    streams = {
        (method, path): operation["responses"]["200"]["content"]["text/event-stream"]
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }
    assert set(streams) == {
        ("post", "/chat"),
        ("post", "/v1/sessions/{session_id}/runs"),
        ("post", "/v1/runs/{run_id}/resolve"),
        ("post", "/v1/runs/{run_id}/again"),
        ("get", "/v1/runs/{run_id}/events"),
        ("get", "/v1/events"),
        ("post", "/v1/chat/completions"),
        ("post", "/v1/responses"),
        ("get", "/v1/responses/{response_id}"),
        ("post", "/invocations"),
        ("post", "/agui"),
        ("post", "/mcp"),
        ("post", "/a2a"),
        ("get", "/mcp"),
    }
    of_others = [
        streams.pop(("post", path))
        for path in ("/v1/chat/completions", "/v1/responses", "/invocations", "/agui", "/mcp", "/a2a")
    ]
    of_others += [streams.pop(("get", path)) for path in ("/v1/responses/{response_id}", "/mcp")]
    for media in of_others:
        assert "`data` is" in media["schema"]["description"]
    for (_, path), media in streams.items():
        of = media["schema"]["properties"]["data"]["contentSchema"]["$ref"].rpartition("/")[2]
        assert of == (event_schemas.OF_ALL if path == "/v1/events" else event_schemas.OF_A_RUN)


def test_the_parameters_of_a_path_are_described() -> None:
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_every_option_and_every_field_of_a_run_is_in_the_reference() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("RunBody", "NewRunBody", "SessionBody", "HealthBody", "MoveBody", "CancelSessionBody"):
        older = FIELDS.get(name, {}).values()
        for field in schemas[name]["properties"].keys() - older:
            assert f"`{field}`" in REFERENCE or f'"{field}"' in REFERENCE, f"{field} of {name}"


def test_whatever_a_route_is_refused_with_has_a_status() -> None:
    for operation in OPERATIONS:
        for error in operation.refused:
            assert error in wire.STATUS


@pytest.mark.parametrize(
    ("name", "body", "is_allowed"),
    [
        ("ChatBody", {"message": "x"}, True),
        ("ChatBody", {"message": "x", "responses": None, "if_busy": None, "timeout": 1}, True),
        ("ChatBody", {"responses": [{"id": "1", "response": "yes"}]}, True),
        ("ChatBody", {"message": "x", "responses": [{"id": "1", "response": "yes"}]}, False),
        ("ChatBody", {"responses": [{"id": "1", "response": "yes"}], "if_busy": "reject"}, False),
        ("ChatBody", {"responses": [{"id": "1", "response": "yes"}], "on_question": "wait"}, False),
        ("ChatBody", {"responses": [{"id": "1", "response": "yes"}], "on_question": None}, True),
        ("ChatBody", {"message": "x", "on_question": "answer", "if_busy": "interrupt"}, False),
        ("ChatBody", {"message": "x", "on_question": "answer", "if_busy": "reject"}, True),
        ("ChatBody", {"message": "x", "on_question": "dismiss", "if_busy": "rollback"}, True),
        ("ChatBody", {"responses": [{"id": "1", "response": None}]}, False),
        ("ChatBody", {"responses": []}, False),
        ("ChatBody", {}, False),
        ("ChatBody", {"message": "x", "session_id": ".."}, False),
        ("ChatBody", {"message": "x", "timeout": 0}, False),
        ("NewRunBody", {"input": {"responses": []}}, False),
        ("NewRunBody", {"input": {"responses": [{"id": "1", "response": "yes"}]}, "on_question": "answer"}, False),
        ("NewRunBody", {"input": {"responses": [{"id": "1", "response": "yes"}]}, "if_busy": "reject"}, False),
        ("NewRunBody", {"input": {"responses": [{"id": "1", "response": "yes"}]}, "priority": 1}, True),
        ("NewRunBody", {"input": "x", "on_question": "answer"}, True),
        ("NewRunBody", {"input": "x", "on_question": "later"}, False),
        ("NewRunBody", {"input": [{"text": "x"}], "on_question": "answer", "if_busy": "rollback"}, False),
        ("CompletionBody", {"messages": [], "on_question": "answer", "if_busy": "interrupt"}, False),
        ("CompletionBody", {"messages": [MESSAGE], "on_question": "answer"}, True),
        ("CompletionBody", {"messages": []}, False),
        ("CompletionBody", {"messages": [], "responses": [{"id": "1", "response": "yes"}]}, True),
        ("CompletionBody", {"messages": [MESSAGE], "responses": [{"id": "1", "response": "yes"}]}, False),
        ("CompletionBody", {"messages": [MESSAGE], "n": 1.0, "tools": [], "response_format": {"type": "text"}}, True),
        ("CompletionBody", {"messages": [MESSAGE], "n": 2}, False),
        ("CompletionBody", {"messages": [MESSAGE], "tools": [{}]}, False),
        ("CompletionBody", {"messages": [MESSAGE], "logprobs": True}, False),
        ("CompletionBody", {"messages": [MESSAGE], "tools": [TOOL], "tool_choice": "required"}, True),
        ("CompletionBody", {"messages": [MESSAGE], "tools": [{**TOOL, "type": "web_search"}]}, False),
        ("CompletionBody", {"messages": [MESSAGE], "tools": [{**TOOL, "function": {"name": "a b"}}]}, False),
        ("CompletionBody", {"messages": [MESSAGE], "tools": [TOOL] * 129}, False),
        ("CompletionBody", {"messages": [MESSAGE], "response_format": {"type": "json_object"}}, True),
        ("CompletionBody", {"messages": [MESSAGE], "response_format": FORM}, True),
        ("CompletionBody", {"messages": [MESSAGE], "response_format": {**FORM, "json_schema": {}}}, False),
        ("CompletionBody", {"messages": [MESSAGE], "response_format": {"type": "grammar"}}, False),
        ("ResponseRequest", {"input": "x", "text": {"format": {"type": "json_schema", "schema": {}}}}, True),
        ("ResponseRequest", {"input": "x", "text": {"format": {"type": "json_schema"}}}, False),
        ("ResponseRequest", {"input": "x", "text": {"format": {"type": "grammar"}}}, False),
        ("RunAgentInput", {**AGUI, "tools": [{"name": "weather", "description": "d", "parameters": {}}]}, True),
        ("RunAgentInput", {**AGUI, "tools": [{"name": "a b", "description": "d"}]}, False),
        ("RunAgentInput", {**AGUI, "messages": []}, False),
        ("ResponseRequest", {"input": "x", "after": None, "if_busy": "collect"}, False),
        ("ResponseRequest", {"input": "x", "tools": [{"type": "function", "name": "weather"}]}, True),
        ("ResponseRequest", {"input": "x", "tools": [{"type": "function", "name": "a b"}]}, False),
        ("ResponseRequest", {"input": "x", "tools": [{"type": "web_search"}]}, False),
        ("CompletionBody", {"messages": [MESSAGE], "modalities": ["text", "audio"]}, False),
        ("NewRunBody", {"input": []}, False),
        ("Invocation", {"prompt": None, "message": "x"}, True),
        ("Invocation", {"prompt": None}, False),
        ("Invocation", {"prompt": "x", "responses": [{"id": "1", "response": "yes"}]}, False),
        ("MoveBody", {"front": True}, True),
        ("MoveBody", {"priority": 2, "front": False}, True),
        ("MoveBody", {"priority": 2.0}, True),
        ("MoveBody", {"priority": 2.5}, False),
        ("NewRunBody", {"input": "x", "priority": 2.0}, True),
        ("NewRunBody", {"input": "x", "priority": 2.5}, False),
        ("NewRunBody", {"input": "x", "priority": 6}, False),
        ("MoveBody", {"priority": 2, "front": True}, False),
        ("MoveBody", {}, False),
    ],
)
def test_which_fields_of_a_body_go_together_is_described(name: str, body: dict[str, Any], is_allowed: bool) -> None:
    made = document()
    schema = {**made["components"]["schemas"][name], "components": made["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) is is_allowed


def test_a_server_that_wants_its_sessions_named_says_so_and_another_does_not() -> None:
    for names in (True, False):
        made = document(Described(names_session=names))
        body = made["components"]["schemas"]["ChatBody"]
        assert ("session_id" in body["required"]) is names
        for path, method in (("/history", "get"), ("/invocations", "post")):
            named = next(each for each in made["paths"][path][method]["parameters"] if "ession" in each["name"])
            assert named["required"] is names
            assert ("default" in named["description"]) is not names or path == "/history"
            assert not (names and "default" in named["schema"])


def test_as_much_time_as_a_server_allows_is_described() -> None:
    schemas = document(Described(timeout_s=7.0, queue_timeout_s=9.0))["components"]["schemas"]
    for name in ("ChatBody", "CompletionBody", "Invocation", "NewRunBody"):
        most = [schemas[name]["properties"][each]["anyOf"][0]["maximum"] for each in ("timeout", "queue_timeout")]
        assert most == [7.0, 9.0]


def test_a_sender_is_described_where_a_request_may_name_one() -> None:
    for trusted, kinds in ((True, {"$ref", "type"}), (False, set())):
        schemas = document(Described(trusted_senders=trusted))["components"]["schemas"]
        for name in ("ChatBody", "CompletionBody", "Invocation", "NewRunBody"):
            sender = schemas[name]["properties"]["sender"]
            assert {key for each in sender.get("anyOf", ()) for key in each} == kinds
            assert trusted or sender["type"] == "null"


ENCODED = {"__bytes_encoded__": True, "data": "aGk="}
PNG = {"format": "png", "source": {"bytes": ENCODED}}
FILED = {"location": {"type": "s3", "uri": "s3://a/b"}}


@pytest.mark.parametrize("allowed", [(), ("location",), ("audio", "cachePoint")])
@pytest.mark.parametrize(
    "block",
    [
        {"text": "x"}, {"text": ""}, {"text": None}, {"text": "x", "image": PNG}, {},
        {"image": PNG}, {"image": {**PNG, "format": "bmp"}}, {"image": {**PNG, "more": 1}},
        {"image": {"format": "png"}},
        {"image": {**PNG, "source": {"bytes": "aGk="}}}, {"image": {**PNG, "source": FILED}},
        {"image": {**PNG, "source": {"bytes": {**ENCODED, "data": ""}}}},
        {"image": {**PNG, "source": {"bytes": {**ENCODED, "data": "aGk"}}}},
        {"image": {**PNG, "source": {"bytes": {**ENCODED, "data": "aGk=aGk="}}}},
        {"image": {**PNG, "source": {"bytes": {**ENCODED, "__bytes_encoded__": 1}}}},
        {"image": {**PNG, "source": {"bytes": ENCODED, **FILED}}},
        {"document": {**PNG, "format": "pdf", "name": "x"}}, {"document": {**PNG, "format": "pdf"}},
        {"document": {**PNG, "format": "pdf", "name": "  "}}, {"document": {**PNG, "format": "pdf", "name": "x" * 201}},
        {"document": {**PNG, "format": "pdf", "name": "x", "citations": {"enabled": True}, "context": None}},
        {"document": {**PNG, "format": "pdf", "name": "x", "citations": {"enabled": 1}}},
        {"video": {**PNG, "format": "mp4"}}, {"audio": {**PNG, "format": "mp3"}}, {"cachePoint": {"type": "default"}},
        {"cachePoint": "default"}, {"toolUse": {}}, {"toolResult": {}}, {"interruptResponse": {}}, {"location": {}},
    ],
)  # fmt: skip
def test_content_is_described_as_it_is_taken(block: dict[str, Any], allowed: tuple[str, ...]) -> None:
    made = document(Described(allowed_content=frozenset(allowed)))
    schema = {**made["components"]["schemas"]["NewRunBody"], "components": made["components"]}
    read: NewRunBody = decoder(NewRunBody)(msgspec.json.encode({"input": [block]}))
    assert not isinstance(read.input, Responses)
    try:
        check_content(read.input, frozenset(allowed))
        is_taken = True
    except Invalid:
        is_taken = False
    assert jsonschema.Draft202012Validator(schema).is_valid({"input": [block]}) is is_taken


@pytest.mark.parametrize(
    "key",
    [
        "k", "a key", "k" * 255, "k" * 256, "",
        '"k"', '"a \\"key\\""', '"', '"k', '""', '"a"b"', 'a"b', '"a\\b"', "\x7f",
        f'"{"k" * 255}"', f'"{"k" * 256}"', "~", "!",
    ],
)  # fmt: skip
def test_an_idempotency_key_is_described_as_it_is_taken(key: str) -> None:
    headers = [(b"idempotency-key", key.encode())]
    try:
        idempotency_key(Request({"type": "http", "headers": headers}))
        is_taken = True
    except Invalid:
        is_taken = False
    assert jsonschema.Draft202012Validator(PARAMETERS["key"][2]).is_valid(key) is is_taken


def test_the_page_shows_every_operation_and_fetches_nothing() -> None:
    html = page(document(), "/root", "http://127.0.0.1:8080/root")
    for operation in OPERATIONS:
        assert escape(operation.summary) in html
        assert f"<code>{operation.path}</code>" in html
    assert not re.search(r"<script|<link|<img|url\(|@import|src=", html)
    assert re.findall(r'href="([^"]*)"', html) == ["/root/openapi.json"]
    assert "/root/chat" in html
    for kind in TYPES:
        assert f"<code>{kind}</code>" in html
    json.dumps(document())


def test_of_a_server_with_keys_document_and_page_say_so_and_of_another_they_do_not() -> None:
    made = document(Described(keys=True))
    assert made["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    open_to_all = set()
    for path, methods in made["paths"].items():
        for operation in methods.values():
            wanted = operation.get("security") == [{"key": []}]
            assert wanted is ("401" in operation["responses"])
            if wanted:
                assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
            else:
                open_to_all.add(path)
    assert open_to_all == {"/", "/livez", "/readyz", "/ping", "/health", *CARDS}
    html = page(made, "", "http://127.0.0.1:8080")
    assert html.count("Authorization: Bearer $KEY") == sum(len(each) for each in made["paths"].values()) - 8
    assert "This server requires an API key" in html
    assert "This server requires an API key" not in page(document(), "", "http://127.0.0.1:8080")
    assert "$KEY" not in page(document(), "", "http://127.0.0.1:8080")
