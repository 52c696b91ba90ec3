"""How a TARGET is found, and what is said when it cannot be served."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strandline.agents.function import FunctionTarget
from strandline.agents.load import load_target, target_for
from strandline.agents.strands import StrandsTarget
from strandline.errors import TargetError


@pytest.fixture(autouse=True)
def _clean_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = set(sys.modules)
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("agent", "mine", "package")):
            del sys.modules[name]


def write(text: str, name: str = "agent.py") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


FACTORY = "def make_agent(session_id): ...\nasync def answer(message, session): return ''\n"


@pytest.mark.parametrize("target", ["{path}", "{path}:make_agent", "./{path}", "{folder}/{path}"])
def test_a_factory_is_found_in_a_file(target: str, tmp_path: Path) -> None:
    path = write(FACTORY)
    found = load_target(target.format(path=path, folder=tmp_path))
    assert isinstance(found, StrandsTarget)
    assert not found.opaque
    assert "make_agent" in found.description


def test_a_function_is_found_by_name_in_a_module_of_this_folder() -> None:
    write("", "package/__init__.py")
    write(FACTORY, "package/mine.py")
    found = load_target("package.mine:answer")
    assert isinstance(found, FunctionTarget)
    assert found.opaque


def test_a_file_may_import_what_lies_beside_it() -> None:
    write("NAME = 'beside'", "folder/mine_beside.py")
    write("from mine_beside import NAME\ndef make_agent(): ...\n", "folder/agent.py")
    assert isinstance(load_target("folder/agent.py"), StrandsTarget)


def test_agent_is_looked_for_when_there_is_no_make_agent() -> None:
    write("def agent(): ...")
    assert load_target("agent.py").description.endswith("agent.py:agent")


@pytest.mark.parametrize(
    ("source", "takes"),
    [
        ("def f(): ...", False),
        ("def f(session_id): ...", True),
        ("def f(sid): ...", True),
        ("async def f(session_id): ...", True),
        ("def f(session_id='x'): ...", True),
        ("def f(verbose=True): ...", False),
        ("def f(*, session_id): ...", True),
    ],
)
def test_a_factory_gets_the_session_id_if_it_takes_one(source: str, takes: bool) -> None:
    space: dict[str, object] = {}
    exec(source, space)
    target = target_for(space["f"], "f")
    assert isinstance(target, StrandsTarget)
    assert target._takes_session_id is takes


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        ("nowhere.py", None, "nowhere.py does not exist"),
        ("nowhere/agent.py", None, "does not exist"),
        (".:x", None, "is a folder"),
        ("agent.txt", "x", "no module 'agent.txt'"),
        ("mine_missing", None, "no module 'mine_missing'"),
        ("mine.missing:f", None, "no module"),
        (":f", None, "names no module"),
        ("agent.py:other", FACTORY, "has no `other`. It defines: make_agent, answer"),
        ("agent.py", "def build(): ...", "neither `make_agent` nor `agent`. It defines: build"),
        ("agent.py:n", "n = 3", "is 'int', which cannot be served"),
        ("agent.py", "import mine_nothing_such", "agent.py, line 1"),
        ("agent.py", "x = 1\n\ny = 1 / 0", "agent.py, line 3"),
        ("agent.py", "def make_agent(:\n", "SyntaxError"),
        ("agent.py", "raise SystemExit(3)", "SystemExit"),
        ("agent.py:f", "def f(message, session): ...", "is not async"),
        ("agent.py:f", "async def f(a, b, c): ...", "takes 3 parameters"),
        ("agent.py:f", "async def f(message): ...", "reads like a function that answers"),
        ("agent.py:f", "async def f(session_id):\n    yield 1", "takes 1 parameters"),
        ("agent.py", "from strands import Agent\nagent = Agent(model='x')", "is one Agent, but every session needs"),
    ],
)
def test_a_target_that_is_wrong_is_told_with_what_to_write(target: str, source: str | None, said: str) -> None:
    if source is not None:
        write(source, target.partition(":")[0])
    with pytest.raises(TargetError) as refusal:
        load_target(target)
    assert said in str(refusal.value)


def test_a_keyword_only_session_id_reaches_the_factory() -> None:
    space: dict[str, Any] = {}
    exec("def f(*, session_id): return session_id", space)
    target = target_for(space["f"], "f")
    assert isinstance(target, StrandsTarget)
    assert target._factory("s") == "s"


def test_graph_and_swarm_are_refused_with_the_function_to_write() -> None:
    write(
        "from strands import Agent\n"
        "from strands.multiagent import GraphBuilder, Swarm\n"
        "one = Agent(model='x', name='one')\n"
        "builder = GraphBuilder()\n"
        "builder.add_node(one, 'one')\n"
        "builder.set_execution_timeout(10)\n"
        "graph = builder.build()\n"
        "swarm = Swarm([Agent(model='x', name='two')])\n"
    )
    for name in ("graph", "swarm"):
        with pytest.raises(TargetError, match=f"build_{name}"):
            load_target(f"agent.py:{name}")
