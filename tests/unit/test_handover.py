"""Sessions that move between servers: what executed is recovered, and nothing of ceded ones is kept."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine_support import Played, echo, key, outcome, send, serving, until_idle
from strandline._agents.port import Attempt
from strandline._clock import Clock
from strandline._engine.events import RunStarted
from strandline._engine.observers import UNOBSERVED
from strandline._engine.streams import Later
from strandline._journal.errors import ClaimLost
from strandline._journal.memory import MemoryJournal
from strandline._journal.partitions import moved, partition_of
from strandline._journal.port import Bounds, Ceded, Change, ChangeAnswer, ClaimResult, EndOverdue, Gained, Pause
from strandline._model import ANONYMOUS, Claim, NewRun, Outcome, RoundStarted, RunId, RunStatus, SessionKey
from strandline.errors import JournalUnavailable, NotOwner
from strandline.testing._desk import said
from strandline.testing._virtual import VirtualClock, run_virtual

WIDE = Bounds(99, 99)


class Moving(MemoryJournal):
    """A journal of which a test moves sessions. `late`: what was executing is gained some time after the start."""

    def __init__(self, clock: Clock, *, late: bool = False) -> None:
        super().__init__(clock)
        self.late = late
        self.orphans: list[Claim] = []
        self.foreign: set[SessionKey] = set()
        self.fails = 0
        self.left = 0
        self._moves: asyncio.Queue[Gained | Ceded] = asyncio.Queue()

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        self.orphans = await super().open(owner, max_attempts=max_attempts)
        return [] if self.late else self.orphans

    def gain(self) -> None:
        self._moves.put_nowait(
            Gained(frozenset(map(partition_of, {each.run.key for each in self.orphans})), self.orphans)
        )

    def cede(self, *sessions: SessionKey) -> None:
        self._moves.put_nowait(Ceded(frozenset(map(partition_of, sessions))))

    async def moves(self) -> AsyncIterator[Gained | Ceded]:
        while True:
            yield await self._moves.get()

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        if key in self.foreign:
            await super().change(Pause(key))  # (a table that does not own a session would not claim in it)
            raise moved(partition_of(key))
        return await super().claim_next(key)

    async def change(self, change: Change) -> ChangeAnswer:
        if isinstance(change, EndOverdue) and change.key in self.foreign:
            raise moved(partition_of(change.key))
        return await super().change(change)

    async def release(self, token: object, *, counted: bool) -> None:
        if self.fails:
            self.fails -= 1
            raise JournalUnavailable("the disk is full")
        await super().release(token, counted=counted)  # type: ignore[arg-type]

    async def leave(self) -> None:
        self.left += 1
        if self.fails:
            raise JournalUnavailable("the database is away")


async def left_executing(journal: MemoryJournal, run_id: str, session: str, *, in_a_tool: bool = False) -> None:
    """Have a run execute at a server that dies."""
    await journal.open("dead", max_attempts=3)
    new = NewRun(run_id=RunId(run_id), key=key(session), input="hello", created_at=0.0)
    await journal.accept(new, WIDE, claim_next=True)
    claim = await anext(journal.claims())
    if in_a_tool:
        use = {"toolUse": {"toolUseId": "t", "name": "tool", "input": {}}}
        await journal.checkpoint(
            claim.token, RoundStarted([*said("hello")[:1], {"role": "assistant", "content": [use]}])
        )


class Seen(type(UNOBSERVED)):  # type: ignore[misc]
    """Notes outcomes."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        self.outcomes.append(outcome)


def test_a_run_of_a_gained_session_goes_on_as_one_of_the_first_gain_does() -> None:
    async def main(clock: VirtualClock) -> None:
        for late in (False, True):
            journal = Moving(clock, late=late)
            await left_executing(journal, "a", "s")
            async with serving(clock, Played(echo), journal) as service:
                if late:
                    await asyncio.sleep(5)
                    assert (await service.run(ANONYMOUS, RunId("a"))).run.status is RunStatus.RUNNING
                    journal.gain()
                view = await service.wait(ANONYMOUS, RunId("a"), 30)
                assert (view.run.status, view.run.attempt) == (RunStatus.SUCCEEDED, 2)

    run_virtual(main)


def test_clients_of_a_gained_run_with_a_tool_in_the_middle_get_its_end_and_so_do_observers() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, seen = Moving(clock, late=True), Seen()
        await left_executing(journal, "a", "s", in_a_tool=True)
        async with serving(clock, Played(echo), journal, observer=seen) as service:
            waiting = asyncio.create_task(service.wait(ANONYMOUS, RunId("a"), 30))
            await asyncio.sleep(1)
            began = clock.monotonic()
            journal.gain()
            view = await waiting
            assert clock.monotonic() - began < 1
            assert view.run.outcome is not None
            assert view.run.outcome.error is not None
            assert (view.run.status, view.run.outcome.error.code) == (RunStatus.FAILED, "crashed")
        assert [each.status for each in seen.outcomes] == [RunStatus.FAILED]

    run_virtual(main)


def test_what_was_gained_is_recovered_as_soon_as_the_journal_can() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Moving(clock, late=True)
        await left_executing(journal, "a", "s")
        async with serving(clock, Played(echo), journal) as service:
            journal.fails = 3
            journal.gain()
            view = await service.wait(ANONYMOUS, RunId("a"), 30)
            assert (view.run.status, journal.fails) == (RunStatus.SUCCEEDED, 0)

    run_virtual(main)


def test_an_agent_of_a_ceded_session_is_not_used_again_when_the_session_comes_back() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, target = Moving(clock), Played(echo)
        async with serving(clock, target, journal, max_agents=9) as service:
            for session in ("s", "other"):
                await outcome(await send(service, "one", session))
            await until_idle(service)
            journal.cede(key("s"))
            await asyncio.sleep(0.1)
            for session in ("s", "other"):
                await outcome(await send(service, "two", session))
            assert [built.session_id for built, _, _ in target.built] == ["s", "other", "s"]

    run_virtual(main)


@pytest.mark.parametrize("in_a_tool", [False, True])
def test_a_gained_run_whose_cancel_was_accepted_before_it_was_recovered_ends_as_cancelled(in_a_tool: bool) -> None:
    class Slow(Moving):
        """A journal that a test holds before it hands over what it has gained."""

        async def finish(self, *given: object, **more: object) -> ClaimResult:
            if self.fails:
                self.fails -= 1
                raise JournalUnavailable("the disk is full")
            return await super().finish(*given, **more)  # type: ignore[arg-type]

    async def main(clock: VirtualClock) -> None:
        journal = Slow(clock, late=True)
        await left_executing(journal, "a", "s", in_a_tool=in_a_tool)
        async with serving(clock, Played(echo), journal) as service:
            journal.fails = 1
            journal.gain()
            await asyncio.sleep(0.5)
            assert (await service.cancel(ANONYMOUS, RunId("a"))).run.cancel_requested
            view = await service.wait(ANONYMOUS, RunId("a"), 30)
            assert view.run.status is RunStatus.CANCELLED
            await outcome(await send(service, "next", "s"))

    run_virtual(main)


def test_what_is_ceded_is_dropped_at_once_although_something_gained_cannot_be_recovered_yet() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, target = Moving(clock, late=True), Played(echo)
        await left_executing(journal, "a", "gained")
        async with serving(clock, target, journal, max_agents=9) as service:
            await outcome(await send(service, "one", "s"))
            journal.fails = 100
            journal.gain()
            journal.cede(key("s"))
            await asyncio.sleep(0.1)
            await outcome(await send(service, "two", "s"))
            assert [built.session_id for built, _, _ in target.built] == ["s", "s"]

    run_virtual(main)


def test_a_gained_run_that_cannot_be_recovered_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Moving):
        async def release(self, token: object, *, counted: bool) -> None:
            if not self.left:
                self.left = 1
                raise ClaimLost("it is another server's")
            await super().release(token, counted=counted)

    async def main(clock: VirtualClock) -> None:
        journal = Broken(clock, late=True)
        for run_id in ("a", "b"):
            await left_executing(journal, run_id, run_id)
        async with serving(clock, Played(echo), journal) as service:
            journal.gain()
            assert (await service.wait(ANONYMOUS, RunId("b"), 30)).run.status is RunStatus.SUCCEEDED

    run_virtual(main)
    assert any("could not be recovered" in each.getMessage() for each in caplog.records)


def test_clients_of_a_ceded_session_are_told_that_its_runs_go_on_later_and_others_wait_on() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Moving(clock)
        async with serving(clock, Played(echo), journal) as service:
            for session in ("s", "other"):
                await outcome(await send(service, "one", session))
                await service.pause(key(session))
            ceded, kept = await send(service, "two", "s"), await send(service, "two", "other")
            ends = [each.stream.outcome() for each in (ceded, kept)]
            journal.cede(key("s"))
            await asyncio.sleep(0.1)
            assert ends[0].result() is Later.LATER
            assert not ends[1].done()
            ended = (await service.stream(ANONYMOUS, ceded.run_id)).closed
            assert not ended, "the run still waits in this journal"

    run_virtual(main)


def test_events_of_ended_runs_of_a_ceded_session_are_not_kept() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Moving(clock)
        async with serving(clock, Played(echo), journal) as service:
            tickets = [await send(service, "one", session) for session in ("s", "other")]
            for ticket in tickets:
                await outcome(ticket)
            journal.cede(key("s"))
            await asyncio.sleep(0.1)
            streams = [await service.stream(ANONYMOUS, each.run_id) for each in tickets]
            for each in streams:
                each.flush()
            begun = [any(isinstance(found.event, RunStarted) for found in each.since(0)) for each in streams]
            assert begun == [False, True]

    run_virtual(main)


def test_a_session_that_has_just_moved_is_neither_claimed_nor_ended_here_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Moving(clock)

        async def forever(attempt: Attempt) -> str:
            await asyncio.sleep(50)
            return "done"

        async with serving(clock, Played(forever), journal, max_running=1) as service:
            await send(service, "one", "busy")
            await send(service, "two", "s", queue_timeout_s=10)
            journal.foreign.add(key("s"))
            await asyncio.sleep(60)
            assert service.health().running == 0

    run_virtual(main)
    assert not caplog.records


def test_a_server_that_stops_hands_over_what_rests_and_stops_as_well_if_it_cannot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        async def slow(attempt: Attempt) -> str:
            await asyncio.sleep(5)
            return "done"

        for fails in (0, 1):
            journal = Moving(clock)
            async with serving(clock, Played(slow), journal) as service:
                ticket = await send(service, "one")
                await asyncio.sleep(1)
                journal.fails = fails
                await service.drain()
                assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            assert journal.left == 1

    run_virtual(main)
    assert [each.levelname for each in caplog.records] == ["WARNING"]


class Elsewhere:
    """A cluster in which this server owns everything, until it owns nothing any more."""

    def __init__(self) -> None:
        self.is_ours = True

    def owns(self, partition: int) -> bool:
        return self.is_ours


class CedingAtOnce(MemoryJournal):
    """A journal whose sessions are another server's as soon as a change of one is durable."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.cluster = Elsewhere()
        self.changes = 0

    async def pause_for_good(self, session: SessionKey) -> None:
        await super().change(Pause(session))

    async def change(self, change: Change) -> ChangeAnswer:
        answer = await super().change(change)
        self.changes += 1
        self.cluster.is_ours = False
        return answer


@pytest.mark.parametrize("name", ["cancel", "move", "pause", "resume"])
def test_a_change_is_answered_although_its_session_has_moved_since_and_so_is_not_made_twice(name: str) -> None:
    """It would be passed on to the new owner, where a cancel comes too late."""

    async def main(clock: VirtualClock) -> None:
        journal = CedingAtOnce(clock)
        async with serving(clock, Played(echo), journal) as service:
            ticket = await send(service, "one", "s")
            await ticket.outcome()
            await journal.pause_for_good(key("s"))
            waiting = await send(service, "two", "s")
            match name:
                case "cancel":
                    view = await service.cancel(ANONYMOUS, waiting.run_id)
                    assert view.run.status is RunStatus.CANCELLED
                case "move":
                    view = await service.move(ANONYMOUS, waiting.run_id, 1)
                    assert view.run.priority == 1
                case "pause":
                    assert (await service.pause(key("s"))).paused
                case _:
                    assert not (await service.resume(key("s"))).paused
            assert journal.changes == 1
            with pytest.raises(NotOwner):
                await service.cancel(ANONYMOUS, waiting.run_id)
            journal.cluster.is_ours = True

    run_virtual(main)
