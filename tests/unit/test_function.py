"""Plain functions and generators as targets, behind the real engine on virtual time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine_support import history, send, serving, texts
from strandline._agents.function import FunctionTarget, Session
from strandline._history import history_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import ErrorCode, Outcome, RunStatus
from strandline.testing._virtual import VirtualClock, run_virtual


async def ask(service: object, text: str) -> Outcome:
    ticket = await send(service, text)  # type: ignore[arg-type]
    end = await ticket.stream.outcome()
    assert isinstance(end, Outcome)
    return end


def test_a_function_answers_and_question_and_answer_become_two_messages() -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> str:
            return f"{session.id} has {len(session.messages)} messages; you said {message}"

        async with serving(clock, FunctionTarget(answer, description="f")) as service:
            assert (await ask(service, "a")).output == "s has 0 messages; you said a"
            assert (await ask(service, "b")).output == "s has 2 messages; you said b"
            assert [message["role"] for message in await history(service)] == ["user", "assistant"] * 2

    run_virtual(main)


def test_the_messages_of_a_session_are_a_copy() -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> str:
            session.messages.clear()
            for each in session.messages:
                each["content"].clear()
            return message

        async with serving(clock, FunctionTarget(answer, description="f")) as service:
            await ask(service, "a")
            await ask(service, "b")
            assert texts(await history(service)) == ["a", "a", "b", "b"]

    run_virtual(main)


def test_a_generator_streams_text_that_is_kept_when_it_fails() -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> AsyncIterator[str]:
            yield "one "
            if message == "fail":
                raise RuntimeError("broken")
            yield "two"

        async with serving(clock, FunctionTarget(answer, description="f")) as service:
            assert (await ask(service, "x")).output == "one two"
            failed = await ask(service, "fail")
            assert failed.error is not None
            assert failed.error.code is ErrorCode.AGENT_ERROR
            messages = await history(service)
            assert texts(messages[-1:]) == ["one ", "(This run ended early: agent_error.)", "RuntimeError: broken"]

    run_virtual(main)


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_answer_of_nothing_leaves_a_history_that_providers_accept(nothing: str | None) -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> str | None:
            return nothing

        async with serving(clock, FunctionTarget(answer, description="f")) as service:
            await ask(service, "")
            await ask(service, "b")
            messages = await history(service)
            assert history_faults(messages) == []
            assert texts(messages)[0] == "(empty message)"

    run_virtual(main)


def test_state_is_kept_over_runs_and_restarts_and_rolled_back_by_a_failure() -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> str:
            session.state["n"] = session.state.get("n", 0) + 1
            if message == "fail":
                raise RuntimeError("broken")
            return str(session.state["n"])

        journal = MemoryJournal(clock)
        async with serving(clock, FunctionTarget(answer, description="f"), journal) as service:
            assert [(await ask(service, text)).output for text in ("a", "fail", "b")] == ["1", "", "2"]
        async with serving(clock, FunctionTarget(answer, description="f"), journal) as service:
            assert (await ask(service, "c")).output == "3"

    run_virtual(main)


@pytest.mark.parametrize("value", [object(), {1, 2}, (1, 2), float("nan"), {1: "x"}])
def test_state_that_is_not_json_fails_the_run_with_the_reason(value: object) -> None:
    async def main(clock: VirtualClock) -> None:
        async def answer(message: str, session: Session) -> str:
            session.state["object"] = value
            return "x"

        async with serving(clock, FunctionTarget(answer, description="f")) as service:
            end = await ask(service, "a")
            assert end.status is RunStatus.FAILED
            assert "JSON" in str(end.error)

    run_virtual(main)


def test_runs_of_a_function_that_is_stopped_are_never_done_twice() -> None:
    async def main(clock: VirtualClock) -> None:
        calls: list[str] = []

        async def answer(message: str, session: Session) -> str:
            calls.append(message)
            await asyncio.sleep(1000)
            return "x"

        journal = MemoryJournal(clock)
        async with serving(clock, FunctionTarget(answer, description="f"), journal) as service:
            ticket = await send(service, "once")
            await asyncio.sleep(1)
            await service.drain()
            end = await ticket.stream.outcome()
            assert isinstance(end, Outcome)
            assert end.error is not None
            assert end.error.code is ErrorCode.STOPPED
        async with serving(clock, FunctionTarget(answer, description="f"), journal):
            await asyncio.sleep(1)
        assert calls == ["once"]

    run_virtual(main)
