"""The OpenAPI document names every route, refers to nothing that is not there, and its page shows all of it."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from strandline.http import wire
from strandline.http.docs_page import page
from strandline.http.openapi import OPERATIONS, document

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def references(node: Any) -> set[str]:
    """Return all that a document refers to."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_route_is_described_and_no_other() -> None:
    tree = ast.parse((ROOT / "src/strandline/http/app.py").read_text())
    routes = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route":
            methods = next(ast.literal_eval(each.value) for each in node.keywords if each.arg == "methods")
            routes |= {(method, ast.literal_eval(node.args[0])) for method in methods}
    described = {(method.upper(), path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes - {("GET", "/openapi.json"), ("GET", "/docs")}


def test_whatever_it_refers_to_is_there() -> None:
    made = document()
    for reference in references(made):
        assert reference.removeprefix("#/components/schemas/") in made["components"]["schemas"]
    for schema in made["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for methods in made["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_the_parameters_of_a_path_are_described() -> None:
    for path, methods in document()["paths"].items():
        for operation in methods.values():
            named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_every_wish_and_every_field_of_a_run_stands_in_the_reference() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("RunBody", "NewRunBody", "SessionBody", "HealthBody", "MoveBody", "CancelSessionBody"):
        for field in schemas[name]["properties"]:
            assert f"`{field}`" in REFERENCE or f'"{field}"' in REFERENCE, f"{field} of {name}"


def test_whatever_a_route_is_refused_with_has_a_status() -> None:
    for operation in OPERATIONS:
        for error in operation.refused:
            assert error in wire.STATUS


def test_the_page_shows_every_operation_and_fetches_nothing() -> None:
    html = page(document(), "/root")
    for operation in OPERATIONS:
        assert operation.summary in html
        assert f"<code>{operation.path}</code>" in html
    assert not re.search(r"<script|<link|<img|url\(|@import|src=", html)
    assert re.findall(r'href="([^"]*)"', html) == ["/root/openapi.json"]
    assert "/root/chat" in html
    json.dumps(document())
