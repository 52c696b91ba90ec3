"""What happens to runs when the server stops, and when it died: requeued, resumed, or ended once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from engine_support import (
    Played,
    echo,
    history,
    play_round,
    prompt_of,
    send,
    serving,
    texts,
    tool_round,
    until_idle,
)
from strandline._agents.port import Attempt, SessionAgent
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._history import UNKNOWN_OUTCOME, Progress, history_faults
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, AgentRecord, ErrorCode, RunStatus, SessionKey
from strandline.errors import Draining
from strandline.testing._virtual import VirtualClock, run_virtual

Behaviour = Callable[[Attempt], Awaitable[str]]


class Tools:
    """Tools that note what they did, and a behaviour of `rounds` rounds that hangs where `hang` says."""

    def __init__(self, rounds: int = 0, *, hang: str = "", on_attempt: int = 1, sleep_s: float = 30) -> None:
        self.rounds = rounds
        self.hang = hang
        self.on_attempt = on_attempt
        self.sleep_s = sleep_s
        self.begun: list[str] = []
        self.done: list[str] = []

    async def tool(self, attempt: Attempt, name: str) -> str:
        self.begun.append(name)
        await self.maybe_hang(attempt, f"in {name}")
        self.done.append(name)
        return f"result of {name}"

    async def maybe_hang(self, attempt: Attempt, place: str) -> None:
        if self.hang == place and attempt.context.attempt <= self.on_attempt:
            await asyncio.sleep(self.sleep_s)

    async def behaviour(self, attempt: Attempt) -> str:
        finished = sum(message["role"] == "user" for message in attempt.messages) - 1
        for number in range(finished, self.rounds):
            attempt.add_text(f"thinking {number}")
            await self.maybe_hang(attempt, f"before {number}")
            await play_round(attempt, f"t{number}", lambda n=number: self.tool(attempt, f"{n}"))  # type: ignore[misc]
        attempt.add_text("the ans")
        await self.maybe_hang(attempt, "at the end")
        return f"answer after {finished} rounds before"


async def killed(
    journal: MemoryJournal, clock: VirtualClock, target: Played, seconds: float, *messages: str
) -> list[str]:
    """Serve, send, let time pass, and leave as a killed process does. Returns the ids of the runs."""
    async with serving(clock, target, journal) as service:
        ids = [(await send(service, message)).run_id for message in messages]
        await asyncio.sleep(seconds)
    return [str(each) for each in ids]


async def run_of(service: Service, run_id: str) -> tuple[RunStatus, str | None, int]:
    view = await service.run(ANONYMOUS, run_id)  # type: ignore[arg-type]
    error = view.run.outcome.error if view.run.outcome else None
    return view.run.status, error.code if error else None, view.run.attempt


@pytest.mark.parametrize("place", ["before 0", "before 2", "at the end"])
def test_a_killed_run_resumes_at_its_last_checkpoint_and_no_tool_runs_twice(place: str) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        tools = Tools(3, hang=place)
        ids = await killed(journal, clock, Played(tools.behaviour), 10, "one", "two", "three")
        done_before = list(tools.done)
        async with serving(clock, Played(tools.behaviour), journal) as service:
            await until_idle(service)
            assert tools.begun[:3] == ["0", "1", "2"], "each tool of the killed run starts once"
            assert done_before == tools.begun[: len(done_before)]
            assert [await run_of(service, each) for each in ids] == [
                (RunStatus.SUCCEEDED, None, 2),
                (RunStatus.SUCCEEDED, None, 1),
                (RunStatus.SUCCEEDED, None, 1),
            ]
            messages = await history(service)
            assert history_faults(messages) == []
            assert [text for text in texts(messages) if text in ("one", "two", "three")] == ["one", "two", "three"]
            assert texts(messages)[1] == f"answer after {len(done_before)} rounds before"

    run_virtual(main)


def test_a_run_that_died_in_a_tool_fails_and_history_says_that_its_outcome_is_unknown() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        tools = Tools(3, hang="in 1")
        ids = await killed(journal, clock, Played(tools.behaviour), 10, "one", "two")
        async with serving(clock, Played(Tools().behaviour), journal) as service:
            await until_idle(service)
            assert await run_of(service, ids[0]) == (RunStatus.FAILED, ErrorCode.CRASHED, 1)
            assert await run_of(service, ids[1]) == (RunStatus.SUCCEEDED, None, 1)
            assert tools.begun == ["0", "1"], "the tool in the middle is not started again"
            messages = await history(service)
            assert history_faults(messages) == []
            results = [
                block["toolResult"] for message in messages for block in message["content"] if "toolResult" in block
            ]
            assert results[0]["content"] == [{"text": "result of 0"}]
            assert results[1]["content"] == [{"text": UNKNOWN_OUTCOME}]
            assert "(This run ended early: crashed.)" in texts(messages)

    run_virtual(main)


def test_a_run_that_is_not_resumable_counts_as_having_a_tool_in_the_middle() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        ids = await killed(
            journal, clock, Played(Tools(hang="at the end").behaviour, resumable=False), 10, "one", "two"
        )
        async with serving(clock, Played(echo, resumable=False), journal) as service:
            await until_idle(service)
            assert await run_of(service, ids[0]) == (RunStatus.FAILED, ErrorCode.CRASHED, 1)
            assert await run_of(service, ids[1]) == (RunStatus.SUCCEEDED, None, 1)
            assert texts(await history(service))[:2] == ["one", "(This run ended early: crashed.)"]

    run_virtual(main)


def test_a_run_that_kills_the_server_again_and_again_ends_at_max_attempts_and_is_in_history() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        target = Played(Tools(hang="before 0", rounds=1, on_attempt=99).behaviour)
        ids = await killed(journal, clock, target, 1, "poison")
        for _ in range(2):
            await killed(journal, clock, target, 1)
        async with serving(clock, Played(echo), journal) as service:
            await until_idle(service)
            assert await run_of(service, ids[0]) == (RunStatus.FAILED, ErrorCode.CRASHED, 3)
            assert texts(await history(service)) == [
                "poison",
                "(This run ended early: crashed.)",
                "the server died while the run executed in each of its 3 attempts",
            ]

    run_virtual(main)


def test_one_poisonous_run_never_fails_innocent_ones() -> None:
    """Runs that executed beside a poisonous one are on their last attempts too; those go one at a time."""

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        together: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            together.append(prompt_of(attempt))
            if attempt.context.attempt < 3:
                await asyncio.sleep(1000)
            if prompt_of(attempt) == "poison":
                await asyncio.sleep(1000)
            return await echo(attempt)

        ids = []
        async with serving(clock, Played(behaviour), journal) as service:
            ids += [(await send(service, text, text)).run_id for text in ("poison", "a", "b")]
            await asyncio.sleep(1)
        await killed(journal, clock, Played(behaviour), 1)
        together.clear()
        await killed(journal, clock, Played(behaviour), 1)
        assert together[-1] == "poison", "no last attempt may run beside the poisonous one"
        async with serving(clock, Played(behaviour), journal) as service:
            await until_idle(service)
            ends = [(await run_of(service, each))[0] for each in ids]
            assert ends == [RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.SUCCEEDED]

    run_virtual(main)


def test_a_drain_refuses_new_runs_lets_running_ones_finish_and_keeps_waiting_ones() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(Tools(hang="at the end", sleep_s=4).behaviour), journal) as service:
            running, waiting = await send(service, "one"), await send(service, "two")
            draining = asyncio.create_task(service.drain())
            assert await waiting.stream.outcome() is Later.LATER
            with pytest.raises(Draining):
                await send(service, "three")
            assert not service.health().ready
            await draining
            end = await running.stream.outcome()
            assert not isinstance(end, Later)
            assert end.status is RunStatus.SUCCEEDED
        async with serving(clock, Played(echo), journal) as service:
            await until_idle(service)
            assert await run_of(service, waiting.run_id) == (RunStatus.SUCCEEDED, None, 1)

    run_virtual(main)


@pytest.mark.parametrize("place", ["before 0", "before 2", "at the end"])
def test_a_stopped_run_with_no_tool_in_the_middle_is_given_back_uncounted(place: str) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        tools = Tools(3, hang=place, sleep_s=1000)
        async with serving(clock, Played(tools.behaviour), journal) as service:
            ticket = await send(service, "one")
            second = await send(service, "two")
            await asyncio.sleep(1)
            started = clock.monotonic()
            await service.drain()
            assert clock.monotonic() - started <= 7.1, "drain_grace and one second"
            assert await ticket.stream.outcome() is Later.LATER
        tools.hang = ""
        async with serving(clock, Played(tools.behaviour), journal) as service:
            await until_idle(service)
            assert await run_of(service, ticket.run_id) == (RunStatus.SUCCEEDED, None, 1)
            assert await run_of(service, second.run_id) == (RunStatus.SUCCEEDED, None, 1)
            assert tools.begun[:3] == ["0", "1", "2"]
            messages = await history(service)
            assert history_faults(messages) == []
            assert texts(messages)[0] == "one"

    run_virtual(main)


def test_a_stopped_run_with_a_tool_in_the_middle_ends_as_stopped() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(Tools(2, hang="in 1").behaviour), journal) as service:
            ticket = await send(service, "one")
            await asyncio.sleep(1)
            await service.drain()
            end = await ticket.stream.outcome()
            assert not isinstance(end, Later)
            assert end.error is not None
            assert end.error.code is ErrorCode.STOPPED
        async with serving(clock, Played(echo), journal) as service:
            messages = await history(service)
            assert history_faults(messages) == []
            assert UNKNOWN_OUTCOME in str(messages)
            assert "result of 0" in str(messages)
            assert texts(messages)[-2:] == ["(This run ended early: stopped.)", "the server was stopped"]

    run_virtual(main)


def test_a_run_that_heeds_the_signal_ends_at_once_and_one_that_swallows_a_cancel_ends_on_time() -> None:
    async def main(clock: VirtualClock) -> None:
        async def heeds(attempt: Attempt) -> str:
            while not attempt.signal.is_set():
                await asyncio.sleep(0.05)
            return "I was asked to end"

        async with serving(clock, Played(heeds)) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            started = clock.monotonic()
            await service.drain()
            assert clock.monotonic() - started == pytest.approx(6, abs=0.2)
            end = await ticket.stream.outcome()
            assert not isinstance(end, Later)
            assert end.output == "I was asked to end"

        async def swallows(attempt: Attempt) -> str:
            for _ in range(3):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
            return "never"

        async with serving(clock, Played(swallows)) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            started = clock.monotonic()
            await service.drain()
            assert clock.monotonic() - started <= 7.1
            assert await ticket.stream.outcome() is Later.LATER

    run_virtual(main)


def test_no_tool_starts_while_a_run_is_being_stopped() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        tools = Tools(1)

        async def slow_model(attempt: Attempt) -> str:
            if attempt.context.attempt == 1 and not attempt.signal.is_set():
                while not attempt.signal.is_set():
                    await asyncio.sleep(0.01)
            return await tools.behaviour(attempt)

        async with serving(clock, Played(slow_model), journal) as service:
            await send(service, "x")
            await asyncio.sleep(1)
            await service.drain()
            assert tools.begun == []
        async with serving(clock, Played(tools.behaviour), journal) as service:
            await until_idle(service)
            assert tools.begun == ["0"]
            assert history_faults(await history(service)) == []

    run_virtual(main)


def test_waiting_clients_of_a_memory_journal_get_the_end_instead_of_later() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(Tools(hang="at the end").behaviour), survives=False) as service:
            await send(service, "one")
            waiting = await send(service, "two")
            reading = asyncio.create_task(service.wait(ANONYMOUS, waiting.run_id, 60))
            await asyncio.sleep(1)
            await service.drain(close=False)
            end = await waiting.stream.outcome()
            assert not isinstance(end, Later)
            assert end.error is not None
            assert end.error.code is ErrorCode.STOPPED
            run = (await reading).run
            assert (run.status, run.outcome, run.position) == (RunStatus.FAILED, end, None)
            await service.close()

    run_virtual(main)


def test_a_run_that_cannot_be_recovered_ends_as_failed_and_the_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One broken run must not keep all sessions down."""

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        ids = await killed(journal, clock, Played(Tools(1, hang="in 0").behaviour), 10, "bad", "good")

        def broken(*args: object, **named: object) -> None:
            raise TypeError("a defect")

        monkeypatch.setattr("strandline._engine.execution.recovery.closed", broken)
        async with serving(clock, Played(echo), journal) as service:
            await until_idle(service)
            assert [(await run_of(service, each))[0] for each in ids] == [RunStatus.FAILED, RunStatus.SUCCEEDED]
            assert history_faults(await history(service)) == []

    run_virtual(main)


@pytest.mark.parametrize("content", [["a text"], "a text", 5, [None], {"a": "text"}, None])
@pytest.mark.parametrize("dies", [False, True])
def test_a_tool_result_of_any_form_is_in_history_and_blocks_neither_its_session_nor_a_restart(
    content: object, dies: bool
) -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            if attempt.prompt is not None and prompt_of(attempt) == "odd":
                attempt.add(tool_round("tool", "t1"))
                await attempt.begin_round()
                result = {"toolUseId": "t1", "status": "success", "content": content}
                await attempt.end_tool("t1", result)
                attempt.add({"role": "user", "content": [{"toolResult": result}]})
                await attempt.end_round(None)
                if dies:
                    await asyncio.sleep(1000)
            return "fine"

        journal = MemoryJournal(clock)
        ids = await killed(journal, clock, Played(behaviour), 1, "odd", "next")
        async with serving(clock, Played(behaviour), journal) as service:
            await until_idle(service)
            assert [(await run_of(service, each))[0] for each in ids] == [RunStatus.SUCCEEDED] * 2
            messages = await history(service)
            assert history_faults(messages) == []
            assert "text" in str(messages)

    run_virtual(main)


def test_a_run_that_is_not_resumable_is_requeued_if_a_stop_came_before_it_began() -> None:
    async def main(clock: VirtualClock) -> None:
        class Slow(Played):
            async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000)
                return await super().build(key, record, progress)

        journal = MemoryJournal(clock)
        began: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            began.append(prompt_of(attempt))
            await asyncio.sleep(1000)
            return "never"

        async with serving(clock, Slow(behaviour, resumable=False), journal, drain_grace_s=0) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            await service.drain()
            assert await ticket.stream.outcome() is Later.LATER
            assert began == []
        async with serving(clock, Played(echo, resumable=False), journal) as service:
            assert (await service.wait(ANONYMOUS, ticket.run_id, 10)).run.status is RunStatus.SUCCEEDED

    run_virtual(main)
