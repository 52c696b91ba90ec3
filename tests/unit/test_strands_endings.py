"""All endings of a real agent's run: history shows them, and the next run works."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import (
    AfterInvocationEvent,
    AfterModelCallEvent,
    AfterToolCallEvent,
    AfterToolsEvent,
    BeforeInvocationEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    BeforeToolsEvent,
    HookOrder,
    MessageAddedEvent,
)
from strands.types.exceptions import ModelThrottledException

from engine_support import key, texts
from strandline._clock import SystemClock
from strandline._engine.service import Service
from strandline._history import NO_ANSWER, NO_OUTPUT, UNKNOWN_OUTCOME, close, history_faults, pairing_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import WHOLE_HISTORY, ErrorCode, Message, Range, RunStatus, ToolDone
from strandline.testing import ScriptedModel, call, fast_retries, results, say, stop, think
from strandline.testing import question as prompt_of
from strands_support import RecordingJournal, answer, ask, history, run, serving

EARLY = "(This run ended early: agent_error.)"


class City(BaseModel):
    name: str


@tool
def act() -> str:
    """Do something that is done once."""
    return "acted"


@tool
def quiet() -> str:
    """Say nothing."""
    return ""


def once(messages: Any) -> Any:
    """Ask for one tool, then answer."""
    return "done" if results(messages) else [say("let me see"), call("act")]


def result_texts(messages: list[Message]) -> list[str]:
    """Return what the results in a history say."""
    return [
        "".join(part.get("text", "") for part in block["toolResult"]["content"])
        for message in messages
        for block in message["content"]
        if "toolResult" in block
    ]


async def fails(service: Service, text: str, reason: str) -> list[Message]:
    """Ask, have it fail for this reason, then ask again and have an answer; return the history."""
    end = await ask(service, text)
    assert end.error is not None
    assert end.error.code is ErrorCode.AGENT_ERROR
    assert reason in end.error.detail
    messages = await history(service)
    assert messages[-1]["content"][-2:] == [{"text": EARLY}, {"text": end.error.detail[:500]}]
    assert (await ask(service, "next")).status is RunStatus.SUCCEEDED
    assert len(await history(service)) > len(messages)
    return messages


# -- the model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["at once", "in the middle of a text", "after a tool", "after a tool, in the middle"])
@pytest.mark.parametrize("error", [RuntimeError("hunter2"), ModelThrottledException("hunter2")])
def test_an_error_of_the_model_leaves_what_was_said_and_done_before_it(
    place: str, error: Exception, tmp_path: Path
) -> None:
    async def main() -> None:
        def script(messages: Any) -> Any:
            if prompt_of(messages) == "next":
                return "fine"
            if "tool" in place and not results(messages):
                return [say("let me see"), call("act")]
            return ["half an ans", error] if "middle" in place else [error]

        def factory() -> Agent:
            return Agent(model=ScriptedModel(script), tools=[act], retry_strategy=fast_retries())

        async with serving(factory, tmp_path) as service:
            messages = await fails(service, "go", "hunter2")
            assert texts(messages)[0] == "go"
            assert ("half an ans" in texts(messages)) is ("middle" in place)
            assert result_texts(messages) == (["acted"] if "tool" in place else [])

    run(main)


@pytest.mark.parametrize("reason", ["content_filtered", "guardrail_intervened", "stop_sequence", "refusal"])
def test_an_answer_that_was_cut_by_its_provider_is_an_answer(reason: Any, tmp_path: Path) -> None:
    async def main() -> None:
        def script(messages: Any) -> Any:
            return [say("I must not say"), stop(reason)] if prompt_of(messages) == "go" else "fine"

        async with serving(lambda: Agent(model=ScriptedModel(script)), tmp_path) as service:
            assert (await ask(service, "go")).output == "I must not say"
            assert (await ask(service, "next")).output == "fine"
            await history(service)

    run(main)


@pytest.mark.parametrize("answer", [[], [think("Hm.")], [say(" ")], ""])
def test_an_empty_answer_is_shown_as_none_and_the_agent_stays_in_memory(answer: Any, tmp_path: Path) -> None:
    async def main() -> None:
        made: list[Agent] = []
        given: list[Any] = []

        def script(messages: Any) -> Any:
            given.append(texts(messages))
            return answer if prompt_of(messages) == "go" else "fine"

        def factory() -> Agent:
            made.append(Agent(model=ScriptedModel(script)))
            return made[-1]

        async with serving(factory, tmp_path) as service:
            assert (await ask(service, "go")).status is RunStatus.SUCCEEDED
            assert texts(await history(service)) == ["go", NO_ANSWER]
            await ask(service, "next")
            assert given[-1] == ["go", NO_ANSWER, "next"]
            assert len(made) == 1
            await history(service)

    run(main)


class Guarded(ScriptedModel):
    """A model whose guardrail redacts what the user said."""

    async def stream(self, messages: Any, *args: Any, **options: Any) -> Any:
        if "secret" in prompt_of(messages):
            yield {"redactContent": {"redactUserContentMessage": "[redacted]"}}
        async for event in super().stream(messages, *args, **options):
            yield event


def test_what_a_guardrail_redacts_is_redacted_in_history_and_for_the_model_of_the_next_run(tmp_path: Path) -> None:
    async def main() -> None:
        given: list[str] = []

        def script(messages: Any) -> Any:
            given.append(str(messages))
            if "fail" in prompt_of(messages):
                raise RuntimeError("failed")
            return "fine"

        async with serving(lambda: Agent(model=Guarded(script)), tmp_path) as service:
            for text in ("a secret", "another secret: fail"):
                await ask(service, text)
                await ask(service, "next")
                assert "secret" not in given[-1]
                assert "secret" not in str(await history(service))
            assert texts(await history(service)).count("[redacted]") == 2

    run(main)


@pytest.mark.parametrize(
    ("script", "structured", "by"),
    [
        (lambda messages: "hello", None, "agent"),
        (once, None, "agent"),
        (lambda messages: [call("City", {"name": "Rome"})], City, "agent"),
        (lambda messages: "", None, "agent"),
        (lambda messages: 1 / 0, None, "engine"),
    ],
    ids=["an answer", "a tool", "structured output", "nothing", "a failure"],
)
def test_what_a_run_leaves_is_closed_once(
    script: Callable[[Any], Any], structured: Any, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an agent that stays in memory with the closed conversation, and else by the engine."""
    closings: list[str] = []
    for who, module in (("agent", "strandline._agents.strands"), ("engine", "strandline._engine.execution.completion")):

        def counted(*given: Any, who: str = who) -> list[Message]:
            closings.append(who)
            return close(*given)

        monkeypatch.setattr(f"{module}.close", counted)

    async def main() -> None:
        make = lambda: Agent(model=ScriptedModel(script), tools=[act], structured_output_model=structured)  # noqa: E731
        async with serving(make, tmp_path) as service:
            await ask(service, "x")
            assert closings == [by]
            assert history_faults(await history(service)) == []

    run(main)


# -- structured output and limits ---------------------------------------------------------------------


def test_structured_output_that_is_never_valid_fails_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        def script(messages: Any) -> Any:
            return [call("City", {"name": "Rome"})] if prompt_of(messages) == "next" else "I will not"

        async with serving(
            lambda: Agent(model=ScriptedModel(script), structured_output_model=City), tmp_path
        ) as service:
            messages = await fails(service, "go", "StructuredOutputException")
            assert texts(messages).count("I will not") == 2

    run(main)


def test_structured_output_that_is_valid_at_last_is_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        def script(messages: Any) -> Any:
            wrong = sum("toolResult" in block for message in messages for block in message["content"])
            return [call("City", {"name": 1} if wrong < 3 else {"name": "Rome"})]

        async with serving(
            lambda: Agent(model=ScriptedModel(script), structured_output_model=City), tmp_path
        ) as service:
            assert (await ask(service, "go")).output == '{"name":"Rome"}'
            assert len(result_texts(await history(service))) == 4

    run(main)


class Limited(Agent):
    """An agent that gives itself a limit."""

    def stream_async(self, prompt: Any = None, **options: Any) -> AsyncIterator[Any]:
        return super().stream_async(prompt, limits={"turns": 1}, **options)


Factory = Callable[[Any], Agent]
OPEN_ENDS: dict[str, tuple[Any, Factory]] = {
    "structured output": (
        lambda messages: [call("City", {"name": "Rome"})],
        lambda model: Agent(model=model, structured_output_model=City, conversation_manager=sliding()),
    ),
    "a limit": (
        lambda messages: [call("act")],
        lambda model: Limited(model=model, tools=[act], conversation_manager=sliding()),
    ),
    "tools that say nothing": (
        lambda messages: "done" if results(messages) else [say(""), call("quiet")],
        lambda model: Agent(model=model, tools=[quiet], conversation_manager=sliding()),
    ),
    "questions that a hook answers": (lambda messages: "today", lambda model: with_hook(model, deny)),
    "hooks that ask twice": (lambda messages: "yes", lambda model: with_hook(model, ask_twice)),
}


def sliding() -> SlidingWindowConversationManager:
    return SlidingWindowConversationManager(window_size=6)


def with_hook(model: Any, hook: Any) -> Agent:
    agent = Agent(model=model, conversation_manager=sliding())
    agent.add_hook(hook, BeforeInvocationEvent)
    return agent


def deny(event: BeforeInvocationEvent) -> None:
    """Answer every other question; Strands asks no manager then, and leaves the question out of the conversation."""
    if event.messages and event.messages[-1]["content"][0]["text"] in "13579":
        event.cancel = "not today"


def ask_twice(event: BeforeInvocationEvent) -> None:
    assert event.messages is not None
    event.messages = [{"role": "user", "content": [{"text": "be brief"}]}, *event.messages]


@pytest.mark.parametrize("name", list(OPEN_ENDS))
def test_the_window_slides_however_runs_end_and_is_the_same_for_a_rebuilt_agent(name: str, tmp_path: Path) -> None:
    """Else the context of an agent that is rebuilt would grow for ever."""

    async def main() -> None:
        answer, made = OPEN_ENDS[name]
        windows: list[Any] = []
        for rebuilt in (False, True):
            journal = MemoryJournal(SystemClock())
            given: list[Any] = []

            def script(messages: Any, given: list[Any] = given) -> Any:
                assert pairing_faults(messages) == []
                given.append([(message["role"], message["content"]) for message in messages])
                return answer(messages)

            async with serving(lambda script=script: made(ScriptedModel(script)), tmp_path, journal) as service:
                for number in range(12):
                    if rebuilt:
                        service._pool.drop(key())
                    assert (await ask(service, str(number))).status is RunStatus.SUCCEEDED
                messages = await history(service)
                record = await journal.load(key())
            assert [text for text in texts(messages) if text.isdigit()] == [str(number) for number in range(12)]
            (window,) = record.window
            assert isinstance(window, Range)
            assert len(messages) - 10 <= window.start < len(messages)
            assert record.messages == messages[window.start :]
            assert pairing_faults(record.messages) == []
            windows.append((record.window, given))
        assert windows[0] == windows[1]

    run(main)


def test_a_window_that_user_code_broke_is_not_kept_however_the_run_ends(tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def shorten(tool_context: ToolContext) -> str:
            """Take away the first question, and its tool calls."""
            del tool_context.agent.messages[:2]
            return "shortened"

        def script(messages: Any) -> Any:
            if prompt_of(messages) == "shorten" and not results(messages):
                return [call("shorten")]
            sent.append(messages)
            return "fine" if prompt_of(messages) == "next" else once(messages)

        def factory() -> Agent:
            agent = Agent(model=ScriptedModel(script), tools=[act, shorten])
            agent.add_hook(ask_twice, BeforeInvocationEvent)
            return agent

        sent: list[Any] = []
        async with serving(factory, tmp_path) as service:
            for text in ("go", "shorten", "next"):
                await ask(service, text)
            assert pairing_faults(sent[-1]) == []
            assert result_texts(sent[-1]) == ["acted", "shortened"]

    run(main)


def test_a_limit_of_the_agents_own_ends_the_run_well(tmp_path: Path) -> None:
    async def main() -> None:
        model = ScriptedModel(once)
        async with serving(lambda: Limited(model=model, tools=[act]), tmp_path) as service:
            assert (await ask(service, "go")).output == "(This run ended early: limit.)"
            assert result_texts(await history(service)) == ["acted"]

    run(main)


# -- hooks of the user --------------------------------------------------------------------------------

EVENTS: dict[Any, list[str]] = {
    BeforeInvocationEvent: [],
    MessageAddedEvent: [],
    BeforeModelCallEvent: [],
    AfterModelCallEvent: [],
    BeforeToolsEvent: [UNKNOWN_OUTCOME],
    BeforeToolCallEvent: [UNKNOWN_OUTCOME],
    AfterToolCallEvent: ["acted"],
    AfterToolsEvent: ["acted"],
    AfterInvocationEvent: ["acted"],
}


@pytest.mark.parametrize("order", [HookOrder.SDK_FIRST, HookOrder.DEFAULT, HookOrder.SDK_LAST])
@pytest.mark.parametrize("event", list(EVENTS))
def test_a_hook_that_raises_fails_its_run_alone_and_nothing_that_was_done_is_forgotten(
    event: Any, order: int, tmp_path: Path
) -> None:
    async def main() -> None:
        def broken(happened: Any) -> None:
            if prompt_of(happened.agent.messages) != "next" and not calm:
                raise ValueError("hunter2")

        def factory() -> Agent:
            agent = Agent(model=ScriptedModel(once), tools=[act])
            agent.add_hook(broken, event, order=order)
            return agent

        calm: list[int] = []
        async with serving(factory, tmp_path) as service:
            end = await ask(service, "go")
            assert end.error is not None
            assert end.error.detail == "ValueError: hunter2"
            calm.append(1)
            messages = await history(service)
            assert texts(messages)[0] == "go"
            assert result_texts(messages) == EVENTS[event]
            assert (await ask(service, "next")).output == "done"
            await history(service)

    run(main)


def test_a_result_is_what_its_tool_gave_although_a_hook_raised_once_it_was_there(tmp_path: Path) -> None:
    """Strands puts the hook's error in its place, and asks the hooks again."""

    async def main() -> None:
        raised: list[int] = []
        given: list[str] = []

        def redact(event: AfterToolCallEvent[Any]) -> None:
            event.result["content"][0]["text"] += "!"

        def trip(event: AfterToolCallEvent[Any]) -> None:
            if not raised:
                raised.append(1)
                raise OSError("the disk is full")

        def script(messages: Any) -> Any:
            given.extend(results(messages).values())
            return once(messages)

        def factory() -> Agent:
            agent = Agent(model=ScriptedModel(script), tools=[act])
            agent.add_hook(redact, AfterToolCallEvent, order=-50)
            agent.add_hook(trip, AfterToolCallEvent)
            return agent

        journal = RecordingJournal()
        async with serving(factory, tmp_path, journal) as service:
            assert (await ask(service, "go")).output == "done"
            assert raised == [1]
            assert given == ["acted!"], "each hook had the tool's own result, once"
            assert result_texts(await history(service)) == ["acted!"]
            done = [checkpoint for checkpoint in journal.checkpoints if isinstance(checkpoint, ToolDone)]
            assert [checkpoint.result["status"] for checkpoint in done] == ["success"]

    run(main)


def test_a_result_that_a_hook_still_looked_at_when_the_run_failed_is_not_forgotten(tmp_path: Path) -> None:
    """A sibling fails the run: the hook is cancelled in the middle, and the tool had ended long since."""

    async def main() -> None:
        looking = asyncio.Event()

        @tool
        async def other() -> str:
            """Stand for a tool that a hook will not have."""
            return "never"

        async def look(event: AfterToolCallEvent[Any]) -> None:
            looking.set()
            await asyncio.Event().wait()

        async def deny_other(event: BeforeToolCallEvent[Any]) -> None:
            if event.tool_use["name"] == "other":
                await looking.wait()
                raise PermissionError("hunter2")

        def factory() -> Agent:
            def script(messages: Any) -> Any:
                return "fine" if prompt_of(messages) == "next" else [call("act"), call("other")]

            agent = Agent(model=ScriptedModel(script), tools=[act, other])
            agent.add_hook(look, AfterToolCallEvent)
            agent.add_hook(deny_other, BeforeToolCallEvent)
            return agent

        async with serving(factory, tmp_path) as service:
            messages = await fails(service, "go", "hunter2")
            assert result_texts(messages) == ["acted", UNKNOWN_OUTCOME]

    run(main)


def test_hooks_that_end_a_turn_or_go_on_by_themselves_leave_a_valid_history(tmp_path: Path) -> None:
    async def main() -> None:
        def end_turn(event: AfterToolsEvent) -> None:
            event.end_turn = "that will do"

        def go_on(event: AfterInvocationEvent) -> None:
            if prompt_of(event.agent.messages) == "go on":
                event.resume = "and more"

        def no_model(event: BeforeModelCallEvent) -> None:
            if prompt_of(event.agent.messages) == "no model":
                event.cancel = "no model for you"

        def factory() -> Agent:
            agent = Agent(model=ScriptedModel(script), tools=[act])
            agent.add_hook(end_turn, AfterToolsEvent)
            agent.add_hook(go_on, AfterInvocationEvent)
            agent.add_hook(no_model, BeforeModelCallEvent)
            return agent

        def script(messages: Any) -> Any:
            return once(messages) if prompt_of(messages) == "use a tool" else f"answer to {prompt_of(messages)}"

        async with serving(factory, tmp_path) as service:
            assert (await ask(service, "use a tool")).output == "that will do"
            assert (await ask(service, "go on")).output == "answer to and more"
            assert (await ask(service, "no model")).output == "no model for you"
            assert texts(await history(service))[-6:] == [
                "go on",
                "answer to go on",
                "and more",
                "answer to and more",
                "no model",
                "no model for you",
            ]
            assert (await ask(service, "next")).output == "answer to next"

    run(main)


# -- requests for input -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["a tool", "a hook", "a hook before all tools"])
def test_any_input_request_is_answered(by: str, tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def approve(tool_context: ToolContext) -> str:
            """Ask a person."""
            return str(tool_context.interrupt("approval", reason="sure?")) if by == "a tool" else "approved"

        def hook(event: Any) -> None:
            if prompt_of(event.agent.messages) == "go":
                event.interrupt("approval", reason="sure?")

        def factory() -> Agent:
            def script(messages: Any) -> Any:
                if prompt_of(messages) == "go" and not results(messages):
                    return [call("approve")]
                return f"then {list(results(messages).values())}" if prompt_of(messages) == "go" else "fine"

            agent = Agent(model=ScriptedModel(script), tools=[approve])
            if by != "a tool":
                agent.add_hook(hook, BeforeToolCallEvent if by == "a hook" else BeforeToolsEvent)
            return agent

        async with serving(factory, tmp_path) as service:
            end = await ask(service, "go")
            assert end.status is RunStatus.NEEDS_INPUT
            assert [(each.name, each.reason) for each in end.input_requests] == [("approval", "sure?")]
            done = "yes" if by == "a tool" else "approved"
            assert (await answer(service, end)).output == f"then {[done]}"
            assert len(await history(service)) == 4
            assert (await ask(service, "next")).output == "fine"

    run(main)


# -- sub-agents ---------------------------------------------------------------------------------------


def test_a_sub_agent_that_two_sessions_would_share_is_refused_however_deep_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        model = ScriptedModel(lambda messages: "fine")
        shared = Agent(model=model, name="shared", description="shared")
        factories: list[Callable[[], Agent]] = [
            lambda: Agent(model=model, tools=[shared]),
            lambda: Agent(model=model, tools=[shared.as_tool(preserve_context=True)]),
            lambda: Agent(model=model, tools=[Agent(model=model, name="middle", tools=[shared])]),
        ]
        for factory in factories:
            async with serving(factory, tmp_path) as service:
                assert (await ask(service, "x", "first")).status is RunStatus.SUCCEEDED
                end = await ask(service, "x", "second")
                assert end.error is not None
                assert "same sub-agent 'shared'" in end.error.detail

    run(main)


def test_sub_agents_of_a_factorys_own_work_and_print_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        def factory() -> Agent:
            researcher = Agent(
                model=ScriptedModel(lambda messages: f"researched {prompt_of(messages)}"), name="research"
            )

            def script(messages: Any) -> Any:
                given = results(messages)
                return next(iter(given.values())) if given else [call("research", {"input": prompt_of(messages)})]

            return Agent(model=ScriptedModel(script), tools=[researcher])

        async with serving(factory, tmp_path) as service:
            for session in ("first", "second"):
                for text in ("a", "b"):
                    assert (await ask(service, text, session)).output.strip() == f"researched {text}"
                await history(service, session)

    run(main)
    assert "researched" not in capsys.readouterr().out


def test_a_sub_agent_that_fails_is_a_tool_that_fails(tmp_path: Path) -> None:
    async def main() -> None:
        def failing(messages: Any) -> Any:
            raise RuntimeError("no more tokens")

        def factory() -> Agent:
            def script(messages: Any) -> Any:
                return "done" if results(messages) else [call("research", {"input": "x"})]

            return Agent(model=ScriptedModel(script), tools=[Agent(model=ScriptedModel(failing), name="research")])

        async with serving(factory, tmp_path) as service:
            assert (await ask(service, "go")).output == "done"
            assert "no more tokens" in result_texts(await history(service))[0]

    run(main)


# -- models that keep the conversation themselves -----------------------------------------------------


class Stateful(ScriptedModel):
    """A model that keeps the conversation, as OpenAI's Responses do: it gets new messages and an id."""

    @property
    def stateful(self) -> bool:
        return True

    async def stream(self, messages: Any, *args: Any, model_state: Any = None, **options: Any) -> Any:
        model_state["response_id"] = f"{model_state.get('response_id', '')}{prompt_of(messages)};"
        async for event in super().stream(messages, *args, **options):
            yield event
        ids.append(model_state["response_id"])


ids: list[str] = []


def test_a_model_that_keeps_the_conversation_goes_on_over_rebuilds_and_failures_and_history_has_everything(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        for rebuilt in (False, True):
            ids.clear()
            given: list[list[str]] = []
            journal = MemoryJournal(SystemClock())

            def script(messages: Any, given: list[list[str]] = given) -> Any:
                given.append(texts(messages))
                if prompt_of(messages) == "fail" and results(messages):
                    raise RuntimeError("failed")
                if prompt_of(messages) in ("fail", "tool") and not results(messages):
                    return [call("act")]
                return f"answer to {prompt_of(messages)}"

            async with serving(
                lambda script=script: Agent(model=Stateful(script), tools=[act]), tmp_path, journal
            ) as service:
                for text in ("one", "tool", "fail", "two"):
                    if rebuilt:
                        service._pool.drop(key())
                    await ask(service, text)
                messages = await history(service)
            assert [text for text in texts(messages) if text in ("one", "tool", "fail", "two")] == [
                "one",
                "tool",
                "fail",
                "two",
            ]
            assert result_texts(messages) == ["acted", "acted"]
            assert given[0] == ["one"]
            assert given[1][0] == "tool", "the model does not get old messages again"
            assert given[-1] == ["fail", EARLY, "RuntimeError: failed", "two"], (
                "the model never heard of the run that failed"
            )
            assert ids[-1] == "one;tool;tool;two;", "the id of a run that failed counts no more"
            record = await journal.load(key())
            assert record.messages == []
            assert record.window != WHOLE_HISTORY

    run(main)


def test_the_model_of_the_next_run_sees_that_tools_had_no_output(tmp_path: Path) -> None:
    async def main() -> None:
        given: list[Any] = []

        def script(messages: Any) -> Any:
            given.append(messages)
            return "done" if results(messages) or prompt_of(messages) == "next" else [call("quiet")]

        made: list[Agent] = []

        def factory() -> Agent:
            made.append(Agent(model=ScriptedModel(script), tools=[quiet]))
            return made[-1]

        async with serving(factory, tmp_path) as service:
            await ask(service, "go")
            await ask(service, "next")
            assert result_texts(given[-1]) == result_texts(await history(service)) == [NO_OUTPUT]
            assert len(made) == 1, "there is no need to build the agent again"

    run(main)
