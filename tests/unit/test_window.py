"""Every conversation manager of Strands, and broken ones: what the model is given is the same whether the agent was
kept in memory or rebuilt from the journal, and history keeps all of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import (
    ConversationManager,
    NullConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.agent.conversation_manager.compression.pin_message import pin_message
from strands.types.exceptions import ContextWindowOverflowException

from engine_support import key, texts
from strandline._agents.parameters import NOTHING
from strandline._agents.strands import StrandsTarget
from strandline._clock import SystemClock
from strandline._history import Progress, pairing_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import AgentRecord, ErrorCode, Inline, Message, Range, RunStatus
from strandline.testing import ScriptedModel, call, results, say
from strandline.testing import question as prompt_of
from strands_support import ask, history, loaded, run, serving

SUMMARISE = "Please summarize this conversation."
LONG = "x" * 1200
Made = Callable[[], ConversationManager]

TURNS = [
    *(f"chat {number}" for number in range(4)),
    "read 1",
    "read 2",
    "fail at once",
    "chat 5",
    "fail after a tool",
    "read 3",
    *(f"chat {number}" for number in range(6, 12)),
    "read 4",
    "read 5",
    "chat 12",
]


@tool
def read() -> str:
    """Read a long text."""
    return LONG


def script(messages: Any) -> Any:
    """Answer; a context of more than 4000 characters is too long, as for a small model."""
    text = prompt_of(messages)
    if text == SUMMARISE:
        return f"summary of {len(messages) - 1}"
    if len(str([message["content"] for message in messages])) > 4000:
        raise ContextWindowOverflowException("too long")
    if text == "fail at once":
        raise RuntimeError("failed")
    if text.startswith(("read", "fail")) and not results(messages):
        return [say("I look."), call("read")]
    if text == "fail after a tool":
        raise RuntimeError("failed")
    return f"answer to {text}"


def summarizing(**options: Any) -> Made:
    return lambda: SummarizingConversationManager(summary_ratio=0.6, preserve_recent_messages=2, **options)


def with_own_agent() -> ConversationManager:
    summarizer = Agent(model=ScriptedModel(script), callback_handler=None)
    return SummarizingConversationManager(summary_ratio=0.6, preserve_recent_messages=2, summarization_agent=summarizer)


MANAGERS: dict[str, Made] = {
    "none": lambda: NullConversationManager(),
    "sliding": lambda: SlidingWindowConversationManager(window_size=6),
    "sliding, whole results": lambda: SlidingWindowConversationManager(window_size=8, should_truncate_results=False),
    "sliding with the first pinned": lambda: SlidingWindowConversationManager(window_size=6, pin_first=1),
    "sliding with three pinned": lambda: SlidingWindowConversationManager(window_size=6, pin_first=3),
    "sliding in every turn": lambda: SlidingWindowConversationManager(window_size=4, per_turn=True),
    "sliding in every third turn": lambda: SlidingWindowConversationManager(window_size=4, per_turn=3),
    "sliding to nothing": lambda: SlidingWindowConversationManager(window_size=0),
    "sliding ahead of the limit": lambda: SlidingWindowConversationManager(proactive_compression=True),
    "summarizing": summarizing(),
    "summarizing with the first pinned": summarizing(pin_first=1),
    "summarizing ahead of the limit": summarizing(proactive_compression={"compression_threshold": 0.5}),
    "summarizing with an agent": with_own_agent,
}


async def played(
    made: Made, folder: Path, turns: list[str], *, rebuilt: bool
) -> tuple[list[list[Any]], list[Message], list[RunStatus]]:
    """Return what the model was given in each call, what history is, and how each run ended."""
    given: list[list[Any]] = []

    def noted(messages: Any) -> Any:
        assert pairing_faults(messages) == []
        given.append([(message["role"], message["content"]) for message in messages])
        return script(messages)

    def factory() -> Agent:
        model = ScriptedModel(noted)
        model.update_config(context_window_limit=600)
        return Agent(model=model, tools=[read], conversation_manager=made())

    statuses: list[RunStatus] = []
    async with serving(factory, folder) as service:
        for text in turns:
            if rebuilt:
                service._pool.drop(key())
            statuses.append((await ask(service, text)).status)
        return given, await history(service), statuses


@pytest.mark.parametrize("name", list(MANAGERS))
def test_a_rebuilt_agent_gives_its_model_what_a_kept_one_would_have_given(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        made = MANAGERS[name]
        kept, reported, statuses = await played(made, tmp_path, TURNS, rebuilt=False)
        again, seen_again, statuses_again = await played(made, tmp_path, TURNS, rebuilt=True)
        assert again == kept
        assert statuses_again == statuses
        assert [(each["role"], each["content"]) for each in reported] == [
            (each["role"], each["content"]) for each in seen_again
        ]
        questions = [text for text in texts(reported) if text in TURNS]
        assert questions == TURNS, "every question is in history, whatever became of it"
        assert str(reported).count(LONG) == sum(1 for message in reported if "toolResult" in message["content"][0])
        if name != "none":
            assert set(statuses) == {RunStatus.SUCCEEDED, RunStatus.FAILED}
            assert statuses.count(RunStatus.FAILED) == 2
            assert any("answer to chat 3" not in str(each) for each in kept[12:]), "something must have been reduced"

    run(main)


def test_messages_that_the_agents_own_code_pins_stay_pinned(tmp_path: Path) -> None:
    async def main() -> None:
        for rebuilt in (False, True):
            given: list[list[str]] = []

            @tool(context=True)
            def keep(tool_context: ToolContext) -> str:
                """Pin the first message, which is in history long since."""
                pin_message(tool_context.agent.messages, 0)
                return "kept"

            def pinning(messages: Any, given: list[list[str]] = given) -> Any:
                given.append(texts(messages))
                return [call("keep")] if prompt_of(messages) == "keep" and not results(messages) else "ok"

            def factory(pinning: Any = pinning, keep: Any = keep) -> Agent:
                manager = SlidingWindowConversationManager(window_size=4)
                return Agent(model=ScriptedModel(pinning), tools=[keep], conversation_manager=manager)

            journal = MemoryJournal(SystemClock())
            async with serving(factory, tmp_path, journal) as service:
                for text in ("first", "keep", "a", "b", "c"):
                    if rebuilt:
                        service._pool.drop(key())
                    await ask(service, text)
            assert given[-1] == ["first", "a", "ok", "b", "ok", "c"][-len(given[-1]) :]
            assert given[-1][0] == "first"
            record = await loaded(journal)
            assert isinstance(record.window[0], Inline), "history has the message as it was, without its pin"

    run(main)


def test_an_overflow_in_the_middle_of_a_run_shortens_results_for_the_model_and_never_in_history(
    tmp_path: Path,
) -> None:
    """The result that is shortened is one of the same run."""

    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        overflows: list[int] = []

        def once(messages: Any) -> Any:
            if not results(messages):
                return [call("read")] if prompt_of(messages) == "read" else "fine"
            if not overflows:
                overflows.append(1)
                raise ContextWindowOverflowException("too long")
            return "read it"

        async with serving(lambda: Agent(model=ScriptedModel(once), tools=[read]), tmp_path, journal) as service:
            assert (await ask(service, "read")).output == "read it"
            assert LONG in str(await history(service))
            record = await journal.load(key())
            assert LONG not in str(record.messages)
            assert "truncated" in str(record.messages)
            assert record.window[0] == Range(0, 2)
            assert (await ask(service, "next")).output == "fine"

    run(main)


def test_a_manager_that_cannot_reduce_fails_the_run_and_keeps_what_its_tools_did(tmp_path: Path) -> None:
    async def main() -> None:
        def always(messages: Any) -> Any:
            if results(messages):
                raise ContextWindowOverflowException("too long")
            return [call("read")] if prompt_of(messages) == "read" else "fine"

        def factory() -> Agent:
            return Agent(model=ScriptedModel(always), tools=[read], conversation_manager=NullConversationManager())

        async with serving(factory, tmp_path) as service:
            end = await ask(service, "read")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert "too long" in end.error.detail
            assert LONG in str(await history(service))
            assert (await ask(service, "next")).output == "fine"

    run(main)


class Broken(SlidingWindowConversationManager):
    """A manager that raises at a given place, with its work half done."""

    def __init__(self, broken: set[str]) -> None:
        super().__init__(window_size=2)
        self.broken = broken

    def apply_management(self, agent: Any, **kwargs: Any) -> None:
        self._break("apply_management", agent)
        super().apply_management(agent, **kwargs)

    def reduce_context(self, agent: Any, e: Exception | None = None, **kwargs: Any) -> None:
        self._break("reduce_context", agent)
        super().reduce_context(agent, e, **kwargs)

    def get_state(self) -> dict[str, Any]:
        self._break("get_state", None)
        return super().get_state()

    def _break(self, place: str, agent: Any) -> None:
        if place in self.broken:
            if agent is not None:
                del agent.messages[:1]
            raise ValueError(f"{place} is broken")


@pytest.mark.parametrize("place", ["apply_management", "reduce_context", "get_state"])
def test_a_manager_that_raises_in_the_middle_fails_that_run_alone(place: str, tmp_path: Path) -> None:
    async def main() -> None:
        broken: set[str] = set()
        given: list[list[str]] = []

        def noted(messages: Any) -> Any:
            assert pairing_faults(messages) == []
            given.append(texts(messages))
            return "fine"

        def factory() -> Agent:
            return Agent(model=ScriptedModel(noted), conversation_manager=Broken(broken))

        async with serving(factory, tmp_path) as service:
            for text in ("one", "two"):
                assert (await ask(service, text)).status is RunStatus.SUCCEEDED
            broken.add(place)
            end = await ask(service, "three")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert f"{place} is broken" in end.error.detail
            broken.clear()
            assert (await ask(service, "four")).output == "fine"
            ended = ["(This run ended early: agent_error.)", f"ValueError: {place} is broken"]
            assert given[-1] == ["two", "fine", "three", "fine", *ended, "four"]
            assert texts(await history(service))[-2:] == ["four", "fine"]

    run(main)


def test_a_summary_that_fails_in_the_middle_fails_that_run_alone(tmp_path: Path) -> None:
    async def main() -> None:
        failing = [True]

        def breaking(messages: Any) -> Any:
            if prompt_of(messages) == SUMMARISE and failing.pop():
                return ["summary of", RuntimeError("the summary broke off")]
            return script(messages)

        def factory() -> Agent:
            return Agent(model=ScriptedModel(breaking), tools=[read], conversation_manager=summarizing()())

        async with serving(factory, tmp_path) as service:
            ends = [await ask(service, text) for text in ("read 1", "read 2", "read 3")]
            end = ends[-1]
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert "the summary broke off" in end.error.detail
            failing.append(False)
            assert (await ask(service, "read 4")).status is RunStatus.SUCCEEDED
            assert str(await history(service)).count(LONG) == 4

    run(main)


def test_an_agent_that_is_to_summarise_itself_fails_its_run_with_the_reason_and_keeps_its_conversation(
    tmp_path: Path,
) -> None:
    """It cannot: an agent takes one question at a time, and the one of the run is under way."""

    async def main() -> None:
        def factory() -> Agent:
            manager = SummarizingConversationManager(summary_ratio=0.6, preserve_recent_messages=2)
            agent = Agent(model=ScriptedModel(script), tools=[read], conversation_manager=manager)
            manager.summarization_agent = agent
            return agent

        async with serving(factory, tmp_path) as service:
            ends = [await ask(service, text) for text in ("read 1", "read 2", "read 3")]
            assert [end.status for end in ends[:2]] == [RunStatus.SUCCEEDED] * 2
            assert ends[2].error is not None
            assert "ConcurrencyException" in ends[2].error.detail
            assert str(await history(service)).count(LONG) == 3

    run(main)


class Recap(SlidingWindowConversationManager):
    """A manager that counts, and begins a restored conversation with a message of its own."""

    def __init__(self) -> None:
        super().__init__(window_size=4)
        self.turns = 0

    def apply_management(self, agent: Any, **kwargs: Any) -> None:
        self.turns += 1
        super().apply_management(agent, **kwargs)

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "turns": self.turns}

    def restore_from_session(self, state: dict[str, Any]) -> list[Any] | None:
        super().restore_from_session(state)
        self.turns = state["turns"]
        return [{"role": "user", "content": [{"text": f"after {self.turns} turns"}]}]


def test_messages_that_a_manager_puts_before_a_restored_conversation_come_first_and_are_not_history(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        given: list[list[str]] = []

        def noted(messages: Any) -> Any:
            given.append(texts(messages))
            return "fine"

        async with serving(
            lambda: Agent(model=ScriptedModel(noted), conversation_manager=Recap()), tmp_path
        ) as service:
            for text in ("one", "two", "three"):
                await ask(service, text)
            service._pool.drop(key())
            await ask(service, "four")
            assert given[-1] == ["after 3 turns", "two", "fine", "three", "fine", "four"]
            assert "after 3 turns" not in texts(await history(service))

    run(main)


def test_a_run_that_goes_on_has_the_state_of_its_last_round_and_the_manager_of_its_window() -> None:
    """What a manager did to the window in the middle of a run is gone with the process; it has to do it again."""

    async def main() -> None:
        agents: list[Agent] = []

        def factory() -> Agent:
            agents.append(Agent(model=ScriptedModel(script), conversation_manager=Recap()))
            return agents[-1]

        def state(turns: int) -> dict[str, Any]:
            manager = {"__name__": "Recap", "removed_message_count": turns, "model_call_count": 0, "turns": turns}
            return {"state": {"turns": turns}, "conversation_manager_state": manager}

        record = AgentRecord(messages=[], origins=[], window=(Range(2, None),), length=2, state=state(3))
        asking: Message = {"role": "user", "content": [{"text": "go"}]}
        target = StrandsTarget(factory, takes=NOTHING, description="test")
        await target.build(key(), record, Progress(messages=[asking], results={}, state=state(7)))
        manager = agents[0].conversation_manager
        assert isinstance(manager, Recap)
        assert manager.turns == manager.removed_message_count == 3
        assert agents[0].state.get("turns") == 7

    run(main)


def test_a_conversation_goes_on_under_another_manager_than_before(tmp_path: Path) -> None:
    """The code of an agent changes while its sessions stay: Strands' managers refuse the state of another one."""

    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        managers: list[Made] = [MANAGERS["sliding"], MANAGERS["summarizing"], MANAGERS["none"]]
        for made in managers:

            def factory(made: Made = made) -> Agent:
                return Agent(model=ScriptedModel(script), tools=[read], conversation_manager=made())

            async with serving(factory, tmp_path, journal) as service:
                for text in ("one", "two", "three", "four"):
                    assert (await ask(service, text)).status is RunStatus.SUCCEEDED

    run(main)
