"""What waits, as Strands agents and their tools know it, in this process and in workers."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from strands import Agent, ToolContext, tool
from strands.session.file_session_manager import FileSessionManager

import target_support
from engine_support import Played, key, outcome, send
from engine_support import serving as serving_virtually
from strandline._agents.abnormal_exit import CURRENT
from strandline._agents.factory import FactoryTarget
from strandline._agents.parameters import SESSION_ID
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._history import UNKNOWN_WAITING
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Query, WaitingQuery
from strandline._model import Message, Sender
from strandline.errors import JournalUnavailable
from strandline.testing import ScriptedModel, call, in_turn, results
from strandline.testing._virtual import VirtualClock, run_virtual
from strandline.tools import waiting_messages
from strands_support import ask, history, run, serving

ADA = Sender("U1", "Ada")
A = TypeVar("A")


@pytest.fixture(params=[None, "1"], ids=["threads", "workers"], autouse=True)
def _workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_support, "WORKERS", request.param)


class Asked(MemoryJournal):
    """A journal that counts how often it is asked what waits, and may fail to answer."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked = 0
        self.fails = False

    async def read(self, query: Query[A]) -> A:
        if isinstance(query, WaitingQuery):
            self.asked += 1
            if self.fails:
                raise JournalUnavailable("it cannot be read")
        return await super().read(query)


class World:
    """Agents with a tool that lets messages be accepted meanwhile, one that says what is known, and further ones."""

    def __init__(self, *script: Any, tools: tuple[Any, ...] = ()) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

        @tool
        def work() -> str:
            """Work."""
            self.meanwhile()
            return "done"

        @tool(context=True)
        def known(tool_context: ToolContext) -> str:
            """Say what is known."""
            return json.dumps(tool_context.invocation_state.get("waiting", "nothing"))

        self.script, self.tools = script, [work, known, waiting_messages, *tools]

    def agent(self) -> Agent:
        return Agent(model=ScriptedModel(in_turn(*self.script)), tools=self.tools)

    async def asks(self, service: Service, *waiting: str) -> list[Any]:
        """Return the results of all tools but `work`, when these messages are accepted while it works."""
        loop = asyncio.get_running_loop()

        def send_all() -> None:
            for text in waiting:
                request = Request(key=key(), input=text, sender=ADA)
                asyncio.run_coroutine_threadsafe(service.submit(request), loop).result(30)

        self.meanwhile = send_all
        end = await ask(service, "go")
        assert end.error is None, end
        return [json.loads(each) for each in said(await history(service)) if each != "done"]


def said(messages: list[Message]) -> list[str]:
    """Return the texts of all results of tools."""
    blocks = [block["toolResult"] for message in messages for block in message["content"] if "toolResult" in block]
    return ["".join(part["text"] for part in result["content"]) for result in blocks]


def read_by(result: dict[str, Any]) -> list[str]:
    return [each["text"] for each in result["messages"]]


@tool
async def gather() -> str:
    """Read twice at once, with one message and with two."""
    exits = CURRENT.get()
    assert exits is not None
    assert exits.waiting is not None
    both = await asyncio.gather(exits.waiting.read(1), exits.waiting.read(2))
    return json.dumps([[each.text for each in read.messages] for read in both])


ON: dict[str, Any] = {"tell_waiting": True, "trusted_senders": True}
READ = "waiting_messages"


def test_several_reads_of_one_round_are_all_answered(tmp_path: Path) -> None:
    async def main() -> None:
        reads = [call(READ), call("known"), call("gather"), call(READ)]
        world = World([call("work")], reads, "end", "a", "b", tools=(gather,))
        async with serving(world.agent, tmp_path, **ON) as service:
            first, known, gathered, second = await world.asks(service, "a", "b")
            assert gathered == [["a"], ["a", "b"]], "each has its own answer"
            assert read_by(first) == read_by(second) == ["a", "b"]
            assert known == {"count": 2, "senders": [{"id": "U1", "name": "Ada"}]}

    run(main)


def test_an_agent_that_a_tool_calls_in_a_thread_reads_what_waits_of_the_run_that_it_works_for(tmp_path: Path) -> None:
    @tool
    def delegate() -> str:
        """Have another agent look."""

        def script(messages: Any) -> Any:
            return next(iter(results(messages).values()), None) or [call(READ)]

        return str(Agent(model=ScriptedModel(script), tools=[waiting_messages], callback_handler=None)("look")).strip()

    async def main() -> None:
        world = World([call("work")], [call("delegate")], "end", "a", tools=(delegate,))
        async with serving(world.agent, tmp_path, **ON) as service:
            (result,) = await world.asks(service, "a")
            assert read_by(result) == ["a"]

    run(main)


def test_an_agent_that_keeps_its_own_history_knows_what_waits(tmp_path: Path) -> None:
    world = World([call("work")], [call(READ)], [call("known")], "end", "a")

    def make(session_id: str) -> Agent:
        agent = world.agent()
        manager = FileSessionManager(session_id=session_id, storage_dir=str(tmp_path / "kept"))
        return Agent(model=agent.model, tools=world.tools, session_manager=manager)

    async def main() -> None:
        target = FactoryTarget(make, takes=SESSION_ID, description="test", self_managed=True)
        async with target_support.serving(target, tmp_path, **ON) as service:
            await world.asks(service, "a")
            kept = "".join(path.read_text() for path in (tmp_path / "kept").rglob("message_*.json"))
            assert '\\"text\\":\\"a\\"' in kept
            assert '\\"count\\": 1' in kept

    run(main)


def test_what_cannot_be_read_fails_no_run(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Asked()
        journal.fails = True
        world = World([call("work")], [call("known")], [call(READ)], "end", "a")
        async with serving(world.agent, tmp_path, journal, **ON) as service:
            world.meanwhile = lambda: None
            assert (await ask(service, "go")).output == "end"
            _, known, read = said(await history(service))
            assert json.loads(known) == {"count": None, "senders": []}
            assert "cannot be read at this moment" in read

    run(main)


def test_where_the_setting_is_off_the_journal_is_never_asked(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Asked()
        world = World([call("work")], [call("known")], [call(READ)], "end")
        async with serving(world.agent, tmp_path, journal, trusted_senders=True) as service:
            world.meanwhile = lambda: None
            assert (await ask(service, "go")).output == "end"
            _, known, read = said(await history(service))
            assert (known, journal.asked) == ('"nothing"', 0)
            assert "`tell_waiting` is off" in read

    run(main)


def test_code_that_outlives_its_run_learns_nothing_more() -> None:
    attempts: list[Attempt] = []

    async def behaviour(attempt: Attempt) -> str:
        attempts.append(attempt)
        return str((await attempt.read_waiting(1)).count)

    async def main(clock: VirtualClock) -> None:
        async with serving_virtually(clock, Played(behaviour), tell_waiting=True) as service:
            assert (await outcome(await send(service, "hi"))).output == "0"
            assert await attempts[0].read_waiting(1) is UNKNOWN_WAITING

    run_virtual(main)
