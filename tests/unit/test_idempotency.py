"""Requests that are sent again under the same key: they are the run that they became before, wherever that is."""

import asyncio
import hashlib
from typing import Any

import pytest

from engine_support import Played, history, outcome, prompt_of, send, serving, texts, until_idle
from strandline._agents.port import Attempt
from strandline._engine.admission import Ticket
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, Completion, FencingToken, RunStatus
from strandline.errors import Draining, KeyReused, QueueFull
from strandline.testing._virtual import VirtualClock, run_virtual


class Gated:
    """A target whose runs wait to be let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.began: list[str] = []
        self.target = Played(self.behaviour)

    async def behaviour(self, attempt: Attempt) -> str:
        self.began.append(prompt_of(attempt))
        await self.go_on.wait()
        return f"answer to {prompt_of(attempt)}"


async def ask(service: Service, text: str, key: str | None = "k", **more: Any) -> Ticket:
    return await send(service, text, idempotency_key=key, fingerprint=hashlib.sha256(text.encode()).digest(), **more)


def test_a_request_that_comes_again_is_the_same_run_until_a_while_after_its_end() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target, idempotency_retention_s=100) as service:
            before = await send(service, "before")
            first = await ask(service, "x")
            waiting = await ask(service, "x")
            assert (waiting.run_id, waiting.position, waiting.replayed) == (first.run_id, 1, False)
            gated.go_on.set()
            assert (await outcome(before)).output == "answer to before"
            gated.go_on.clear()
            while "x" not in gated.began:
                await asyncio.sleep(0.01)
            executing = await ask(service, "x")
            assert (executing.run_id, executing.position, executing.replayed) == (first.run_id, 0, False)
            gated.go_on.set()
            ends = [await outcome(each) for each in (first, waiting, executing)]
            assert [end.output for end in ends] == ["answer to x"] * 3
            await asyncio.sleep(99)
            replayed = await ask(service, "x")
            assert (replayed.run_id, replayed.replayed) == (first.run_id, True)
            assert await outcome(replayed) == ends[0]
            with pytest.raises(KeyReused):
                await ask(service, "y")
            assert (await outcome(await ask(service, "y", session="other"))).output == "answer to y"
            await asyncio.sleep(2)
            again = await ask(service, "y")
            assert (again.run_id != first.run_id, again.replayed) == (True, False)
            assert (await outcome(again)).output == "answer to y"
            assert gated.began == ["before", "x", "y", "y"]
            assert len(service._streams) == 0
            assert len(service._queues) == 0

    run_virtual(main)


def test_a_key_outlives_the_server() -> None:
    """Attached if the run is live, replayed if it has ended."""

    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        async with serving(clock, gated.target, journal) as service:
            done, lost, waits = await ask(service, "x"), None, None
            gated.go_on.set()
            end = await outcome(done)
            gated.go_on.clear()
            lost = await ask(service, "y", "k2")
            waits = await ask(service, "z", "k3")
            await asyncio.sleep(1)
        gated.began.clear()
        async with serving(clock, gated.target, journal) as service:
            replayed = await ask(service, "x")
            assert (replayed.run_id, replayed.replayed, await outcome(replayed)) == (done.run_id, True, end)
            second, third = await ask(service, "y", "k2"), await ask(service, "z", "k3")
            assert (second.run_id, third.run_id) == (lost.run_id, waits.run_id)
            assert third.position in (1, 2)
            gated.go_on.set()
            assert [(await outcome(each)).output for each in (second, third)] == ["answer to y", "answer to z"]
            assert gated.began == ["y", "z"]
            assert len(service._streams) == 0

    run_virtual(main)


def test_a_key_while_the_server_stops() -> None:
    """An accepted run is never answered by "unavailable": it ends here, or resumes later. Nothing new comes in."""

    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        async with serving(clock, gated.target, journal, drain_grace_s=10) as service:
            gated.go_on.set()
            ended = await ask(service, "ended")
            await outcome(ended)
            gated.go_on.clear()
            runs, waits = await ask(service, "runs", "k2"), await ask(service, "waits", "k3")
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(1)
            assert (await ask(service, "ended")).replayed
            attached, later = await ask(service, "runs", "k2"), await ask(service, "waits", "k3")
            assert (attached.run_id, later.run_id) == (runs.run_id, waits.run_id)
            assert await later.stream.outcome() is Later.LATER
            with pytest.raises(KeyReused):
                await ask(service, "other", "k3")
            for key in (None, "k4"):
                with pytest.raises(Draining):
                    await ask(service, "new", key)
            gated.go_on.set()
            assert (await outcome(attached)).output == "answer to runs"
            await draining
            assert len(service._streams) == 0
        async with serving(clock, gated.target, journal) as service:
            await until_idle(service)
            assert texts(await history(service))[::2] == ["ended", "runs", "waits"]

    run_virtual(main)


def test_of_two_requests_at_once_one_becomes_a_run_and_both_are_answered() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target) as service:
            tickets = await asyncio.gather(*(ask(service, "x") for _ in range(20)))
            assert len({ticket.run_id for ticket in tickets}) == 1
            ends = [(await outcome(ticket)).output for ticket in tickets]
            assert ends == ["answer to x"] * 20
            assert gated.began == ["x"]
            assert len(service._streams) == 0
            assert len(service._queues) == 0
            assert service._queues.slots.free == 64

    run_virtual(main)


def test_a_refusal_is_not_kept_and_a_client_that_left_may_come_back() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target, max_queued_per_session=1) as service:
            await send(service, "before")
            first = await ask(service, "x")
            with pytest.raises(QueueFull):
                await ask(service, "y", "k2")
            leaving = asyncio.ensure_future(first.stream.outcome())
            await asyncio.sleep(1)
            leaving.cancel()
            assert (await ask(service, "x")).run_id == first.run_id, "also over the limit"
            gated.go_on.set()
            assert (await outcome(await ask(service, "x"))).output == "answer to x"
            await until_idle(service)
            assert (await outcome(await ask(service, "y", "k2"))).output == "answer to y"

    run_virtual(main)


def test_a_run_that_ends_while_its_key_is_looked_at_is_replayed() -> None:
    """The completion is stored before it is answered; a client in between must not wait for an end for ever."""

    class SlowAnswers(MemoryJournal):
        async def finish(self, token: FencingToken, completion: Completion, **more: Any) -> Any:
            taken = await super().finish(token, completion, **more)
            await asyncio.sleep(1)
            return taken

    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, SlowAnswers(clock)) as service:
            ticket = await ask(service, "x")
            await asyncio.sleep(0.5)
            again = await ask(service, "x")
            assert again.replayed
            assert (await outcome(again)).status is RunStatus.SUCCEEDED
            assert (await outcome(ticket)).output == "answer to x"
            assert (await service.run(ANONYMOUS, ticket.run_id)).run.attempt == 1
            assert len(service._streams) == 0

    run_virtual(main)


def test_a_run_that_this_process_cannot_end_is_answered_as_later() -> None:
    """A repeated request must not wait for an end that does not come."""

    class Broken(MemoryJournal):
        async def finish(self, token: FencingToken, completion: Completion, **more: Any) -> Any:
            raise RuntimeError("a defect")

    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, Broken(clock)) as service:
            ticket = await ask(service, "x")
            assert await ticket.outcome() is Later.LATER
            again = await asyncio.wait_for(ask(service, "x"), 60)
            assert (again.run_id, again.replayed) == (ticket.run_id, False)
            assert await again.outcome() is Later.LATER
            assert len(service._streams) == 0

    run_virtual(main)
