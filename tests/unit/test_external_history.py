"""Agents whose session managers keep the conversation: what is read back, what a failure leaves, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool
from strands.multiagent import Swarm
from strands.session import FileSessionManager
from strands.types.content import Messages

from engine_support import texts
from strandline.agents.factory import FactoryTarget
from strandline.agents.parameters import SESSION_ID
from strandline.model import RunStatus
from strandline.testing import ScriptedModel, call, results
from strandline.testing import question as asked
from target_support import Noting, ask, run, serving


def external(make: Callable[..., object]) -> FactoryTarget:
    return FactoryTarget(make, takes=SESSION_ID, description="test", external=True)


def counted(messages: Messages) -> Any:
    if asked(messages) == "fail":
        raise ConnectionError("gone")
    if asked(messages) == "tool" and not results(messages):
        return [call("work")]
    return " ".join(texts(messages))  # type: ignore[arg-type]


@tool
def work() -> str:
    """Work."""
    return "worked"


def keeper(folder: Path) -> Callable[[str], Agent]:
    def make(session_id: str) -> Agent:
        manager = FileSessionManager(session_id, storage_dir=str(folder))
        return Agent(model=ScriptedModel(counted), tools=[work], session_manager=manager)

    return make


def test_the_conversation_is_the_session_managers_also_once_the_agent_was_made_anew(tmp_path: Path) -> None:
    async def main() -> None:
        for turn in (0, 1):
            async with serving(external(keeper(tmp_path)), tmp_path / "work") as service:
                assert (await ask(service, "a", "one")).output == ("a" if turn == 0 else "a a b a a b a")
                assert (await ask(service, "x", "two")).output.endswith("x")
                assert (await ask(service, "b", "one")).output.startswith("a a b")
                await service.drain()

    run(main)


def test_its_runs_are_opaque_and_nothing_of_them_is_staged_or_kept_as_state(tmp_path: Path) -> None:
    async def main() -> None:
        target = external(keeper(tmp_path))
        assert target.opaque
        assert target.external
        journal = Noting()
        async with serving(target, tmp_path / "work", journal) as service:
            assert (await ask(service, "tool")).output == "tool"
            assert journal.staged == []
            assert [(each.window, each.state) for each in journal.settled] == [(None, None)]

    run(main)


def test_after_a_failure_the_next_run_reads_what_the_session_manager_has(tmp_path: Path) -> None:
    async def main() -> None:
        made: list[str] = []

        def make(session_id: str) -> Agent:
            made.append(session_id)
            return keeper(tmp_path)(session_id)

        async with serving(external(make), tmp_path / "work") as service:
            await ask(service, "a")
            assert (await ask(service, "fail")).status is RunStatus.FAILED
            assert (await ask(service, "b")).output == "a a fail b", "the question that failed is in its files"
            assert made == ["s", "s"]

    run(main)


def test_a_damaged_file_fails_every_run_of_its_session_and_none_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(external(keeper(tmp_path)), tmp_path / "work", max_agents=0) as service:
            await ask(service, "a", "one")
            for file in (tmp_path / "session_one").rglob("*.json"):
                file.write_text("{")
            for _ in range(2):
                outcome = await ask(service, "b", "one")
                assert outcome.error is not None
                assert "Invalid JSON" in outcome.error.detail
            assert (await ask(service, "x", "two")).output == "x"

    run(main)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Agent(model=ScriptedModel(counted)), "without a session manager"),
        (lambda: Swarm([Agent(model=ScriptedModel(counted), name="a")]), "returned a Swarm"),
        (lambda: None, "returned None"),
    ],
)
def test_what_keeps_no_conversation_of_its_own_is_refused(
    make: Callable[[], object], said: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(external(lambda session_id: make()), tmp_path) as service:
            outcome = await ask(service, "q")
            assert outcome.error is not None
            assert said in outcome.error.detail

    run(main)


def test_without_the_setting_a_session_manager_is_refused_and_the_setting_named(tmp_path: Path) -> None:
    async def main() -> None:
        target = FactoryTarget(keeper(tmp_path), takes=SESSION_ID, description="test")
        async with serving(target, tmp_path / "work") as service:
            outcome = await ask(service, "q")
            assert outcome.error is not None
            assert "history=external" in outcome.error.detail

    run(main)
