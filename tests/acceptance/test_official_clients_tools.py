"""Tools and forms of clients and frameworks that nobody here wrote: each executes its tools, and gets its objects."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from acceptance.server import TARGETS, Server, environment, serving
from client_packages import npm_clients, python_client

CALL: Final = 'call [["weather", {"city": "Rome"}], ["count", {"name": "own"}]]'
CALLED: Final = ('["count", "1"]', '["weather", "sunny in Rome"]')
GIVEN: Final = 'json! {"a": 1, "b": ["x"]}'
OBJECT: Final = ("Step(a=1, b=['x'])",)
CASES: Final = {
    "agents": (CALL, CALLED),
    "agents_streamed": (CALL, CALLED),
    "agents_output": (GIVEN, OBJECT),
    "agents_handoff": (
        'then [["transfer_to_other", {}]] | [["weather", {"city": "Rome"}]]',
        ("other: got ", '["weather", "sunny in Rome"]'),
    ),
    "pydantic_ai": (CALL, CALLED),
    "pydantic_ai_output": ('call [["final_result", {"a": 1, "b": ["x"]}]]', OBJECT),
    "pydantic_ai_native": (GIVEN, OBJECT),
    "langchain": (CALL, CALLED),
}
CHAINED: Final = {
    "agents_conversation": (CALL, CALLED),
    "agents_chained": (CALL, CALLED),
    "pydantic_ai_chained": (CALL, CALLED),
    "langchain_chained": (CALL, CALLED),
}
"""By responses, with what is new alone."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(TARGETS / "wanted.py", folder=tmp_path_factory.mktemp("frameworks")) as made:
        yield made


def asked(command: tuple[str, Path], script: str, server: Server, *requests: dict[str, str]) -> list[dict[str, Any]]:
    """Return what came of some requests to a program."""
    program, folder = command
    done = subprocess.run(
        [program, str(folder / script), f"{server.url}/v1"],
        env=environment({}),
        input="".join(f"{json.dumps(each)}\n" for each in requests),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(requests), done.stderr
    return said


@pytest.mark.parametrize(("api", "cases"), [("chat", CASES), ("responses", CASES | CHAINED)], ids=("chat", "responses"))
def test_frameworks_execute_their_tools_and_get_their_objects(
    server: Server, api: str, cases: dict[str, tuple[str, tuple[str, ...]]]
) -> None:
    requests = [
        {"session_id": f"{api}-{name}", "text": text, "through": name, "api": api} for name, (text, _) in cases.items()
    ]
    said = asked(python_client("frameworks"), "ask_frameworks.py", server, *requests)
    wrong = {
        name: each
        for (name, (_, wanted)), each in zip(cases.items(), said, strict=True)
        if not all(part in each.get("text", "") for part in wanted)
    }
    assert wrong == {}


@pytest.mark.parametrize("through", ["openai", "responses", "compatible"])
def test_vercels_sdk_executes_its_tools_and_gets_its_objects(server: Server, through: str) -> None:
    cases = [("whole", CALL), ("stream", CALL), ("object", GIVEN)]
    requests = [
        {"session_id": f"{through}-{form}", "text": text, "form": form, "through": through} for form, text in cases
    ]
    whole, stream, object_ = asked(npm_clients(), "tools.mjs", server, *requests)
    for each in (whole, stream):
        assert all(part in each.get("text", "") for part in CALLED), each
    assert object_ == {"text": '{"a":1,"b":["x"]}'}
