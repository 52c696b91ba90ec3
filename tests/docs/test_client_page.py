"""The page of the client is true: its programs run, are typed, and print what it shows; its tables are whole."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from acceptance.server import DEADLINE_S, Server, environment, serving
from docs.pages import DOCS, blocks, type_checked
from strandline import AsyncClient, Client, client
from strandline.client import Event
from strandline.client import _errors as errors
from strandline.client import _requests as requests

PAGE = (DOCS / "client.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
SHOWN = dict(re.findall(r"^```python\n# (\w+\.py)\n(?:(?!```)[^\n]*\n)*```\n\n```text\n(.*?)^```", PAGE, re.M | re.S))
AGENT = """
from strands import Agent, ToolContext, tool
from strandline.testing import ScriptedModel, call, question, results, say

@tool
def order_status(number: int) -> str:
    "Say how far an order is."
    return "It is on its way."

@tool(context=True)
def refund(number: int, tool_context: ToolContext) -> str:
    "Pay an order back."
    return "Paid back." if tool_context.interrupt("refund", reason=number) == "yes" else "Not paid back."

def script(messages):
    if results(messages):
        return " ".join(results(messages).values())
    name, _, number = question(messages).rstrip("?").rpartition(" ")
    return [say("Let me look. "), call("refund" if name == "refund" else "order_status", {"number": int(number)})]

def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(script), tools=[order_status, refund])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("client")
    (folder / "agent.py").write_text(AGENT)
    with serving("agent.py", folder=folder) as server:
        yield server


def printed(name: str, server: Server, folder: Path) -> str:
    (folder / name).write_text(FILES[name])
    done = subprocess.run(
        [sys.executable, name, server.url],
        cwd=folder, env=environment({}), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_looked_at() -> None:
    assert set(FILES) == {"ask.py", "watch.py", "desk.py", "errors.py"}
    assert len(blocks("client.md", "python")) == len(FILES)
    assert set(SHOWN) == {"watch.py", "desk.py", "errors.py"}
    assert len(blocks("client.md", "text")) == len(SHOWN)


def test_the_first_program_prints_an_answer(server: Server, tmp_path: Path) -> None:
    assert printed("ask.py", server, tmp_path) == "It is on its way.\n"


@pytest.mark.parametrize("name", SHOWN)
def test_each_program_prints_what_is_shown(name: str, server: Server, tmp_path: Path) -> None:
    lines = [line.rstrip() for line in printed(name, server, tmp_path).splitlines() if line]
    assert lines == SHOWN[name].splitlines()


def test_the_programs_are_typed(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    done = type_checked(*FILES, folder=tmp_path)
    assert done.returncode == 0, done.stdout


def test_no_event_error_method_or_run_option_is_left_out() -> None:
    for event in get_args(Event):
        assert f"`{event.__name__}`" in PAGE
        if event is not client.Unknown:
            assert f"`{event.__struct_config__.tag}`" in PAGE
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and hasattr(client, name) and kind is not errors.ClientError:
            assert f"`{name}`" in PAGE
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_") and name != "close":
            assert f"| `{name}({next(iter(list(inspect.signature(method).parameters)[1:]))}" in PAGE
    for option in requests.RunOptions.__annotations__:
        assert option in PAGE


def test_both_clients_can_do_the_same() -> None:
    def shape(kind: type) -> dict[str, list[str]]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(each).parameters) for name, each in members if not name.startswith("_")}

    assert shape(Client) == shape(AsyncClient)


def test_its_numbers_are_true() -> None:
    from strandline.client import _plans as plans

    assert f"`patience_s` seconds ({plans.PATIENCE_S:g};" in PAGE
    assert f"grow from {plans.FIRST_S:g} s to {plans.RETRY_S:g} s" in PAGE
    assert f"nothing comes for {requests.QUIET_S:g} s" in PAGE
