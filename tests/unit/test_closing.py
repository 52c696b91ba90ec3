"""What a real Strands agent leaves in `agent.messages` when a run does not end well, and what `close` makes of it.

One test for each way to end. Each says what Strands leaves (so that a new version of it that leaves something else is
noticed), closes it, and has an agent of its own take the next question on what came out.
"""

import asyncio
import copy
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar, cast

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.hooks import AfterModelCallEvent, AfterToolCallEvent, BeforeModelCallEvent, BeforeToolsEvent, HookOrder
from strands.types.content import Messages
from strands.types.exceptions import MaxTokensReachedException, ModelThrottledException

from strandline._history import close
from strandline._model import Cancelled, Ending, ErrorCode, Failed, Message, Succeeded, ToolResult
from strandline.testing import (
    Answer,
    Gate,
    Script,
    ScriptedModel,
    Signal,
    call,
    fast_retries,
    in_turn,
    pause,
    say,
    stop,
    think,
)
from strandline.testing._checker import Ledger, check_history, check_pairing, check_truthful

T = TypeVar("T")

FAILED = Failed(ErrorCode.AGENT_ERROR, "the key is hunter2")


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(bounded())


class Watched:
    """An agent with somebody beside it who writes down what a server would: results as tools end, text as it comes."""

    def __init__(self, script: Script, *tools: Any, **options: Any) -> None:
        options = {"retry_strategy": fast_retries()} | options
        self.agent = Agent(
            model=ScriptedModel(script, chunk_size=4), tools=list(tools), callback_handler=None, **options
        )
        self.agent.add_hook(self._tool_ended, AfterToolCallEvent)
        self.agent.add_hook(self._model_called, BeforeModelCallEvent)
        self.results: dict[str, ToolResult] = {}
        self.text = ""
        self.result: Any = None

    def _tool_ended(self, event: AfterToolCallEvent[Any]) -> None:
        self.results[event.tool_use["toolUseId"]] = cast(ToolResult, event.result)

    def _model_called(self, event: BeforeModelCallEvent) -> None:
        self.text = ""

    async def ask(self, prompt: str = "What is the weather?", **options: Any) -> None:
        async with aclosing(cast(Any, self.agent.stream_async(prompt, **options))) as events:
            async for event in events:
                self.text += event.get("data", "")
                self.result = event.get("result", self.result)
                if "message" in event:
                    self.text = ""

    @property
    def left(self) -> list[Message]:
        return cast("list[Message]", self.agent.messages)

    def shape(self) -> list[str]:
        """Return what is left, one word for each message: its role and the kinds of its blocks."""
        return [
            f"{message['role']}:{'+'.join(next(iter(each)) for each in message['content'])}" for message in self.left
        ]

    def close(
        self, ending: Ending, *, unfinished: frozenset[str] = frozenset(), said: tuple[str, ...] = ()
    ) -> list[Message]:
        """Close what is left, check that it is valid, true, and good for the next question."""
        so_far = list(self.left)
        if so_far[-1]["content"] == [{"text": "Cancelled by user"}]:
            del so_far[-1]  # Strands' own words in place of what the model had said
        if self.text:
            so_far.append({"role": "assistant", "content": [{"text": self.text}]})
        before = copy.deepcopy(so_far)
        closed = close(so_far, self.results, ending)
        ledger = Ledger(
            ending=ending,
            question="What is the weather?",
            said=said,
            partial=self.text,
            finished=self.results,
            unfinished=unfinished,
        )
        assert so_far == before
        assert check_history(closed) == []
        assert check_truthful(closed, ledger) == []
        goes_on(closed)
        return closed


def goes_on(history: list[Message]) -> None:
    """Have a new agent take the next question on `history`; what its model is sent is what a provider accepts."""
    sent: list[Messages] = []

    def script(messages: Messages) -> Answer:
        sent.append(messages)
        return "It goes on."

    tool_rounds: list[object] = []

    def count(event: BeforeToolsEvent) -> None:
        tool_rounds.append(event)

    agent = Agent(
        model=ScriptedModel(script),
        messages=cast(Messages, copy.deepcopy(history)),
        tools=[fine, slow, broken],
        callback_handler=None,
    )
    agent.add_hook(count, BeforeToolsEvent)
    result = run(agent.invoke_async("And now?"))

    assert str(result).strip() == "It goes on."
    assert [message["role"] for message in sent[0]] == (["user", "assistant"] * len(history))[: len(history) + 1]
    assert check_pairing(cast("list[Message]", sent[0])) == []
    assert check_history(cast("list[Message]", agent.messages)) == []
    assert tool_rounds == [], "a tool was started again"


@tool
def fine() -> str:
    """Return at once."""
    return "31 degrees"


@tool
def slow() -> str:
    """Stand for a tool that tests replace by one of the same name."""
    return "never called"


@tool
def broken() -> str:
    """Raise."""
    raise RuntimeError("no such city")


def waits(gate: Gate) -> Any:
    @tool(name="slow")
    async def waiting() -> str:
        """Wait for the gate."""
        await gate.wait()
        return "done at last"

    return waiting


async def stopped_at(watched: Watched, reached: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Cancel the task of a run when `reached` returns."""
    task = asyncio.ensure_future(watched.ask())
    await reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- the model fails ----------------------------------------------------------------------------------


def test_an_error_of_the_first_model_call_leaves_the_question() -> None:
    watched = Watched(in_turn(ConnectionError("the key is hunter2")))
    with pytest.raises(Exception, match="hunter2"):
        run(watched.ask())

    assert watched.shape() == ["user:text"]
    assert watched.close(FAILED)[1:] == [
        {
            "role": "assistant",
            "content": [{"text": "(This run ended early: agent_error.)"}, {"text": "the key is hunter2"}],
        }
    ]


def test_an_error_in_the_middle_of_a_text_leaves_the_question_and_the_text_is_known_from_the_stream() -> None:
    watched = Watched(in_turn([think("Hm."), "It is su", ConnectionError("the key is hunter2")]))
    with pytest.raises(Exception, match="hunter2"):
        run(watched.ask())

    assert watched.shape() == ["user:text"]
    assert watched.text == "It is su"
    assert watched.close(FAILED)[1]["content"][0] == {"text": "It is su"}


def test_an_error_after_a_round_leaves_the_round() -> None:
    watched = Watched(in_turn([say("I look."), call("fine"), call("broken")], ConnectionError("cut")), fine, broken)
    with pytest.raises(Exception, match="cut"):
        run(watched.ask())

    assert watched.shape() == ["user:text", "assistant:text+toolUse+toolUse", "user:toolResult+toolResult"]
    closed = watched.close(FAILED, said=("I look.",))
    assert all(one is other for one, other in zip(closed, watched.left, strict=False))


def test_an_answer_that_hits_max_tokens_is_left_as_the_assistants_last_message() -> None:
    watched = Watched(in_turn([say("As long as "), call("fine"), stop("max_tokens")]), fine)
    with pytest.raises(MaxTokensReachedException):
        run(watched.ask())

    assert watched.shape() == ["user:text", "assistant:text+text"]
    closed = watched.close(FAILED, said=("As long as ",))
    assert [next(iter(block)) for block in closed[1]["content"]] == ["text", "text", "text", "text"]


def test_a_task_cancelled_while_it_waits_to_retry_ends_at_once() -> None:
    """The event of the wait comes after it; a hook that stands before the strategy's own sees it begin."""
    waiting = Signal()
    watched = Watched(in_turn(ModelThrottledException("slow down")), retry_strategy=fast_retries(delay_s=3600))
    watched.agent.add_hook(lambda event: waiting.set(), AfterModelCallEvent, order=HookOrder.SDK_FIRST)
    run(stopped_at(watched, waiting.wait))

    assert watched.shape() == ["user:text"]
    watched.close(Failed(ErrorCode.TIMEOUT))


# -- the task is cancelled ----------------------------------------------------------------------------


def test_a_task_cancelled_in_the_model_leaves_the_question() -> None:
    gate = Gate()
    watched = Watched(in_turn([say("It is su"), pause(gate)]))
    run(stopped_at(watched, gate.reached.wait))

    assert watched.shape() == ["user:text"]
    assert watched.text == "It is su"
    watched.close(Cancelled())


def test_a_task_cancelled_in_the_model_after_a_round_leaves_the_round() -> None:
    gate = Gate()
    watched = Watched(in_turn([call("fine")], [pause(gate)]), fine)
    run(stopped_at(watched, gate.reached.wait))

    assert watched.shape() == ["user:text", "assistant:toolUse", "user:toolResult"]
    watched.close(Cancelled())


def test_a_task_cancelled_in_an_async_tool_leaves_a_dangling_use_and_its_siblings_result_is_known_to_the_hook() -> None:
    gate = Gate()
    watched = Watched(in_turn([say("I look."), call("fine", None, "f"), call("slow", None, "s")]), fine, waits(gate))
    ended = Signal()
    watched.agent.add_hook(lambda event: ended.set(), AfterToolCallEvent)

    async def reached() -> None:
        await gate.reached.wait()
        await ended.wait()

    run(stopped_at(watched, reached))

    assert watched.shape() == ["user:text", "assistant:text+toolUse+toolUse"]
    assert list(watched.results) == ["f"]
    watched.close(Cancelled(), unfinished=frozenset({"s"}), said=("I look.",))


def test_a_task_cancelled_in_a_sync_tool_leaves_its_thread_at_work() -> None:
    gate, over = Gate(), Signal()

    @tool(name="slow")
    def blocking() -> str:
        """Block this thread."""
        gate.block()
        over.set()
        return "too late"

    watched = Watched(in_turn([call("slow", None, "s")]), blocking)

    async def all_of_it() -> list[str]:
        await stopped_at(watched, gate.reached.wait)
        left = watched.shape()
        assert not over.is_set()
        gate.open()
        await over.wait()
        return left

    assert run(all_of_it()) == ["user:text", "assistant:toolUse"] == watched.shape()
    assert watched.results == {}
    watched.close(Failed(ErrorCode.TIMEOUT), unfinished=frozenset({"s"}))


# -- the agent is stopped -----------------------------------------------------------------------


def test_a_cancel_signal_while_the_model_streams_leaves_words_that_nobody_said() -> None:
    """The agent sees the signal at the next piece of the stream, after a poll of its own has carried it over."""
    signal = threading.Event()

    class Noticed:
        async def wait(self) -> None:
            signal.set()
            assert await asyncio.to_thread(watched.agent.cancel_signal.wait, 20)

    watched = Watched(in_turn([say("It is su"), pause(Noticed()), say("nny")]))
    run(watched.ask(cancel_signal=signal))

    assert watched.result.stop_reason == "cancelled"
    assert watched.shape() == ["user:text", "assistant:text"]
    assert watched.left[-1]["content"] == [{"text": "Cancelled by user"}]
    watched.text = "It is su"  # the message that was added took its place
    assert "Cancelled by user" not in str(watched.close(Cancelled()))


def test_a_cancel_signal_in_a_tool_waits_for_it_and_leaves_the_round_without_an_answer() -> None:
    gate, signal = Gate(), threading.Event()
    watched = Watched(in_turn([call("fine", None, "f"), call("slow", None, "s")]), fine, waits(gate))

    async def cancel() -> None:
        task = asyncio.ensure_future(watched.ask(cancel_signal=signal))
        await gate.reached.wait()
        signal.set()
        gate.open()
        await task

    run(cancel())

    assert watched.result.stop_reason == "cancelled"
    assert watched.shape() == ["user:text", "assistant:toolUse+toolUse", "user:toolResult+toolResult"]
    assert set(watched.results) == {"f", "s"}
    watched.close(Cancelled())


def test_a_cancel_signal_before_the_tools_start_leaves_results_that_say_so() -> None:
    signal = threading.Event()
    watched = Watched(in_turn([call("fine", None, "f")]), fine)
    watched.agent.add_hook(lambda event: signal.set(), BeforeToolsEvent)
    run(watched.ask(cancel_signal=signal))

    assert watched.result.stop_reason == "cancelled"
    assert watched.shape() == ["user:text", "assistant:toolUse", "user:toolResult"]
    assert watched.results == {}, "no tool ran, so no hook saw one end"
    reported = watched.left[-1]["content"][0]["toolResult"]
    assert reported["content"] == [{"text": "Tool execution cancelled"}]
    watched.results["f"] = reported
    watched.close(Cancelled())


def test_an_idle_agent_that_was_cancelled_leaves_the_next_question_unanswered() -> None:
    watched = Watched(lambda _: "It is sunny.")
    watched.agent.cancel()
    run(watched.ask())

    assert watched.result.stop_reason == "cancelled"
    assert watched.left[-1]["content"] == [{"text": "Cancelled by user"}]
    watched.close(Cancelled())


# -- tools and hooks ----------------------------------------------------------------------------------


def test_a_tool_that_raises_has_a_result_and_the_run_goes_on() -> None:
    watched = Watched(in_turn([call("broken", None, "b")], "It did not work."), broken)
    run(watched.ask())

    assert watched.shape() == ["user:text", "assistant:toolUse", "user:toolResult", "assistant:text"]
    assert watched.results["b"]["status"] == "error"
    closed = watched.close(Succeeded(), said=("It did not work.",))
    assert all(one is other for one, other in zip(closed, watched.left, strict=True))


def test_a_hook_that_raises_before_the_tools_leaves_a_dangling_use() -> None:
    def refuse(event: BeforeToolsEvent) -> None:
        raise PermissionError("the key is hunter2")

    watched = Watched(in_turn([call("fine", None, "f")]), fine)
    watched.agent.add_hook(refuse, BeforeToolsEvent)
    with pytest.raises(Exception, match="hunter2"):
        run(watched.ask())

    assert watched.shape() == ["user:text", "assistant:toolUse"]
    watched.close(FAILED, unfinished=frozenset({"f"}))


def test_a_hook_that_raises_after_a_tool_makes_an_error_of_a_tool_that_did_its_work() -> None:
    """Strands gives the model the hook's error, not the tool's result, and calls the hook again."""
    did: list[str] = []
    raised: list[ToolResult] = []

    @tool(name="fine")
    def works() -> str:
        """Do something."""
        did.append("it")
        return "31 degrees"

    def trip(event: AfterToolCallEvent[Any]) -> None:
        if not raised:
            raised.append(cast(ToolResult, event.result))
            raise OSError("the disk is full")

    watched = Watched(in_turn([call("fine", None, "f")], "Hm."), works)
    watched.agent.add_hook(trip, AfterToolCallEvent, order=-50)
    run(watched.ask())

    assert did == ["it"]
    assert raised[0]["status"] == "success"
    assert watched.results["f"] == {
        "toolUseId": "f",
        "status": "error",
        "content": [{"text": "Error: the disk is full"}],
    }
    watched.close(Succeeded())


def test_an_interrupt_leaves_a_dangling_use_and_its_siblings_result_is_known_to_the_hook() -> None:
    @tool(name="slow", context=True)
    def asks(tool_context: ToolContext) -> str:
        """Ask a person."""
        return str(tool_context.interrupt("approval", reason="really?"))

    watched = Watched(in_turn([call("fine", None, "f"), call("slow", None, "s")]), fine, asks)
    run(watched.ask())

    assert watched.result.stop_reason == "interrupt"
    assert watched.shape() == ["user:text", "assistant:toolUse+toolUse"]
    assert list(watched.results) == ["f"]
    watched.close(FAILED, unfinished=frozenset({"s"}))


# -- ends that are successes and leave no answer ------------------------------------------------------


def test_a_limit_leaves_the_last_round_without_an_answer() -> None:
    watched = Watched(in_turn([say("I look."), call("fine")]), fine)
    run(watched.ask(limits={"turns": 1}))

    assert watched.result.stop_reason == "limit_turns"
    assert watched.shape() == ["user:text", "assistant:text+toolUse", "user:toolResult"]
    closed = watched.close(Succeeded(limit=True), said=("I look.",))
    assert closed[-1]["content"] == [{"text": "(This run ended early: limit.)"}]


class Weather(BaseModel):
    """What the weather is like."""

    degrees: int


def test_structured_output_leaves_its_own_round_without_an_answer() -> None:
    watched = Watched(in_turn([call("fine", None, "f")], [call("Weather", {"degrees": 31}, "w")]), fine)
    run(watched.ask(structured_output_model=Weather))

    assert watched.result.structured_output == Weather(degrees=31)
    assert watched.shape() == [
        "user:text",
        "assistant:toolUse",
        "user:toolResult",
        "assistant:toolUse",
        "user:toolResult",
    ]
    closed = watched.close(Succeeded(text=watched.result.structured_output.model_dump_json()))
    assert closed[-1]["content"] == [{"text": '{"degrees":31}'}]


def test_an_empty_answer_is_left_as_a_message_that_providers_refuse() -> None:
    watched = Watched(in_turn([think("Hm.")]))
    run(watched.ask())
    assert watched.shape() == ["user:text", "assistant:reasoningContent"]
    watched.close(Succeeded())

    watched = Watched(in_turn([]))
    run(watched.ask())
    assert watched.shape() == ["user:text", "assistant:"]
    watched.close(Succeeded())


def test_a_tool_without_output_is_left_with_a_blank_text() -> None:
    @tool(name="fine")
    def quiet() -> str:
        """Say nothing."""
        return ""

    watched = Watched(in_turn([call("fine", None, "f")], "Nothing came."), quiet)
    run(watched.ask())

    assert watched.results["f"]["content"] == [{"text": ""}]
    assert watched.close(Succeeded())[2]["content"][0]["toolResult"]["content"] == [{"text": "(no output)"}]
