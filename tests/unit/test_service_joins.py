"""Runs that steer: who keeps their host alive, what is shown, and the instants at which a host may be ended."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, history, key, outcome, play_round, send, serving, texts, until_idle
from strandline._agents.port import Attempt
from strandline._engine.admission import Ticket
from strandline._engine.events import Reason, RunFinished, RunJoined, RunQueued, RunRestarted, type_of
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._engine.streams import LAST, as_last
from strandline._history import SAID_MEANWHILE
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AsRead, HistoryQuery, RunQuery
from strandline._journal.rules import as_sent
from strandline._model import (
    ANONYMOUS,
    FencingToken,
    IfBusy,
    JoinedInput,
    JoinState,
    Message,
    OnDisconnect,
    RunId,
    RunStatus,
    Sender,
)
from strandline.errors import JournalUnavailable
from strandline.testing._virtual import VirtualClock, run_virtual


class Steered:
    """An agent of some model calls; each begins when the test lets it, and hears what was said until then."""

    def __init__(self, calls: int = 2) -> None:
        self.target = Played(self.behaviour)
        self.calls = calls
        self.go_on = asyncio.Semaphore(0)
        self.called = 0

    def let(self, calls: int) -> None:
        """Let so many model calls answer."""
        for _ in range(calls):
            self.go_on.release()

    async def behaviour(self, attempt: Attempt) -> str:
        said: list[str] = []
        for number in range(self.calls):
            if attempt.has_joins:
                said += [block["text"] for block in await attempt.take_joins() if block["text"] != SAID_MEANWHILE]
            attempt.begin_model()
            self.called += 1
            await self.go_on.acquire()
            if number + 1 < self.calls:
                await play_round(attempt, f"t{number}", _nothing)
        return f"heard {', '.join(said)}"


async def _nothing() -> str:
    return "nothing"


async def steer(service: Service, text: str, **more: Any) -> Ticket:
    return await send(service, text, if_busy=IfBusy.STEER, **more)


async def until(agent: Steered, called: int) -> None:
    async with asyncio.timeout(60):
        while agent.called < called:
            await asyncio.sleep(0.01)


async def stands(service: Service, ticket: Ticket) -> tuple[RunStatus, JoinState | None, str | None, str | None]:
    view = await service.run(ANONYMOUS, ticket.run_id)
    return view.run.status, view.run.join, view.run.joined, view.phase


def test_a_joined_run_is_shown_with_its_host_and_ends_with_it() -> None:
    async def main(clock: VirtualClock) -> None:
        agent = Steered()
        async with serving(clock, agent.target, max_running=1) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait", metadata={"n": 1})
            assert (joined.position, joined.joined) == (0, host.run_id)
            view = await service.run(ANONYMOUS, joined.run_id)
            assert view.why is not None
            assert (view.why.code, view.phase) == (Reason.JOINS, "waiting")
            assert service.health().queue_depth == 1
            agent.go_on.release()
            await until(agent, 2)
            assert await stands(service, joined) == (RunStatus.RUNNING, JoinState.APPLIED, host.run_id, "model")
            assert (service.health().queue_depth, service.health().running) == (0, 1), "it takes no slot"
            agent.go_on.release()
            end = await outcome(joined)
            assert end.output == (await outcome(host)).output == "heard wait"
            assert [each["text"] for each in (await history(service))[2]["content"][1:]] == [SAID_MEANWHILE, "wait"]
            assert len(service._streams) == 0

    run_virtual(main)


def test_events_of_a_joined_run_are_its_own_then_those_of_its_host_kept_once() -> None:
    async def main(clock: VirtualClock) -> None:
        agent = Steered()
        async with serving(clock, agent.target) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait")
            read = joined.stream.subscribe()
            (queued,) = await read.next()
            assert isinstance(queued.event, RunQueued)
            assert (queued.event.position, queued.event.why and queued.event.why.code) == (0, Reason.JOINS)
            agent.let(2)
            events = [queued, *[each async for each in read]]
            kinds = [type_of(each.event) for each in events]
            assert kinds[:2] == ["run.queued", "run.joined"]
            assert kinds.count("run.finished") == 1
            numbers = [each.number for each in events if each.number is not None]
            assert numbers == sorted(set(numbers))
            assert read.is_over
            again = await service.stream(ANONYMOUS, joined.run_id)
            assert [each async for each in again.subscribe()] == events, "replayed"
            for each in events[:-1]:
                assert each.number is not None
                later = [one async for one in again.subscribe(each.number)]
                assert later == events[events.index(each) + 1 :]
            assert again.is_read(LAST)
            assert as_last(events[-1]).number == LAST
            seen = [each async for each in (await service.stream(ANONYMOUS, host.run_id)).subscribe()]
            assert [each for each in seen if isinstance(each.event, RunJoined)] == [events[1]]
            assert seen[-1] == events[-1]

    run_virtual(main)


def test_a_host_is_cancelled_only_when_the_clients_of_all_that_joined_are_lost() -> None:
    async def main(clock: VirtualClock) -> None:
        agent = Steered(3)
        async with serving(clock, agent.target) as service:
            host = await send(service, "go", on_disconnect=OnDisconnect.CANCEL)
            service.joined(host.run_id)
            await until(agent, 1)
            joined, other = await steer(service, "wait"), await steer(service, "and this")
            service.joined(joined.run_id)
            agent.go_on.release()
            await until(agent, 2)
            service.joined(other.run_id)
            service.left(host.run_id, lost=True)
            service.left(joined.run_id, lost=True)
            await asyncio.sleep(5)
            assert not (await service.run(ANONYMOUS, host.run_id)).run.cancel_requested
            service.left(other.run_id, lost=True)
            await asyncio.sleep(1.9)
            assert not (await service.run(ANONYMOUS, host.run_id)).run.cancel_requested
            await asyncio.sleep(0.2)
            assert (await service.run(ANONYMOUS, host.run_id)).run.cancel_requested
            await until_idle(service)
            ends = [await outcome(each) for each in (host, joined, other)]
            assert {end.status for end in ends} == {RunStatus.CANCELLED}

    run_virtual(main)


class SlowToJoin(MemoryJournal):
    """A journal whose answer to `apply_joins` comes when the test lets it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.applied, self.go_on = asyncio.Event(), asyncio.Event()
        self.fails = 0

    async def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead = as_sent
    ) -> list[JoinedInput]:
        if self.fails:
            self.fails -= 1
            raise JournalUnavailable("not now")
        found = await super().apply_joins(token, messages, as_read)
        self.applied.set()
        await self.go_on.wait()
        return found


def test_a_host_that_is_ended_while_a_message_is_on_its_way_leaves_it_as_the_next_run() -> None:
    """It was stored as joined; the host's messages lack it, and it is said once all the same."""

    async def main(clock: VirtualClock) -> None:
        agent, journal = Steered(), SlowToJoin(clock)
        async with serving(clock, agent.target, journal, cancel_grace_s=1.0) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait")
            watched = joined.stream.subscribe()
            agent.go_on.release()
            await journal.applied.wait()
            assert (await service.run(ANONYMOUS, joined.run_id)).run.join is JoinState.APPLIED
            await service.cancel(ANONYMOUS, host.run_id)
            assert (await outcome(host)).status is RunStatus.CANCELLED
            journal.go_on.set()
            await until(agent, 2)
            agent.let(2)
            assert (await outcome(joined)).output == "heard "
            assert (await stands(service, joined))[:3] == (RunStatus.SUCCEEDED, JoinState.BECAME_NEXT_RUN, None)
            assert texts(await history(service)).count("wait") == 1
            kinds = [type_of(each.event) async for each in watched]
            assert "run.joined" not in kinds
            assert kinds.count("run.started") == 1

    run_virtual(main)


@pytest.mark.parametrize("is_cancelled_too", [True, False])
@pytest.mark.parametrize("if_busy", [IfBusy.INTERRUPT, IfBusy.ROLLBACK])
def test_a_message_on_its_way_to_a_host_that_is_made_again_is_said_once(
    if_busy: IfBusy, is_cancelled_too: bool
) -> None:
    """It was stored as joined, so the run that replaces the host says it too; the host ends and has not heard of it."""

    async def main(clock: VirtualClock) -> None:
        agent, journal = Steered(), SlowToJoin(clock)
        async with serving(clock, agent.target, journal, cancel_grace_s=1.0) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait")
            agent.go_on.release()
            await journal.applied.wait()
            run, replaced = await service.repeatable(ANONYMOUS, host.run_id)
            again = await service.submit(Request(key=key(), input=run.input, if_busy=if_busy), again=replaced)
            if is_cancelled_too:
                await service.cancel(ANONYMOUS, host.run_id)
            assert (await outcome(joined)).status is (await outcome(host)).status is RunStatus.CANCELLED
            assert (await stands(service, joined))[:3] == (RunStatus.CANCELLED, JoinState.APPLIED, host.run_id)
            journal.go_on.set()
            agent.let(2)
            assert (await outcome(again)).status is RunStatus.SUCCEEDED
            assert await said_by(service, again) == ["go", "wait"]
            assert service.health().queue_depth == 0
            assert texts(await history(service)).count("wait") == 1
            query = HistoryQuery(key(), limit=100, discarded=True, superseded=True)
            page = await service._journal.read(query)
            assert [block.get("text") for block in page.messages[2]["content"][1:]] == [SAID_MEANWHILE, "wait"]

    run_virtual(main)


def test_a_journal_that_fails_keeps_it_waiting_for_the_next_call() -> None:
    async def main(clock: VirtualClock) -> None:
        agent, journal = Steered(3), SlowToJoin(clock)
        journal.go_on.set()
        async with serving(clock, agent.target, journal) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait")
            journal.fails = 1
            for _ in range(3):
                agent.go_on.release()
            assert (await outcome(host)).output == (await outcome(joined)).output == "heard wait"

    run_virtual(main)


def test_after_a_restart_clients_of_a_joined_run_get_the_events_of_its_host() -> None:
    async def main(clock: VirtualClock) -> None:
        agent, journal = Steered(), MemoryJournal(clock)
        async with serving(clock, agent.target, journal) as service:
            host = await send(service, "go")
            await until(agent, 1)
            joined, pending = await steer(service, "wait"), None
            agent.go_on.release()
            await until(agent, 2)
            pending = await steer(service, "and this")
        await journal.close()
        again = Steered()
        async with serving(clock, again.target, journal) as service:
            stream = await service.stream(ANONYMOUS, joined.run_id)
            events = stream.subscribe()
            again.let(2)
            async with asyncio.timeout(60):
                await until_idle(service)
            seen = [each.event async for each in events]
            assert isinstance(seen[0], RunRestarted)
            assert texts(seen[0].messages).count("wait") == 1
            assert isinstance(seen[-1], RunFinished)
            said = texts(await service.history(key(), include_tool_messages=True))
            assert [said.count("wait"), said.count("and this")] == [1, 1]
            for ticket in (host, joined, pending):
                assert ticket is not None
                assert (await service.run(ANONYMOUS, ticket.run_id)).run.status is RunStatus.SUCCEEDED

    run_virtual(main)


def test_a_forgotten_host_leaves_the_end_of_a_run_that_joined_it() -> None:
    async def main(clock: VirtualClock) -> None:
        agent = Steered()
        async with serving(clock, agent.target) as service:
            await send(service, "go")
            await until(agent, 1)
            joined = await steer(service, "wait")
            agent.let(2)
            await until_idle(service)
            service._streams._replay._drop(joined.joined or RunId(""))
            stream = await service.stream(ANONYMOUS, joined.run_id)
            events = [each.event async for each in stream.subscribe()]
            assert isinstance(events[-1], RunFinished)
            assert events[-1].output == "heard wait"

    run_virtual(main)


def test_what_another_sender_says_joins_only_where_the_setting_lets_it() -> None:
    ada, bob = Sender("1", "Ada"), Sender("2", "Bob")

    async def joined(clock: VirtualClock, **settings: Any) -> bool:
        agent = Steered()
        async with serving(clock, agent.target, trusted_senders=True, **settings) as service:
            host = await send(service, "go", sender=ada)
            await until(agent, 1)
            said = await steer(service, "and this", sender=bob)
            agent.let(4)
            await until_idle(service)
            return said.joined == host.run_id

    async def main(clock: VirtualClock) -> None:
        assert not await joined(clock)
        assert await joined(clock, join_senders="any")

    run_virtual(main)


def test_a_run_is_made_again_with_a_message_that_joined_it_meanwhile() -> None:
    """Between the read of what is to be said again and the accept of the run that says it."""

    async def main(clock: VirtualClock) -> None:
        agent = Steered(3)
        async with serving(clock, agent.target, max_running=1) as service:
            host = await send(service, "go")
            await until(agent, 1)
            await steer(service, "one")
            agent.let(1)
            await until(agent, 2)
            run, replaced = await service.repeatable(ANONYMOUS, host.run_id)
            await steer(service, "two")
            agent.let(1)
            await until(agent, 3)
            request = Request(key=key(), input=run.input, if_busy=IfBusy.INTERRUPT)
            interrupting = await service.submit(request, again=replaced)
            await until(agent, 4)
            assert await said_by(service, interrupting) == ["go", "one", "two"]
            agent.let(3)
            await outcome(interrupting)

            run, replaced = await service.repeatable(ANONYMOUS, interrupting.run_id)
            third = await service.submit(Request(key=key(), input=run.input), again=replaced)
            await until(agent, 7)
            await steer(service, "three")
            run, replaced = await service.repeatable(ANONYMOUS, third.run_id)
            agent.let(3)
            await outcome(third)
            fourth = await service.submit(Request(key=key(), input=run.input), again=replaced)
            await until(agent, 10)
            assert await said_by(service, fourth) == ["go", "one", "two", "three"], "it has ended since"
            agent.let(3)
            await outcome(fourth)

    run_virtual(main)


async def said_by(service: Service, ticket: Ticket) -> list[str]:
    run = await service._journal.read(RunQuery(ANONYMOUS, ticket.run_id))
    assert run is not None
    return [block["text"] for block in run.input] if isinstance(run.input, list) else [run.input]
