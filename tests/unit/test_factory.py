"""How it is known what a factory makes: from what it says of itself, from one call at the start, or not yet."""

import asyncio
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Optional

import pytest
from strands import Agent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.graph import Graph
from strands.tools import ToolProvider

from logged import ours
from strandline._agents import factory as module
from strandline._agents.factory import PROBE_SESSION, FactoryTarget
from strandline._agents.parameters import NOTHING, SESSION_ID
from strandline._model import RunStatus
from strandline.testing import ScriptedModel
from target_support import ask, run, serving, until


class Mine(Agent):
    def __init__(self) -> None:
        super().__init__(model=ScriptedModel(lambda _: "fine"))


def a_graph() -> Graph:
    builder = GraphBuilder()
    builder.add_node(Mine(), "one")
    builder.set_execution_timeout(30)
    return builder.build()


def says_agent() -> Agent:
    raise AssertionError("called")


def says_optional() -> Optional[Agent]:  # noqa: UP045
    raise AssertionError("called")


def says_awaitable() -> Awaitable[Agent]:
    raise AssertionError("called")


async def says_agent_later() -> "Agent":
    raise AssertionError("called")


def says_swarm() -> Swarm:
    raise AssertionError("called")


def says_either() -> Agent | Graph:
    raise AssertionError("called")


def says_with_model(model: str) -> Agent:
    raise AssertionError("called")


class Builds:
    def __call__(self) -> Graph:
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("make", "resumable"),
    [
        (says_agent, True),
        (says_optional, True),
        (says_awaitable, True),
        (says_agent_later, True),
        (functools.partial(says_with_model, "x"), True),
        (Mine, True),
        (functools.partial(Agent, model="x"), True),
        (says_swarm, False),
        (says_either, False),
        (Builds(), False),
    ],
)
def test_a_factory_that_says_what_it_makes_is_not_called_at_the_start(
    make: Callable[..., Any], resumable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    target = FactoryTarget(make, takes=NOTHING, description="test")
    with caplog.at_level(logging.INFO, "strandline"):
        asyncio.run(target.probe())
    assert target.resumable is resumable
    assert ours(caplog) == []


def says_nothing(made: object) -> Callable[..., Any]:
    return lambda *session_id: made


async def later() -> Any:
    return Mine()


@pytest.mark.parametrize(
    ("make", "resumable"),
    [(lambda: Mine(), True), (lambda: later(), True), (lambda: a_graph(), False), (lambda: Swarm([Mine()]), False)],
    ids=["agent", "awaitable", "graph", "swarm"],
)
def test_a_factory_that_does_not_say_is_called_once_to_see(make: Callable[..., Any], resumable: bool) -> None:
    called: list[object] = []

    def counting(session_id: str) -> Any:
        called.append(session_id)
        return make()

    target = FactoryTarget(counting, takes=SESSION_ID, description="test")
    asyncio.run(target.probe())
    assert target.resumable is resumable
    assert called == [PROBE_SESSION]


def fails() -> Any:
    raise ConnectionError("no database yet")


def leaves() -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (fails, "the factory failed: ConnectionError('no database yet')"),
        (leaves, "SystemExit(3)"),
        (lambda: None, "the factory returned None, not a strands.Agent"),
    ],
)
def test_a_factory_that_fails_at_the_start_is_logged_and_counts_as_not_resumable(
    make: Callable[..., Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = FactoryTarget(make, takes=NOTHING, description="test")
    with caplog.at_level(logging.WARNING, "strandline"):
        asyncio.run(target.probe())
    assert said in caplog.text
    assert not target.resumable


def test_a_factory_that_does_not_return_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_TIMEOUT_S", 0.05)
    goes_on = threading.Event()

    def slow() -> Any:
        goes_on.wait(20)
        return Mine()

    async def main() -> None:
        target = FactoryTarget(slow, takes=NOTHING, description="test")
        await target.probe()
        assert not goes_on.is_set()
        assert not target.resumable
        goes_on.set()

    run(main)


def test_a_factory_is_tried_on_the_loop_that_it_is_called_on_later(tmp_path: Path) -> None:
    async def main() -> None:
        loops: list[asyncio.AbstractEventLoop] = []

        async def make():  # type: ignore[no-untyped-def]
            loops.append(asyncio.get_running_loop())
            return Mine()

        async with serving(FactoryTarget(make, takes=NOTHING, description="test"), tmp_path) as service:
            assert (await ask(service, "q")).output == "fine"
        assert len(loops) == 2
        assert loops[0] is loops[1]

    run(main)


class Desk(ToolProvider):
    """Tools behind a connection that is closed when nobody holds it any more, as an `MCPClient` is."""

    def __init__(self) -> None:
        self.holders: set[object] = set()
        self.closed = 0

    async def load_tools(self, **options: Any) -> list[Any]:
        return []

    def add_consumer(self, consumer_id: object, **options: Any) -> None:
        self.holders.add(consumer_id)

    def remove_consumer(self, consumer_id: object, **options: Any) -> None:
        self.holders.discard(consumer_id)
        self.closed += not self.holders


def test_what_was_tried_holds_its_connections_until_a_session_has_an_agent(tmp_path: Path) -> None:
    async def main() -> None:
        desk = Desk()
        made: list[weakref.ref[Agent]] = []

        def make(session_id: str) -> Any:
            gc.collect()
            agent = Agent(model=ScriptedModel(lambda _: "fine"), tools=[desk])
            made.append(weakref.ref(agent))
            if session_id == "fails":
                raise ConnectionError("of something else")
            return agent

        target = FactoryTarget(make, takes=SESSION_ID, description="test")
        async with serving(target, tmp_path) as service:
            gc.collect()
            assert desk.closed == 0
            assert (await ask(service, "q", "fails")).status is RunStatus.FAILED
            gc.collect()
            assert (await ask(service, "q")).output == "fine"
            assert desk.closed == 0
            tried = made[0]

            def is_gone() -> bool:
                gc.collect()
                return tried() is None

            await until(is_gone)
            assert desk.closed == 0, "the session's agent holds it by now"

    run(main)


def test_a_factory_that_failed_at_the_start_is_known_once_it_has_made_an_agent(tmp_path: Path) -> None:
    async def main() -> None:
        up: list[bool] = []

        def late(*_: object) -> Any:
            if not up:
                raise ConnectionError("not yet")
            return Mine()

        target = FactoryTarget(late, takes=NOTHING, description="test")
        async with serving(target, tmp_path) as service:
            assert (await ask(service, "q")).status is RunStatus.FAILED
            assert not target.resumable
            up.append(True)
            assert (await ask(service, "q")).output == "fine"
            assert target.resumable

    run(main)


def test_a_graph_from_a_factory_that_was_seen_to_make_agents_is_refused_with_what_to_write(tmp_path: Path) -> None:
    async def main() -> None:
        def either(session_id: str) -> Any:
            return Mine() if session_id == PROBE_SESSION else a_graph()

        target = FactoryTarget(either, takes=SESSION_ID, description="test")
        async with serving(target, tmp_path) as service:
            outcome = await ask(service, "q")
            assert outcome.error is not None
            assert "-> Agent | Graph | Swarm" in outcome.error.detail

    run(main)


def test_a_factory_that_says_that_it_makes_either_may_make_either(tmp_path: Path) -> None:
    async def main() -> None:
        def either(session_id: str) -> Agent | Graph:
            return Mine() if session_id == "a" else a_graph()

        target = FactoryTarget(either, takes=SESSION_ID, description="test")
        async with serving(target, tmp_path) as service:
            answers = await asyncio.gather(ask(service, "q", "a"), ask(service, "q", "b"))
            assert [answer.output for answer in answers] == ["fine", "fine"]
            assert not target.resumable

    run(main)
