"""Tools of a real MCP server over stdio, which dies while one works, stays dead, and comes back."""

import asyncio
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from strands import Agent

import target_support
from engine_support import key
from strandline._agents.factory import FactoryTarget
from strandline._agents.parameters import NOTHING
from strandline._engine.service import Service
from strandline._model import RunStatus
from strandline.testing import ScriptedModel, call, results
from strandline.testing import question as prompt_of
from strands_support import ask, history, run, serving

if TYPE_CHECKING:  # it takes seconds, and each process that shares the tests imports this module
    from mcp import StdioServerParameters
    from strands.tools.mcp import MCPClient

ROOT = Path(__file__).parents[2]
DESK = ROOT / "tests" / "fakes" / "mcp_desk.py"
DEADLINE_S = 20.0

# What a client leaves of a connection that was killed logs it when collected (strands-agents 1.62.0, mcp 2.1.1):
# coroutines for a loop that has stopped, pipes of a process that is gone.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine 'MCPClient:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have all of that end here, and not in whatever test comes later.

    What was there before is not looked at: it is much, and these tests collect often.
    """
    gc.collect()
    gc.freeze()
    yield
    for _ in range(3):
        gc.collect()
    gc.unfreeze()


def documented() -> list[str]:
    """Return the code of the documentation's section on MCP servers."""
    section = (ROOT / "docs" / "agents.md").read_text().split("## MCP servers")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def parameters(folder: Path) -> "StdioServerParameters":
    from mcp import StdioServerParameters

    return StdioServerParameters(command=sys.executable, args=[str(DESK)], env={"DESK": str(folder)})


def client_of(folder: Path) -> "MCPClient":
    from mcp import stdio_client
    from strands.tools.mcp import MCPClient

    connect: Any = stdio_client
    return MCPClient(lambda: connect(parameters(folder)), startup_timeout=10)


def script(messages: Any) -> Any:
    given = results(messages)
    if given:
        return f"the desk says: {next(iter(given.values()))}"
    return [call("wait")] if prompt_of(messages) == "wait" else [call("add", {"a": 1, "b": 2})]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Return what the documentation's code makes: a client that is connected, and a factory."""
    usage, client = documented()
    names: dict[str, Any] = {}
    exec(client, names)
    usage = usage.replace('command="python", args=["desk.py"]', "**served").replace("Agent(", "Agent(model=model, ")
    names["served"] = parameters(tmp_path).model_dump(include={"command", "args", "env"})
    names["model"] = ScriptedModel(script)
    exec(usage, names)
    yield names["desk"], names["make_agent"]
    try:
        names["desk"].stop(None, None, None)
    except RuntimeError:
        pass  # it was killed


async def until(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        await asyncio.sleep(0.01)


def kill(folder: Path) -> None:
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


async def answered(service: Service, text: str, session: str = "s") -> str:
    started = time.monotonic()
    end = await ask(service, text, session)
    assert end.status is RunStatus.SUCCEEDED
    assert time.monotonic() - started < DEADLINE_S
    await history(service, session)
    return end.output


def test_a_session_survives_an_mcp_server_that_dies_while_a_tool_works_stays_dead_and_comes_back(
    tmp_path: Path, desk: tuple[Any, Any]
) -> None:
    async def main() -> None:
        _, factory = desk
        async with serving(factory, tmp_path) as service:
            assert await answered(service, "add") == "the desk says: 3"
            (tmp_path / "closed").touch()
            waits = asyncio.create_task(answered(service, "wait"))
            await until(tmp_path / "waiting")
            kill(tmp_path)
            assert "What it did of this call is unknown." in await waits
            assert "initialization failed" in await answered(service, "add")
            assert "initialization failed" in await answered(service, "add", "other")
            (tmp_path / "closed").unlink()
            assert await answered(service, "add") == "the desk says: 3"
            assert await answered(service, "add", "other") == "the desk says: 3"
            assert "unknown" in str(await history(service)), "what became of the call stays in history"

    run(main)


def test_a_call_to_a_dead_server_fails_for_the_model_and_the_next_one_finds_the_new_server(
    tmp_path: Path, desk: tuple[Any, Any]
) -> None:
    async def main() -> None:
        _, factory = desk
        async with serving(factory, tmp_path) as service:
            kill(tmp_path)
            both = await asyncio.gather(answered(service, "add"), answered(service, "add", "other"))
            assert any("Connection closed" in text for text in both)
            assert await answered(service, "add") == "the desk says: 3"
            assert await answered(service, "add", "other") == "the desk says: 3"

    run(main)


def test_a_client_of_strands_own_says_for_good_that_its_server_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        client = client_of(tmp_path)
        client.start()
        try:
            tools = client.list_tools_sync()
            async with serving(lambda: Agent(model=ScriptedModel(script), tools=list(tools)), tmp_path) as service:
                assert await answered(service, "add") == "the desk says: 3"
                kill(tmp_path)
                for _ in range(2):
                    assert "Connection closed" in await answered(service, "add")
        finally:
            client.stop(None, None, None)

    run(main)


@pytest.mark.parametrize("shared", [False, True])
def test_sessions_go_on_when_the_agents_that_hold_an_mcp_client_leave_memory(shared: bool, tmp_path: Path) -> None:
    async def main() -> None:
        clients: list[MCPClient] = []

        def factory() -> Agent:
            if not (shared and clients):
                clients.append(client_of(tmp_path))
            return Agent(model=ScriptedModel(script), tools=[clients[-1]])

        async with serving(factory, tmp_path) as service:
            for session in ("first", "second", "first"):
                assert await answered(service, "add", session) == "the desk says: 3"
                pid = int((tmp_path / "pid").read_text())
                service._pool.drop(key(session))
                gc.collect()
                await gone(pid)
            assert len(clients) == (1 if shared else 3)

    run(main)


def test_the_first_session_works_with_the_connection_that_the_trial_of_its_factory_has_made(tmp_path: Path) -> None:
    async def main() -> None:
        client = client_of(tmp_path)
        target = FactoryTarget(
            lambda: Agent(model=ScriptedModel(script), tools=[client]), takes=NOTHING, description="test"
        )
        async with target_support.serving(target, tmp_path) as service:
            pid = int((tmp_path / "pid").read_text())
            gc.collect()
            assert await answered(service, "add", "first") == "the desk says: 3"
            assert int((tmp_path / "pid").read_text()) == pid
            service._pool.drop(key("first"))
            await gone(pid)

    run(main)


async def gone(pid: int) -> None:
    """Return when a process has ended: the last agent that held its client is no more."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        gc.collect()
        assert time.monotonic() < deadline, "the server of an agent that is no more still runs"
        await asyncio.sleep(0.01)
