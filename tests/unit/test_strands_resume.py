"""Runs that resume in the middle of a round: what is started again, what never is, and what history says of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strands import Agent, tool
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent, BeforeToolsEvent
from strands.types.tools import AgentTool

from engine_support import key, silent_recorder
from strandline._agents.parameters import NOTHING
from strandline._agents.strands import StrandsTarget
from strandline._agents.strands_hooks import NOT_STARTED
from strandline._clock import SystemClock
from strandline._engine.execution import LiveAttempt, Retries
from strandline._history import UNKNOWN_OUTCOME, Progress, close, fold, history_faults, pairing_faults, resume_point
from strandline._journal.errors import ClaimLost
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Checkpoint,
    Claim,
    FencingToken,
    Message,
    RoundDone,
    RoundStarted,
    Run,
    RunId,
    RunStatus,
    Succeeded,
    ToolDone,
)
from strandline.testing import ScriptedModel, Signal, call, results, say

NEW = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
RUN = Run(
    run_id=RunId("r"),
    key=key(),
    input="go",
    lane=3,
    priority=3,
    resumable=True,
    metadata={},
    sequence=1,
    status=RunStatus.RUNNING,
    attempt=1,
    created_at=0.0,
)
TOKEN = FencingToken(RUN.run_id, 1)


class CheckpointJournal:
    """As much of a journal as an attempt uses: it keeps `left` more facts, then another server has the run."""

    def __init__(self, kept: Sequence[Checkpoint] = (), *, left: int | None = None) -> None:
        self.kept = list(kept)
        self.left = left

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        if self.left is not None and len(self.kept) >= self.left:
            raise ClaimLost("another server has the run")
        self.kept.append(checkpoint)

    def owned_until(self) -> None:
        return None


class World:
    """Tools that note when they start, and the agents that have them."""

    def __init__(self, script: Any, *, hooks: Sequence[tuple[Any, Any]] = (), extra: Sequence[Any] = ()) -> None:
        self.started: list[tuple[str, str]] = []
        self.sent: list[list[Message]] = []
        self._script = script
        self._hooks = hooks
        self._extra = extra

    def make(self) -> Agent:
        started = self.started

        @tool(context=True)
        async def pay(n: int, tool_context: Any) -> str:
            """Do something that is done once."""
            started.append(("pay", tool_context.tool_use["toolUseId"]))
            return f"paid {n}"

        @tool(context=True)
        async def look(n: int, tool_context: Any) -> str:
            """Do something that can be done again."""
            started.append(("look", tool_context.tool_use["toolUseId"]))
            return f"saw {n}"

        def script(messages: Any) -> Any:
            self.sent.append(messages)
            return self._script(messages)

        agent = Agent(model=ScriptedModel(script), tools=[pay, look, *self._extra])
        for callback, event in self._hooks:
            agent.add_hook(callback, event)
        return agent

    async def attempt(
        self, journal: CheckpointJournal, progress: Progress, record: AgentRecord = NEW
    ) -> LiveAttempt | None:
        """Execute one attempt; None if the server died in the middle."""
        target = StrandsTarget(self.make, takes=NOTHING, description="test")
        claim = Claim(token=TOKEN, run=RUN, checkpoints=tuple(journal.kept))
        clock = SystemClock()
        nowhere: Any = journal
        live = LiveAttempt(
            claim, progress, nowhere, Signal(), "/nowhere", clock, silent_recorder(clock), Retries(clock)
        )
        agent = await target.build(key(), record, progress)
        try:
            async with asyncio.timeout(20):
                finished = await agent.run(live)
        except Exception:
            assert journal.left is not None
            return None
        assert isinstance(finished.ending, Succeeded)
        return live


def one_round(*calls: Any) -> Any:
    def script(messages: Any) -> Any:
        return "done" if results(messages) else [say("let me see"), *calls]

    return script


def open_round(*calls: Any, done: Sequence[ToolDone] = ()) -> list[Checkpoint]:
    """Return the checkpoints of a run whose first round had begun when the server died."""
    asking: list[Message] = [
        {"role": "user", "content": [{"text": "go"}]},
        {"role": "assistant", "content": [{"text": "let me see"}, *calls]},
    ]
    return [RoundStarted(asking), *done]


def result(tool_use_id: str, *content: Any, status: str = "success") -> ToolDone:
    return ToolDone(tool_use_id, {"toolUseId": tool_use_id, "status": status, "content": list(content)})


def result_texts(messages: Sequence[Message]) -> dict[str, Any]:
    return {
        block["toolResult"]["toolUseId"]: block["toolResult"]
        for message in messages
        for block in message["content"]
        if "toolResult" in block
    }


# -- resume_point --------------------------------------------------------------------------------------


def test_a_progress_without_an_open_tool_is_not_changed() -> None:
    none = fold([])
    assert resume_point(none, unknown_tool="fail", idempotent_tools=()) is none
    all_done = fold(open_round(call("pay", {"n": 1}, "p"), done=[result("p", {"text": "paid 1"})]))
    assert resume_point(all_done, unknown_tool="fail", idempotent_tools=["pay"]) is all_done


@pytest.mark.parametrize("idempotent", [[], ["look"]])
def test_an_open_tool_that_is_not_idempotent_ends_the_run_unless_its_outcome_may_be_unknown(
    idempotent: list[str],
) -> None:
    progress = fold(open_round(call("pay", {"n": 1}, "p"), call("look", {"n": 2}, "l")))
    assert resume_point(progress, unknown_tool="fail", idempotent_tools=idempotent) is None
    shown = resume_point(progress, unknown_tool="resume", idempotent_tools=idempotent)
    assert shown is not None
    assert shown.to_restart == frozenset({"l"} if idempotent else ())
    assert shown.results["p"]["content"] == [{"text": UNKNOWN_OUTCOME}]
    assert shown.results["p"]["status"] == "error"
    assert ("l" in shown.results) is not bool(idempotent)


def test_open_tools_that_are_all_idempotent_start_again_whatever_becomes_of_others() -> None:
    progress = fold(open_round(call("look", {"n": 1}, "a"), call("pay", {"n": 2}, "p"), done=[result("p")]))
    again = resume_point(progress, unknown_tool="fail", idempotent_tools=["look"])
    assert again is not None
    assert again.to_restart == {"a"}
    assert again.results == progress.results
    assert again.messages_to_resume()[-1]["role"] == "assistant"


def test_a_round_that_starts_again_keeps_what_is_known_of_it() -> None:
    checkpoints = open_round(
        call("look", {"n": 1}, "a"), call("pay", {"n": 2}, "p"), done=[result("p", {"text": "paid"})]
    )
    once, twice = fold(checkpoints), fold([*checkpoints, RoundStarted([])])
    assert twice == once


# -- with agents --------------------------------------------------------------------------------------


def test_only_the_tools_to_start_again_start_and_all_others_have_the_results_that_are_known() -> None:
    image = {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}
    done = [
        result("p", {"json": {"paid": [1, {"deep": None}]}}, image),
        result("f", {"text": "no such city"}, status="error"),
    ]
    calls = [call("pay", {"n": 1}, "p"), call("look", {"n": 2}, "l"), call("pay", {"n": 3}, "f")]
    world = World(one_round(*calls))
    journal = CheckpointJournal(open_round(*calls, done=done))
    progress = resume_point(fold(journal.kept), unknown_tool="fail", idempotent_tools=["look"])
    assert progress is not None
    live = asyncio.run(world.attempt(journal, progress))

    assert live is not None
    assert world.started == [("look", "l")]
    shown = result_texts(live.messages)
    assert shown["p"] == done[0].result
    assert shown["f"] == done[1].result
    assert shown["l"]["content"] == [{"text": "saw 2"}]
    assert result_texts(world.sent[0]) == shown, "the model gets what history says"
    assert [type(checkpoint) for checkpoint in journal.kept[3:]] == [ToolDone, RoundDone], (
        "the round has no second checkpoint"
    )
    assert fold(journal.kept).messages == live.messages[:-1]
    assert history_faults(close(live.messages, {}, Succeeded())) == []


def test_user_hooks_see_no_tools_that_do_not_start_again() -> None:
    seen: list[str] = []

    def before(event: BeforeToolCallEvent[Any]) -> None:
        seen.append(f"before {event.tool_use['toolUseId']}")

    def rewrite(event: AfterToolCallEvent[Any]) -> None:
        seen.append(f"after {event.tool_use['toolUseId']}")
        event.result["content"] = [{"text": "rewritten"}]

    calls = [call("pay", {"n": 1}, "p"), call("look", {"n": 2}, "l")]
    world = World(one_round(*calls), hooks=[(before, BeforeToolCallEvent), (rewrite, AfterToolCallEvent)])
    journal = CheckpointJournal(open_round(*calls, done=[result("p", {"text": "rewritten before"})]))
    progress = resume_point(fold(journal.kept), unknown_tool="fail", idempotent_tools=["look"])
    assert progress is not None
    live = asyncio.run(world.attempt(journal, progress))

    assert live is not None
    assert seen == ["before l", "after l"]
    shown = result_texts(live.messages)
    assert shown["p"]["content"] == [{"text": "rewritten before"}]
    assert shown["l"]["content"] == [{"text": "rewritten"}]


def test_a_tool_with_an_unknown_outcome_is_not_started() -> None:
    calls = [call("pay", {"n": 1}, "p"), call("look", {"n": 2}, "l")]
    world = World(one_round(*calls))
    journal = CheckpointJournal(open_round(*calls))
    progress = resume_point(fold(journal.kept), unknown_tool="resume", idempotent_tools=["look"])
    assert progress is not None
    live = asyncio.run(world.attempt(journal, progress))
    assert live is not None
    assert world.started == [("look", "l")]
    assert result_texts(live.messages)["p"]["content"] == [{"text": UNKNOWN_OUTCOME}]


@pytest.mark.parametrize("again", [True, False])
def test_only_a_restarted_tool_that_a_stop_prevents_has_an_unknown_outcome(again: bool) -> None:
    """Only of one that no earlier attempt has begun it is known that nothing of it was done."""
    signal = Signal()

    def stop(event: BeforeToolsEvent) -> None:
        signal.set()
        event.agent.cancel()

    async def main() -> LiveAttempt:
        calls = [call("look", {"n": 1}, "l"), call("pay", {"n": 2}, "p")]
        world = World(one_round(*calls), hooks=[(stop, BeforeToolsEvent)])
        journal: Any = CheckpointJournal(open_round(*calls) if again else [])
        progress = resume_point(fold(journal.kept), unknown_tool="fail", idempotent_tools=["look", "pay"])
        assert progress is not None
        agent = await StrandsTarget(world.make, takes=NOTHING, description="test").build(key(), NEW, progress)
        claim, clock = Claim(token=TOKEN, run=RUN), SystemClock()
        live = LiveAttempt(claim, progress, journal, signal, "/nowhere", clock, silent_recorder(clock), Retries(clock))
        await agent.run(live)
        assert world.started == []
        return live

    shown = result_texts(asyncio.run(main()).messages)
    expected = UNKNOWN_OUTCOME if again else NOT_STARTED
    assert [(each, shown[each]["content"]) for each in sorted(shown)] == [(each, [{"text": expected}]) for each in "lp"]
    assert {given["status"] for given in shown.values()} == {"error"}


def test_an_agent_that_had_tools_started_again_takes_the_next_question_also_after_it_stopped_itself() -> None:
    """A round that was cancelled stays open for Strands: the next question would be refused."""

    @tool(context=True)
    def look(n: int, tool_context: Any) -> str:
        """Look, and stop the agent."""
        tool_context.agent.cancel()
        return f"saw {n}"

    async def main() -> None:
        target = StrandsTarget(
            lambda: Agent(model=ScriptedModel(lambda messages: "fine"), tools=[look]),
            takes=NOTHING,
            description="test",
        )
        journal: Any = CheckpointJournal(open_round(call("look", {"n": 1}, "l")))
        progress = resume_point(fold(journal.kept), unknown_tool="fail", idempotent_tools=["look"])
        assert progress is not None
        agent = await target.build(key(), NEW, progress)
        claim, clock = Claim(token=TOKEN, run=RUN), SystemClock()
        live = LiveAttempt(
            claim, progress, journal, Signal(), "/nowhere", clock, silent_recorder(clock), Retries(clock)
        )
        assert isinstance((await agent.run(live)).ending, Succeeded)
        following = LiveAttempt(
            claim, fold([]), journal, Signal(), "/nowhere", clock, silent_recorder(clock), Retries(clock)
        )
        assert isinstance((await agent.run(following)).ending, Succeeded)
        assert following.messages[-1]["content"] == [{"text": "fine"}]

    asyncio.run(main())


TOOLS = st.lists(st.sampled_from(["pay", "look"]), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(rounds=st.lists(TOOLS, min_size=1, max_size=3), deaths=st.lists(st.integers(0, 9), max_size=4))
def test_however_often_the_server_dies_no_finished_tool_starts_again_and_history_has_its_result(
    rounds: list[list[str]], deaths: list[int]
) -> None:
    """A server that dies is a journal that takes no more facts: what the tools did in the meantime is done."""

    def script(messages: Any) -> Any:
        number = sum(1 for message in messages if message["role"] == "assistant")
        if number == len(rounds):
            return "done"
        return [call(name, {"n": n}, f"{name}-{number}-{n}") for n, name in enumerate(rounds[number])]

    async def main() -> None:
        world = World(script)
        checkpoints: list[Checkpoint] = []
        live: LiveAttempt | None = None
        for death in [*deaths, None]:
            progress = resume_point(fold(checkpoints), unknown_tool="resume", idempotent_tools=["look"])
            assert progress is not None
            ended = {checkpoint.tool_use_id for checkpoint in checkpoints if isinstance(checkpoint, ToolDone)} | set(
                result_texts(progress.messages)
            )
            journal = CheckpointJournal(checkpoints, left=None if death is None else len(checkpoints) + death)
            world.started.clear()
            live = await world.attempt(journal, progress)
            started = Counter(each for _, each in world.started)
            paid.update(each for name, each in world.started if name == "pay")
            assert not ended & set(started), "a tool that had ended was started again"
            assert all(times == 1 for times in started.values())
            assert progress.to_restart <= set(started) or live is None
            checkpoints = journal.kept
            if live is not None:
                break
        assert live is not None
        assert all(times == 1 for times in paid.values()), "a tool that is not idempotent was started twice"
        closed = close(live.messages, {}, Succeeded())
        assert history_faults(closed) == []
        assert all(pairing_faults(each) == [] for each in world.sent)
        shown = result_texts(closed)
        assert set(shown) == {
            f"{name}-{number}-{n}" for number, names in enumerate(rounds) for n, name in enumerate(names)
        }
        for each, tool_result in shown.items():
            text = tool_result["content"][0]["text"]
            if each.startswith("look"):
                assert text == f"saw {each[-1]}"
            else:
                assert text in (f"paid {each[-1]}", UNKNOWN_OUTCOME)
                assert each in paid or text == UNKNOWN_OUTCOME

    paid: Counter[str] = Counter()
    asyncio.run(main())


def test_a_round_goes_on_with_tools_of_every_kind_of_its_agent() -> None:
    """Also with one that is no function but an object of its own."""

    class Odd(AgentTool):
        tool_name = "odd"
        tool_type = "python"

        @property
        def tool_spec(self) -> Any:
            return {"name": "odd", "description": "odd", "inputSchema": {"json": {"type": "object"}}}

        async def stream(self, tool_use: Any, invocation_state: dict[str, Any], **kwargs: Any) -> Any:
            yield {"toolUseId": tool_use["toolUseId"], "status": "success", "content": [{"text": "odd indeed"}]}

    calls = [call("odd", {}, "o"), call("look", {"n": 2}, "l")]
    world = World(one_round(*calls), extra=[Odd()])
    journal = CheckpointJournal(open_round(*calls))
    progress = resume_point(fold(journal.kept), unknown_tool="fail", idempotent_tools=["look", "odd"])
    assert progress is not None
    live = asyncio.run(world.attempt(journal, progress))
    assert live is not None
    assert result_texts(live.messages)["o"]["content"] == [{"text": "odd indeed"}]
