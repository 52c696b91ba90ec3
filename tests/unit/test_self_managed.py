"""Agents whose session managers keep the conversation: what is read back, what a failure leaves, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.hooks import BeforeToolsEvent
from strands.multiagent import Swarm
from strands.session import FileSessionManager, SessionManager, SnapshotSessionManager
from strands.storage import LocalFileStorage
from strands.types.content import Messages

from engine_support import texts
from strandline._agents.factory import FactoryTarget
from strandline._agents.parameters import SESSION_ID
from strandline._history import history_faults
from strandline._model import RunStatus
from strandline.testing import ScriptedModel, call, results
from strandline.testing import question as prompt_of
from target_support import Noting, ask, run, serving


def self_managed(make: Callable[..., object]) -> FactoryTarget:
    return FactoryTarget(make, takes=SESSION_ID, description="test", self_managed=True)


def counted(messages: Messages) -> Any:
    if prompt_of(messages) == "fail":
        raise ConnectionError("gone")
    if prompt_of(messages) == "tool" and not results(messages):
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
            async with serving(self_managed(keeper(tmp_path)), tmp_path / "work") as service:
                assert (await ask(service, "a", "one")).output == ("a" if turn == 0 else "a a b a a b a")
                assert (await ask(service, "x", "two")).output.endswith("x")
                assert (await ask(service, "b", "one")).output.startswith("a a b")
                await service.drain()

    run(main)


def test_its_runs_are_not_resumable_and_have_no_checkpoints_or_state(tmp_path: Path) -> None:
    async def main() -> None:
        target = self_managed(keeper(tmp_path))
        assert not target.resumable
        assert target.self_managed
        journal = Noting()
        async with serving(target, tmp_path / "work", journal) as service:
            assert (await ask(service, "tool")).output == "tool"
            assert journal.checkpoints == []
            assert [(each.window, each.state) for each in journal.completions] == [(None, None)]

    run(main)


def test_after_a_failure_the_next_run_reads_what_the_session_manager_has(tmp_path: Path) -> None:
    async def main() -> None:
        made: list[str] = []

        def make(session_id: str) -> Agent:
            made.append(session_id)
            return keeper(tmp_path)(session_id)

        async with serving(self_managed(make), tmp_path / "work") as service:
            await ask(service, "a")
            assert (await ask(service, "fail")).status is RunStatus.FAILED
            assert (await ask(service, "b")).output == "a a fail b", "the question that failed is in its files"
            assert made == ["s", "s"]

    run(main)


def test_a_damaged_file_fails_every_run_of_its_session_and_none_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(self_managed(keeper(tmp_path)), tmp_path / "work", max_agents=0) as service:
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
        async with serving(self_managed(lambda session_id: make()), tmp_path) as service:
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
            assert "history=session_manager" in outcome.error.detail

    run(main)


def faults(given: Messages) -> list[str]:
    """Return why a provider would refuse what a model was given, once it has answered."""
    return history_faults([*given, {"role": "assistant", "content": [{"text": "fine"}]}])  # type: ignore[list-item]


@tool(context=True)
def approve(tool_context: ToolContext) -> str:
    """Ask somebody."""
    return str(tool_context.interrupt("approval", reason="sure?"))


def by_files(session_id: str, folder: Path) -> SessionManager:
    return FileSessionManager(session_id, storage_dir=str(folder))


def by_snapshots(session_id: str, folder: Path) -> SessionManager:
    return SnapshotSessionManager(session_id, storage=LocalFileStorage(str(folder)))


class Asker:
    """A factory of agents that ask, and what their models were given last."""

    def __init__(self, folder: Path, manager: Callable[[str, Path], SessionManager], *, by_hook: bool = False) -> None:
        self.given: Messages = []
        self.folder = folder
        self.manager = manager
        self.by_hook = by_hook

    def script(self, messages: Messages) -> Any:
        self.given = list(messages)
        if prompt_of(messages) == "ask" and not results(messages):
            return [call("approve"), call("work")]
        return "fine"

    def __call__(self, session_id: str) -> Agent:
        manager = self.manager(session_id, self.folder)
        made = Agent(model=ScriptedModel(self.script), tools=[approve, work], session_manager=manager)
        if self.by_hook:
            made.add_hook(self._ask, BeforeToolsEvent)
        return made

    def _ask(self, event: BeforeToolsEvent) -> None:
        event.interrupt("hook", reason="sure?")


@pytest.mark.parametrize("by_hook", [False, True], ids=["a tool", "a hook"])
@pytest.mark.parametrize("manager", [by_files, by_snapshots])
def test_a_question_that_cannot_be_answered_fails_its_run_and_none_after_it(
    manager: Callable[[str, Path], SessionManager], by_hook: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        make = Asker(tmp_path / "kept", manager, by_hook=by_hook)
        for turn in (0, 1):
            async with serving(self_managed(make), tmp_path / "work") as service:
                outcome = await ask(service, "ask")
                assert outcome.error is not None
                assert "cannot be answered with `history=session_manager`" in outcome.error.detail or by_hook
                assert (await ask(service, f"after {turn}")).output == "fine"
                assert (await ask(service, "and on")).output == "fine"
                await service.drain()
            assert faults(make.given) == []
            assert "(This run ended early: agent_error.)" in texts(make.given)  # type: ignore[arg-type]
            text = str(make.given)
            assert "Tool was interrupted" not in text, "what the others have done is not forgotten"
            assert ("worked" in text) is not by_hook

    run(main)


def test_a_session_whose_question_was_left_open_before_goes_on(tmp_path: Path) -> None:
    """As a server leaves it that died just then, or one that could not clear questions."""

    async def main() -> None:
        make = Asker(tmp_path / "kept", by_files)
        assert (await make("s").invoke_async("ask")).stop_reason == "interrupt"
        async with serving(self_managed(make), tmp_path / "work") as service:
            assert (await ask(service, "hello")).output == "fine"
        assert faults(make.given) == []

    run(main)


def test_what_other_tools_of_a_round_have_done_that_one_broke_off_is_in_the_session_manager(tmp_path: Path) -> None:
    async def main() -> None:
        given: list[Messages] = []

        @tool
        async def leave() -> str:
            """Leave."""
            raise SystemExit(3)

        def script(messages: Messages) -> Any:
            given.append(list(messages))
            return [call("work"), call("leave")] if prompt_of(messages) == "both" else "fine"

        def make(session_id: str) -> Agent:
            return Agent(
                model=ScriptedModel(script),
                tools=[work, leave],
                session_manager=by_files(session_id, tmp_path / "kept"),
            )

        async with serving(self_managed(make), tmp_path / "work") as service:
            assert (await ask(service, "both")).status is RunStatus.FAILED
            assert (await ask(service, "next")).output == "fine"
        assert "worked" in str(given[-1])

    run(main)
