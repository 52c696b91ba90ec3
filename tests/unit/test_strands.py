"""Real Strands agents behind the real engine: checkpoints, windows, refusals."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import NullConversationManager, SlidingWindowConversationManager
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent, BeforeToolsEvent, HookOrder
from strands.tools.executors import SequentialToolExecutor
from strands.types.exceptions import ContextWindowOverflowException
from strands.types.streaming import StreamEvent

from engine_support import key, texts, tool_texts
from strandline._agents.parameters import SESSION_ID
from strandline._agents.strands_hooks import NOT_STARTED
from strandline._clock import SystemClock
from strandline._engine.loops import AgentLoops
from strandline._engine.requests import Request
from strandline._engine.streams import Later
from strandline._history import UNKNOWN_OUTCOME, ended_early, pairing_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import (
    ANONYMOUS,
    AgentRecord,
    ErrorCode,
    Inline,
    Message,
    Outcome,
    Range,
    RoundDone,
    RoundStarted,
    RunStatus,
    ToolDone,
)
from strandline.testing import Gate, ScriptedModel, call, fast_retries, results, say, stop
from strandline.testing import question as prompt_of
from strands_support import RecordingJournal, answer, ask, history, loaded, run, serving


@tool
def echo(text: str) -> str:
    """Say it again."""
    return f"echo {text}"


def one_round(messages: Any) -> Any:
    return "done" if results(messages) else [say("let me see"), call("echo", {"text": prompt_of(messages)})]


def test_a_round_is_durable_before_any_tool_of_it_starts(tmp_path: Path) -> None:
    async def main() -> None:
        started: list[str] = []

        @tool
        def note(name: str) -> str:
            """Note that it was started."""
            started.append(name)
            return name

        def script(messages: Any) -> Any:
            return "done" if results(messages) else [call("note", {"name": "a"}), call("note", {"name": "b"})]

        journal = RecordingJournal()
        journal.hold = Gate()
        model = ScriptedModel(script)
        async with serving(lambda: Agent(model=model, tools=[note]), tmp_path, journal) as service:
            run = asyncio.create_task(ask(service, "go"))
            await journal.hold.reached.wait()
            assert started == [], "no tool may start before the round is durable"
            journal.hold.open()
            assert (await run).status is RunStatus.SUCCEEDED
            assert sorted(started) == ["a", "b"]
            assert journal.log == ["RoundStarted", "ToolDone", "ToolDone", "RoundDone"]
            first, one, two, done = journal.checkpoints
            assert isinstance(first, RoundStarted)
            assert [message["role"] for message in first.messages] == ["user", "assistant"]
            assert isinstance(one, ToolDone)
            assert isinstance(two, ToolDone)
            assert isinstance(done, RoundDone)
            given = {block["toolResult"]["toolUseId"] for block in done.messages[0]["content"]}
            assert given == {one.tool_use_id, two.tool_use_id}

    run(main)


def test_a_checkpoint_has_the_changes_of_the_users_hooks(tmp_path: Path) -> None:
    """Also a hook at SDK_LAST that was there before ours."""

    async def main() -> None:
        def rewrite(event: AfterToolCallEvent[Any]) -> None:
            event.result["content"] = [{"text": "rewritten"}]

        def factory() -> Agent:
            agent = Agent(model=ScriptedModel(one_round), tools=[echo])
            agent.add_hook(rewrite, AfterToolCallEvent, order=HookOrder.SDK_LAST)
            return agent

        journal = RecordingJournal()
        async with serving(factory, tmp_path, journal) as service:
            await ask(service, "x")
            done = next(checkpoint for checkpoint in journal.checkpoints if isinstance(checkpoint, ToolDone))
            assert done.result["content"] == [{"text": "rewritten"}]

    run(main)


def test_a_tool_that_a_hook_retries_is_stored_once_with_its_last_result(tmp_path: Path) -> None:
    async def main() -> None:
        calls: list[int] = []

        @tool
        def flaky() -> str:
            """Fail once."""
            calls.append(1)
            return f"call {len(calls)}"

        def again(event: AfterToolCallEvent[Any]) -> None:
            event.retry = len(calls) < 2

        def factory() -> Agent:
            model = ScriptedModel(lambda messages: "done" if results(messages) else [call("flaky")])
            agent = Agent(model=model, tools=[flaky])
            agent.add_hook(again, AfterToolCallEvent)
            return agent

        journal = RecordingJournal()
        async with serving(factory, tmp_path, journal) as service:
            await ask(service, "x")
            done = [checkpoint for checkpoint in journal.checkpoints if isinstance(checkpoint, ToolDone)]
            assert [checkpoint.result["content"] for checkpoint in done] == [[{"text": "call 2"}]]

    run(main)


def test_hooks_of_the_user_that_cancel_a_tool_or_a_round_leave_a_valid_history(tmp_path: Path) -> None:
    async def main() -> None:
        ran: list[str] = []

        @tool
        def act() -> str:
            """Act."""
            ran.append("act")
            return "acted"

        def factory() -> Agent:
            def script(messages: Any) -> Any:
                return "done" if results(messages) else [call("act")]

            agent = Agent(model=ScriptedModel(script), tools=[act])

            def deny(event: BeforeToolCallEvent[Any]) -> None:
                if prompt_of(event.agent.messages) == "deny":
                    event.cancel_tool = "not allowed"

            def deny_all(event: BeforeToolsEvent) -> None:
                if prompt_of(event.agent.messages) == "deny all":
                    event.cancel = "nothing allowed"

            def broken(event: BeforeToolsEvent) -> None:
                if prompt_of(event.agent.messages) == "broken":
                    raise ValueError("a broken hook")

            agent.add_hook(deny, BeforeToolCallEvent)
            agent.add_hook(deny_all, BeforeToolsEvent)
            agent.add_hook(broken, BeforeToolsEvent)
            return agent

        async with serving(factory, tmp_path) as service:
            for text in ("deny", "deny all"):
                assert (await ask(service, text)).status is RunStatus.SUCCEEDED
            failed = await ask(service, "broken")
            assert failed.error is not None
            assert failed.error.detail == "ValueError: a broken hook"
            assert ran == []
            assert (await ask(service, "go")).output == "done"
            assert ran == ["act"]
            reported = str(await history(service))
            assert "not allowed" in reported
            assert "nothing allowed" in reported

    run(main)


def test_the_window_slides_in_the_agent_and_in_the_journal_and_history_keeps_all(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        seen: list[list[str]] = []

        def script(messages: Any) -> str:
            seen.append(texts(messages))
            return f"answer {prompt_of(messages)}"

        def factory() -> Agent:
            manager = SlidingWindowConversationManager(window_size=6)
            return Agent(model=ScriptedModel(script), conversation_manager=manager)

        async with serving(factory, tmp_path, journal) as service:
            for number in range(10):
                await ask(service, str(number))
            assert len(await history(service)) == 20
        record = await loaded(journal)
        assert record.window == (Range(14, None),)
        assert texts(record.messages)[0] == "7"
        before = list(seen[-1])
        async with serving(factory, tmp_path, journal) as service:
            await ask(service, "10")
        assert seen[-1][-1] == "10"
        assert seen[-1][:-1] == [*before, "answer 9"][-6:], "a rebuilt agent sees what the kept one would have seen"

    run(main)


def test_an_agent_that_has_rested_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    async def main() -> None:
        records: list[AgentRecord] = []
        for rests in (False, True):
            journal = MemoryJournal(SystemClock())
            agents: list[Agent] = []

            def factory(agents: list[Agent] = agents) -> Agent:
                manager = SlidingWindowConversationManager(window_size=6)
                agents.append(Agent(model=ScriptedModel(one_round), tools=[echo], conversation_manager=manager))
                return agents[-1]

            async with serving(factory, tmp_path, journal) as service:
                loops = service._loops
                assert isinstance(loops, AgentLoops)
                for number in range(6):
                    await ask(service, str(number))
                    agent = service._pool.pop(key())
                    assert agent is not None
                    if rests:
                        agent.compact()
                        agent.compact()
                        assert agents[0].messages == []
                    service._pool.put(key(), agent, loops._current)
            assert len(agents) == 1
            records.append(await loaded(journal))
        assert records[0].window == records[1].window != (Range(0, None),)
        assert texts(records[0].messages) == texts(records[1].messages)

    run(main)


def test_the_whole_history_is_the_window_of_the_null_manager(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())

        def factory() -> Agent:
            return Agent(model=ScriptedModel(one_round), tools=[echo], conversation_manager=NullConversationManager())

        async with serving(factory, tmp_path, journal) as service:
            for number in range(30):
                await ask(service, str(number))
        record = await loaded(journal)
        assert record.window == (Range(0, None),)
        assert len(record.messages) == record.length == 120

    run(main)


def test_a_result_that_an_overflow_shortened_stands_in_the_window_and_whole_in_history(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        overflows: list[int] = []

        @tool
        def read() -> str:
            """Read a long text."""
            return "x" * 2000

        def script(messages: Any) -> Any:
            if prompt_of(messages) == "overflow" and not overflows:
                overflows.append(1)
                raise ContextWindowOverflowException("too long")
            if prompt_of(messages) == "read" and not results(messages):
                return [call("read")]
            return "done"

        async with serving(lambda: Agent(model=ScriptedModel(script), tools=[read]), tmp_path, journal) as service:
            await ask(service, "read")
            assert (await ask(service, "overflow")).status is RunStatus.SUCCEEDED
            assert "x" * 2000 in str(await history(service))
        record = await loaded(journal)
        assert record.window[0] == Range(0, 2)
        assert isinstance(record.window[1], Inline)
        assert record.window[2] == Range(3, None)
        assert "truncated" in str(record.messages)
        assert "x" * 2000 not in str(record.messages)
        assert pairing_faults(record.messages) == []

    run(main)


def test_messages_that_the_factory_puts_in_come_first_for_the_model_and_are_not_history(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        seen: list[list[str]] = []
        primer: list[Any] = [
            {"role": "user", "content": [{"text": "be brief"}]},
            {"role": "assistant", "content": [{"text": "yes"}]},
        ]

        def script(messages: Any) -> str:
            seen.append(texts(messages))
            if prompt_of(messages) == "fail":
                raise RuntimeError("failed")
            return "ok"

        def factory() -> Agent:
            return Agent(model=ScriptedModel(script), messages=primer)

        for question in ("fail", "one", "two"):
            async with serving(factory, tmp_path, journal) as service:
                await ask(service, question)
                assert "be brief" not in texts(await history(service))
            assert seen[-1][:2] == ["be brief", "yes"]
        assert len(primer) == 2, "the factory's own list must not grow"
        assert seen[-1].count("be brief") == 1

    run(main)


def test_agent_state_is_kept_when_a_run_succeeds_and_rolled_back_when_it_fails(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())

        @tool(context=True)
        def count_up(tool_context: ToolContext) -> str:
            """Count."""
            state = tool_context.agent.state
            state.set("n", (state.get("n") or 0) + 1)
            return str(state.get("n"))

        def script(messages: Any) -> Any:
            if not results(messages):
                return [call("count_up")]
            if prompt_of(messages) == "fail":
                raise RuntimeError("failed")
            return next(iter(results(messages).values()))

        def factory() -> Agent:
            return Agent(model=ScriptedModel(script), tools=[count_up])

        async with serving(factory, tmp_path, journal) as service:
            assert [(await ask(service, text)).output for text in ("a", "fail", "b")] == ["1", "", "2"]
        async with serving(factory, tmp_path, journal) as service:
            assert (await ask(service, "c")).output == "3"

    run(main)


def test_invocation_state_is_fresh_for_each_run_and_says_what_a_tool_needs_to_key_its_writes(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[dict[str, Any]] = []

        @tool(context=True)
        def look(tool_context: ToolContext) -> str:
            """Look."""
            seen.append(dict(tool_context.invocation_state))
            tool_context.invocation_state["left"] = "behind"
            Path(tool_context.invocation_state["workspace"], "file").write_text("x")
            return "ok"

        model = ScriptedModel(lambda messages: "done" if results(messages) else [call("look")])
        async with serving(lambda: Agent(model=model, tools=[look]), tmp_path) as service:
            await ask(service, "a")
            await ask(service, "b")
        first, second = seen
        assert first["session_id"] == "s"
        assert first["principal"] == "anonymous"
        assert first["attempt"] == 1
        assert first["metadata"] == {}
        assert first["run_id"] != second["run_id"]
        assert "left" not in second
        assert (tmp_path / "s" / "file").exists()

    run(main)


def test_an_interrupt_leaves_its_round_open_until_it_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def approve(tool_context: ToolContext) -> str:
            """Ask somebody."""
            return str(tool_context.interrupt("approval", reason="sure?"))

        def script(messages: Any) -> Any:
            if prompt_of(messages) == "ask" and not results(messages):
                return [call("approve"), call("echo", {"text": "x"})]
            return "fine"

        async with serving(lambda: Agent(model=ScriptedModel(script), tools=[approve, echo]), tmp_path) as service:
            end = await ask(service, "ask")
            assert (end.status, end.error) == (RunStatus.NEEDS_INPUT, None)
            page = await service.history_page(key())
            assert (len(page.messages), page.pending) == (2, True)
            assert (await answer(service, end, "surely")).output == "fine"
            assert sorted(tool_texts(await history(service))) == ["echo x", "surely"], (
                "the finished sibling keeps its result"
            )
            assert (await ask(service, "next")).output == "fine"

    run(main)


def test_structured_output_and_limits_end_with_an_answer_in_history(tmp_path: Path) -> None:
    class City(BaseModel):
        name: str

    async def main() -> None:
        model = ScriptedModel(lambda messages: [call("City", {"name": "Rome"})])
        async with serving(lambda: Agent(model=model, structured_output_model=City), tmp_path) as service:
            for _ in range(2):
                assert (await ask(service, "where?")).output == '{"name":"Rome"}'
            assert texts(await history(service))[-1] == '{"name":"Rome"}'

    run(main)


def test_an_answer_cut_by_max_tokens_fails_the_run_with_its_text_kept(tmp_path: Path) -> None:
    async def main() -> None:
        def script(messages: Any) -> Any:
            return [say("half an ans"), stop("max_tokens")] if prompt_of(messages) == "long" else "fine"

        async with serving(lambda: Agent(model=ScriptedModel(script)), tmp_path) as service:
            end = await ask(service, "long")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert end.error.out_of_tokens
            said = texts(await history(service))
            assert said[1:3] == ["half an ans", "(This run ended early: agent_error.)"]
            assert said[3:] == [end.error.detail[:500]]
            assert (await ask(service, "next")).output == "fine"

    run(main)


def test_partial_text_of_a_stream_that_broke_is_kept_and_that_of_a_repeated_call_is_not(tmp_path: Path) -> None:
    from strands.types.exceptions import ModelThrottledException

    async def main() -> None:
        calls: list[int] = []

        def script(messages: Any) -> Any:
            calls.append(1)
            if prompt_of(messages) == "throttled" and len(calls) == 1:
                return ["first tr", ModelThrottledException("slow down")]
            return ["second tr", RuntimeError("cut")]

        def factory() -> Agent:
            return Agent(model=ScriptedModel(script), retry_strategy=fast_retries())

        async with serving(factory, tmp_path) as service:
            assert (await ask(service, "throttled")).status is RunStatus.FAILED
            assert texts(await history(service))[1] == "second tr"

    run(main)


def test_a_tool_that_calls_sys_exit_fails_its_own_run_and_is_not_requested_again(tmp_path: Path) -> None:
    async def main() -> None:
        left: list[int] = []

        @tool
        async def leave() -> str:
            """Leave."""
            left.append(1)
            sys.exit(3)

        def script(messages: Any) -> Any:
            return [call("leave"), call("echo", {"text": "x"})] if prompt_of(messages) == "leave" else "fine"

        async with serving(lambda: Agent(model=ScriptedModel(script), tools=[leave, echo]), tmp_path) as service:
            other = asyncio.create_task(ask(service, "x", "other"))
            end = await ask(service, "leave")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert "leave" in end.error.detail
            assert (await other).output == "fine"
            assert (await ask(service, "next")).output == "fine"
            assert left == [1]
            reported = str(await history(service))
            assert UNKNOWN_OUTCOME in reported
            assert "echo x" in reported

    run(main)


@pytest.mark.parametrize("by", ["tool", "factory"])
def test_a_bare_next_in_sync_code_is_an_error_like_any_other_and_hangs_nobody(by: str, tmp_path: Path) -> None:
    async def main() -> None:
        made: list[Agent] = []

        @tool
        def following() -> str:
            """Get the next one."""
            return str(next(iter([])))

        def script(messages: Any) -> Any:
            return [call("following")] if prompt_of(messages) == "go" and not results(messages) else "fine"

        def factory() -> Agent:
            if by == "factory" and not made:
                made.append(Agent(model=ScriptedModel(script)))
                next(iter([]))
            return Agent(model=ScriptedModel(script), tools=[following])

        async with serving(factory, tmp_path) as service:
            end = await ask(service, "go")
            if by == "tool":
                assert end.output == "fine", "the model sees it, and decides"
                assert "StopIteration" in str(await history(service))
            else:
                assert end.error is not None
                assert "StopIteration" in end.error.detail
            assert (await ask(service, "next")).output == "fine"

    run(main)


def test_metrics_do_not_pile_up_in_an_agent_that_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        agents: list[Agent] = []

        def factory() -> Agent:
            agents.append(Agent(model=ScriptedModel(lambda messages: "ok")))
            return agents[-1]

        async with serving(factory, tmp_path) as service:
            usages = [(await ask(service, str(number))).usage for number in range(5)]
        assert len(agents) == 1
        assert agents[0].event_loop_metrics.agent_invocations == []
        assert [usage["outputTokens"] for usage in usages if usage is not None] == [usages[0]["outputTokens"]] * 5  # type: ignore[index]

    run(main)


def test_factories_are_sync_or_async_with_or_without_session_id_and_never_block_the_serving_loop(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        serving_thread = threading.current_thread()
        seen: list[tuple[str, bool]] = []

        def make(session_id: str) -> Agent:
            seen.append((session_id, threading.current_thread() is serving_thread))
            return Agent(model=ScriptedModel(lambda messages: session_id))

        async def make_async(session_id: str) -> Agent:
            return make(session_id)

        for factory in (make, make_async):
            async with serving(factory, tmp_path, takes=SESSION_ID) as service:
                outputs = await asyncio.gather(*(ask(service, "x", f"s{n}") for n in range(5)))
                assert [output.output for output in outputs] == [f"s{n}" for n in range(5)]
        assert not any(here for _, here in seen)
        async with serving(lambda: make("none"), tmp_path) as service:
            assert (await ask(service, "x")).output == "none"

    run(main)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: None, "returned None, not a strands.Agent"),
        (lambda: "text", "returned an object of type builtins.str"),
        (lambda: Agent(model=ScriptedModel(one_round), checkpointing=True), "checkpointing"),
        (lambda: Agent(model=ScriptedModel(one_round), background_tasks=True), "background_tasks"),
        (lambda: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_served_fails_its_run_with_the_reason(
    made: Callable[[], Any], reason: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(made, tmp_path) as service:
            end = await ask(service, "x")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            assert reason in end.error.detail

    run(main)


def test_an_agent_or_manager_that_two_sessions_would_share_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        agent = Agent(model=ScriptedModel(lambda messages: "ok"))
        manager = SlidingWindowConversationManager()

        def shared_manager() -> Agent:
            return Agent(model=ScriptedModel(lambda messages: "ok"), conversation_manager=manager)

        for factory, what in ((lambda: agent, "same Agent"), (shared_manager, "same conversation manager")):
            async with serving(factory, tmp_path) as service:
                assert (await ask(service, "x", "first")).status is RunStatus.SUCCEEDED
                end = await ask(service, "x", "second")
                assert end.error is not None
                assert what in end.error.detail
                assert (await ask(service, "x", "first")).output == "ok"

    run(main)


def test_a_session_manager_is_refused(tmp_path: Path) -> None:
    from strands.session.file_session_manager import FileSessionManager

    async def main() -> None:
        def factory() -> Agent:
            manager = FileSessionManager(session_id="s", storage_dir=str(tmp_path / "sessions"))
            return Agent(model=ScriptedModel(one_round), session_manager=manager)

        async with serving(factory, tmp_path) as service:
            end = await ask(service, "x")
            assert end.error is not None
            assert "session_manager" in end.error.detail

    run(main)


def test_nothing_is_printed_to_the_servers_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with serving(lambda: Agent(model=ScriptedModel(lambda messages: "loud")), tmp_path) as service:
            await ask(service, "x")

    run(main)
    assert "loud" not in capsys.readouterr().out


def test_a_tool_that_a_stop_kept_from_starting_says_so_and_can_be_called_again(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        gate = Gate()
        done: list[str] = []

        @tool
        def slow() -> str:
            """Take long."""
            gate.block()
            done.append("slow")
            return "slow done"

        @tool
        def pay() -> str:
            """Pay."""
            done.append("pay")
            return "paid"

        def script(messages: Any) -> Any:
            given = results(messages)
            if any("not started" in text for text in given.values()):
                return [call("pay")]
            return "done" if given else [call("slow"), call("pay")]

        def factory() -> Agent:
            return Agent(model=ScriptedModel(script), tools=[slow, pay], tool_executor=SequentialToolExecutor())

        async with serving(factory, tmp_path, journal, drain_grace_s=0, stop_grace_s=10) as service:
            ticket = await service.submit(Request(key=key(), input="go"))
            await gate.reached.wait()
            draining = asyncio.create_task(service.drain())
            (execution,) = service._runner.executing()
            while not execution.attempt.signal.is_set():
                await asyncio.sleep(0)
            gate.open()
            await draining
            assert await ticket.stream.outcome() is Later.LATER
            assert done == ["slow"]
        async with serving(factory, tmp_path, journal) as service:
            view = await service.wait(ticket.key.principal, ticket.run_id, 20)
            assert view.run.status is RunStatus.SUCCEEDED
            assert done == ["slow", "pay"]
            assert NOT_STARTED in str(await history(service))

    run(main)


def test_a_conversation_that_user_code_broke_is_rebuilt_from_history(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        sent: list[list[Message]] = []

        @tool(context=True)
        def clear(tool_context: ToolContext) -> str:
            """Clear the conversation, in the middle of a round."""
            tool_context.agent.messages.clear()
            return "cleared"

        def script(messages: Any) -> Any:
            sent.append(list(messages))
            return [call("clear")] if prompt_of(messages) == "clear" and not results(messages) else "fine"

        async with serving(lambda: Agent(model=ScriptedModel(script), tools=[clear]), tmp_path, journal) as service:
            await ask(service, "one")
            await ask(service, "clear")
            assert (await ask(service, "two")).output == "fine"
            assert pairing_faults(sent[-1]) == []
            assert texts(sent[-1])[0] == "one", "the agent was rebuilt from history"
            await history(service)

    run(main)


def test_a_usage_that_is_not_in_whole_numbers_can_still_be_read(tmp_path: Path) -> None:
    class Odd(ScriptedModel):
        async def stream(self, *args: Any, **options: Any) -> Any:
            async for event in super().stream(*args, **options):
                if "metadata" in event:
                    odd: Any = {"inputTokens": 1.5, "outputTokens": 2, "totalTokens": 3.5}
                    event["metadata"]["usage"] = odd
                yield event

    async def main() -> None:
        async with serving(lambda: Agent(model=Odd(lambda messages: "fine")), tmp_path) as service:
            ticket = await service.submit(Request(key=key(), input="x"))
            await ticket.stream.outcome()
            view = await service.run(ticket.key.principal, ticket.run_id)
            assert view.run.outcome is not None
            assert view.run.outcome.usage is not None
            assert view.run.outcome.usage["outputTokens"] == 2

    run(main)


def test_a_run_whose_deadline_passes_before_it_begins_is_known_to_the_model_of_the_next_one(tmp_path: Path) -> None:
    async def main() -> None:
        sent: list[list[str]] = []

        def script(messages: Any) -> str:
            sent.append(texts(messages))
            return f"answer to {prompt_of(messages)}"

        async with serving(lambda: Agent(model=ScriptedModel(script)), tmp_path) as service:
            await ask(service, "one")
            late = await service.submit(Request(key=key(), input="two", timeout_s=1e-7))
            end = await late.stream.outcome()
            assert isinstance(end, Outcome)
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            await ask(service, "three")
            why = [ended_early("timeout"), end.error.detail]
            assert sent[-1] == ["one", "answer to one", "two", *why, "three"]
            assert len(sent) == 2

    run(main)


def test_a_stream_ends_at_the_chunk_after_the_one_at_which_its_cancel_is_seen(tmp_path: Path) -> None:
    """Strands alone looks at the signal every 50 ms; all of this stream is said in less."""
    gate = Gate()
    said: list[object] = []

    class Streaming(ScriptedModel):
        async def stream(self, *args: Any, **more: Any) -> AsyncGenerator[StreamEvent, None]:
            async for event in super().stream(*args, **more):
                if len(said) == 5:
                    await gate.wait()
                said.append(event)
                yield event

    model = Streaming(lambda messages: "word " * 100, chunk_size=len("word "))

    async def main() -> None:
        async with serving(lambda: Agent(model=model, callback_handler=None), tmp_path) as service:
            ticket = await service.submit(Request(key=key(), input="go"))
            await gate.reached.wait()
            await service.cancel(ANONYMOUS, ticket.run_id)
            gate.open()
            end = await asyncio.wait_for(ticket.stream.outcome(), 20)
            assert isinstance(end, Outcome)
            assert end.status is RunStatus.CANCELLED

    run(main)
    assert len(said) <= 7, "one that comes, at which the cancel is seen, and the next, at which Strands ends"
