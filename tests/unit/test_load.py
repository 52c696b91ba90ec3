"""How a TARGET is found, and what is said when it cannot be served."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from strandline._agents.factory import FactoryTarget
from strandline._agents.function import FunctionTarget
from strandline._agents.load import load_target, target_for
from strandline._agents.parameters import NOTHING
from strandline._agents.singleton import SingletonTarget
from strandline._model import session_key
from strandline.errors import TargetError


@pytest.fixture(autouse=True)
def _here(own_folder: Path) -> None:
    """Targets are files of the current folder."""


def write(text: str, name: str = "agent.py") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


FACTORY = (
    "from strands import Agent\ndef make_agent(session_id) -> Agent: ...\n"
    "async def answer(message, session): return ''\n"
)


@pytest.mark.parametrize("target", ["{path}", "{path}:make_agent", "./{path}", "{folder}/{path}"])
def test_a_factory_is_found_in_a_file(target: str, tmp_path: Path) -> None:
    path = write(FACTORY)
    found = load_target(target.format(path=path, folder=tmp_path))
    assert isinstance(found, FactoryTarget)
    assert found.resumable
    assert "make_agent" in found.description


def test_a_function_is_found_by_name_in_a_module_of_this_folder() -> None:
    write("", "package/__init__.py")
    write(FACTORY, "package/mine.py")
    found = load_target("package.mine:answer")
    assert isinstance(found, FunctionTarget)
    assert not found.resumable


def test_a_file_may_import_what_lies_beside_it() -> None:
    write("NAME = 'beside'", "folder/mine_beside.py")
    write("from mine_beside import NAME\ndef make_agent(): ...\n", "folder/agent.py")
    assert isinstance(load_target("folder/agent.py"), FactoryTarget)


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
    assert isinstance(target, FactoryTarget)
    assert (target._takes != NOTHING) is takes


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        ("nowhere.py", None, "nowhere.py does not exist"),
        ("nowhere/agent.py", None, "does not exist"),
        (".:x", None, "is a folder"),
        ("agent.txt", "x", "is not a Python file"),
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
    ],
)
def test_a_wrong_target_is_refused_with_what_to_write(target: str, source: str | None, said: str) -> None:
    if source is not None:
        write(source, target.partition(":")[0])
    with pytest.raises(TargetError) as refusal:
        load_target(target)
    assert said in str(refusal.value)


OBJECT = (
    "import functools, os\n"
    "from strands import Agent\n"
    "class Answers:\n    async def __call__(self, message, session): return message\n"
    "class Streams:\n    async def __call__(self, message, session): yield message\n"
    "class Blocks:\n    def __call__(self, message, session): return message\n"
    "class Builds:\n    def __call__(self, session_id): ...\n"
    "class Yields:\n    def __call__(self): yield 1\n"
    "class Mine(Agent):\n    def __init__(self, model='x'): super().__init__(model=model)\n"
    "answers, streams, blocks, builds, yields = Answers(), Streams(), Blocks(), Builds(), Yields()\n"
    "async def three(prefix, message, session): ...\n"
    "def build(model, session_id): ...\n"
    "bound_function = functools.partial(three, 'x')\n"
    "bound_object = functools.partial(answers)\n"
    "bound_factory = functools.partial(build, 'x')\n"
    "bound_by_name = functools.partial(build, model='x')\n"
    "bound_agent = functools.partial(Agent, model='x')\n"
    "short = lambda: None\n"
    "short_id = lambda session_id: None\n"
    "method = builds.__call__\n"
    "getcwd = os.getcwd\n"
    "def generator(): yield 1\n"
    "def keyword(*, model): ...\n"
    "def keyword_too(sid, *, session_id): ...\n"
    "async def keyword_function(message, session, *, model): ...\n"
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("answers", FunctionTarget),
        ("streams", FunctionTarget),
        ("bound_function", FunctionTarget),
        ("bound_object", FunctionTarget),
        ("builds", FactoryTarget),
        ("method", FactoryTarget),
        ("Mine", FactoryTarget),
        ("Agent", FactoryTarget),
        ("bound_factory", FactoryTarget),
        ("bound_by_name", FactoryTarget),
        ("bound_agent", FactoryTarget),
        ("short", FactoryTarget),
        ("short_id", FactoryTarget),
    ],
)
def test_whatever_can_be_called_may_be_a_target(name: str, kind: type) -> None:
    write(OBJECT)
    target = load_target(f"agent.py:{name}")
    assert type(target) is kind
    if isinstance(target, FactoryTarget):
        takes = name in ("builds", "method", "bound_factory", "bound_by_name", "short_id")
        assert (target._takes != NOTHING) is takes


@pytest.mark.parametrize(
    ("name", "said", "advice"),
    [
        ("blocks", "is not async", "async def answer(message, session)"),
        ("Builds", "is a class", "answer = Builds()"),
        ("Answers", "is a class", "answer = Answers()"),
        ("getcwd", "'getcwd', which is built into Python", "def make_agent"),
        ("generator", "is a generator", "def make_agent"),
        ("yields", "is a generator", "def make_agent"),
        ("keyword", "needs the keyword `model`", "Give it a default"),
        ("keyword_too", "takes `sid`, which Strandline does not pass", "def make_agent"),
        ("keyword_function", "needs the keyword `model`", "Give it a default"),
    ],
)
def test_a_callable_that_cannot_be_served_is_refused_with_the_reason(name: str, said: str, advice: str) -> None:
    write(OBJECT)
    with pytest.raises(TargetError) as refusal:
        load_target(f"agent.py:{name}")
    assert said in str(refusal.value)
    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "files", "line"),
    [
        ("agent.py", {"agent.py": "import json\nx = json.loads('{bad')"}, "agent.py, line 2"),
        ("agent", {"agent.py": "import json\nx = json.loads('{bad')"}, "agent.py, line 2"),
        ("agent.py", {"agent.py": "import ast\n\nast.parse('(')"}, "agent.py, line 3"),
        ("agent.py", {"agent.py": "import importlib\n\nimportlib.import_module('mine_no')"}, "agent.py, line 3"),
        (
            "agent.py",
            {"agent.py": "import mine_beside", "mine_beside.py": "import json\n\njson.loads('{bad')"},
            "mine_beside.py, line 3",
        ),
        (
            "agent.py",
            {
                "agent.py": "import sys\nsys.path.append('site-packages')\nimport mine_installed",
                "site-packages/mine_installed.py": "raise ValueError",
            },
            "agent.py, line 3",
        ),
        (
            "app/agent.py",
            {"app/agent.py": "import sys\nsys.path.append('lib')\nimport mine_lib", "lib/mine_lib.py": "1 / 0"},
            "agent.py, line 3",
        ),
    ],
)
def test_a_failed_import_shows_the_line_in_the_users_own_file(target: str, files: dict[str, str], line: str) -> None:
    for name, text in files.items():
        write(text, name)
    with pytest.raises(TargetError) as refusal:
        load_target(target)
    assert line in str(refusal.value)


def test_a_keyword_only_session_id_reaches_the_factory() -> None:
    space: dict[str, Any] = {}
    exec("def f(*, session_id): return session_id", space)
    target = target_for(space["f"], "f")
    assert isinstance(target, FactoryTarget)
    assert asyncio.run(target._made(session_key("s"))) == "s"


INSTANCES = (
    "from strands import Agent, tool\n"
    "from strands.multiagent import GraphBuilder, Swarm\n"
    "from strands.session import FileSessionManager\n"
    "from strandline.testing import ScriptedModel\n"
    "model = ScriptedModel(lambda messages: '')\n"
    "class Mine(Agent): ...\n"
    "agent, mine = Agent(model=model), Mine(model=model)\n"
    "builder = GraphBuilder()\n"
    "builder.add_node(Agent(model=model), 'one')\n"
    "builder.set_execution_timeout(10)\n"
    "graph = builder.build()\n"
    "swarm = Swarm([Agent(model=model, name='two')])\n"
    "kept = Agent(model=model, session_manager=FileSessionManager('x', storage_dir='kept'))\n"
    "@tool\ndef work() -> str:\n    'Work.'\n    return ''\n"
)


@pytest.mark.parametrize("name", ["agent", "mine"])
def test_one_agent_is_served_to_all_sessions_and_its_factory_recommended(name: str) -> None:
    write(INSTANCES)
    target = load_target(f"agent.py:{name}")
    assert isinstance(target, SingletonTarget)
    assert target.singleton
    assert "make_agent(session_id)" in target.description


@pytest.mark.parametrize(
    ("name", "said", "advice"),
    [
        ("graph", "is one Graph", "def make_graph(session_id):"),
        ("swarm", "is one Swarm", "def make_swarm(session_id):"),
        ("kept", "has a session manager", "--history session_manager"),
        ("work", "is one DecoratedFunctionTool", "def make_agent(session_id):"),
        ("model", "is one ScriptedModel", "def make_agent(session_id):"),
    ],
)
def test_an_object_that_cannot_be_served_is_refused_with_what_to_write(name: str, said: str, advice: str) -> None:
    write(INSTANCES)
    with pytest.raises(TargetError) as refusal:
        load_target(f"agent.py:{name}")
    assert said in str(refusal.value)
    assert advice in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (INSTANCES, "agent", "one conversation for all sessions"),
        (INSTANCES, "graph", "is one Graph"),
        (FACTORY, "answer", "is a function. The setting history=session_manager is for factories"),
    ],
)
def test_only_factories_can_be_self_managed(source: str, name: str, said: str) -> None:
    write(source)
    with pytest.raises(TargetError) as refusal:
        load_target(f"agent.py:{name}", history="session_manager")
    assert said in str(refusal.value)


def test_a_factory_is_not_called_at_the_start_when_its_agents_keep_their_history() -> None:
    write("def make_agent(session_id): raise AssertionError('called')")
    target = load_target("agent.py", history="session_manager")
    assert target.self_managed
    assert not target.resumable
