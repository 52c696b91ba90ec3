"""What is left of a worker when it is gone, silent or not wanted any more; most of it found by the simulation."""

import asyncio
from collections.abc import Callable

import pytest

from strandline._agents.port import AgentLost, Attempt, Finished, RunStopped
from strandline._clock import Clock
from strandline._engine.loops import CURRENT
from strandline._workers import messages as m
from strandline._workers.channel import Frames
from strandline._workers.runtime import WorkerRuntime
from strandline.errors import JournalUnavailable
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual
from workers_support import DONE, Few, Nowhere, RecordingAttempt, build, order, virtual


def test_what_a_worker_has_said_counts_although_its_death_is_heard_of_first() -> None:
    async def main(few: Few) -> None:
        call, worker = few.run(attempt := RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].over.set()
        await asyncio.sleep(0.5)
        assert not worker.is_free, "nothing begins there"
        few.all[0].report(m.AttemptCall(0, "add_text", ["last words"]), m.Done(call=0, resumable=True, finished=DONE))
        few.all[0].channel.connection_lost(None)
        assert await call.done == DONE
        assert attempt.reported == ["last words"]

    virtual(main)


def test_an_open_connection_of_a_dead_worker_is_neither_waited_for_nor_read() -> None:
    async def main(few: Few) -> None:
        call, _ = few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].over.set()
        with pytest.raises(AgentLost):
            await asyncio.wait_for(call.done, 2)
        assert not call.is_alive
        assert few.all[0].transport.is_gone, "no descriptor is left"
        few.all[0].report(m.Done(call=0, resumable=True, finished=DONE), m.WorkEnded(7), m.Ready(resumable=False))

    virtual(main)


def test_a_report_of_a_call_of_which_nothing_works_any_more_harms_nobody() -> None:
    async def main(few: Few) -> None:
        (call, worker), (other, _) = few.run(attempt := RecordingAttempt()), few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.Done(call=0, resumable=True, finished=DONE), m.AttemptCall(0, "add_text", ["late"]))
        assert await call.done == DONE
        few.all[0].report(m.AttemptCall(0, "end_tool", ["t1", {}]), m.Done(call=1, resumable=True, finished=DONE))
        assert await other.done == DONE
        assert attempt.reported == []
        assert worker.is_free

    virtual(main)


def test_a_call_that_has_ended_is_alive_until_its_worker_says_that_nothing_works_for_it() -> None:
    async def main(few: Few) -> None:
        call, worker = few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.Done(call=0, resumable=True, finished=DONE, alive=True))
        assert await call.done == DONE
        await asyncio.sleep(100)
        alive = [call.is_alive]
        few.all[0].report(m.WorkEnded(0))
        assert [*alive, call.is_alive] == [True, False]
        assert worker._remotes == {}

    virtual(main)


def test_results_that_wait_for_the_journal_are_taken_before_the_death_of_their_worker() -> None:
    async def main(few: Few) -> None:
        attempt = RecordingAttempt()
        call, _ = few.run(attempt)
        await asyncio.sleep(1)
        t1, t2 = (m.AttemptCall(0, "end_tool", [named, {}]) for named in ("t1", "t2"))
        few.all[0].report(t1, m.AttemptCall(0, "add_text", ["more"]), t2)
        few.all[0].dies()
        await asyncio.sleep(1)
        assert not call.done.done()
        attempt.gate.set()
        with pytest.raises(AgentLost):
            await call.done
        assert attempt.reported == ["t1", "more", "t2"]

    virtual(main)


def test_a_round_that_the_journal_does_not_take_is_not_waited_for_when_its_worker_dies() -> None:
    async def main(few: Few) -> None:
        call, _ = few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.AttemptCall(0, "begin_round", []), m.AttemptCall(0, "add_text", ["more"]))
        few.all[0].dies()
        with pytest.raises(AgentLost):
            await asyncio.wait_for(call.done, 1)

    virtual(main)


def test_no_tool_starts_before_its_round_is_durable_and_none_if_that_fails() -> None:
    async def main(few: Few) -> None:
        for error in (None, RunStopped(), JournalUnavailable("no room")):
            attempt = RecordingAttempt()
            attempt.error = error
            call, worker = few.run(attempt)
            await asyncio.sleep(1)
            number = max(worker._remotes)
            few.all[0].transport.written.clear()
            few.all[0].report(m.AttemptCall(number, "begin_round", []))
            await asyncio.sleep(1)
            assert few.all[0].orders() == []
            attempt.gate.set()
            await asyncio.sleep(1)
            assert m.Proceed(number, allowed=error is None) in few.all[0].orders()
            few.all[0].report(m.Done(call=number, resumable=True, finished=DONE))
            await asyncio.wait([call.done])

    virtual(main)


def test_what_a_tool_has_come_to_is_known_also_after_another_result_could_not_be_kept() -> None:
    async def main(few: Few) -> None:
        attempt = RecordingAttempt()
        attempt.error = JournalUnavailable("no room")
        attempt.gate.set()
        call, _ = few.run(attempt)
        await asyncio.sleep(1)
        few.all[0].report(m.AttemptCall(0, "end_tool", ["t1", {}]), m.AttemptCall(0, "end_tool", ["t2", {}]))
        few.all[0].report(m.Done(call=0, resumable=True, failure=m.Failure("CancelledError", "", cancelled=True)))
        with pytest.raises(JournalUnavailable):
            await call.done
        assert attempt.reported == ["t1", "t2"]

    virtual(main)


@pytest.mark.parametrize("refused", [False, True])
def test_one_worker_takes_the_place_of_one(refused: bool) -> None:
    """The one that is ended dies when another has its place, or while none is to be had."""

    async def main(few: Few) -> None:
        call, _ = few.run(RecordingAttempt())
        await asyncio.sleep(20)
        few.refuses = refused
        few.loops.replace(call)
        assert few.killed() == [0]
        few.refuses = False
        few.all[0].dies()
        await asyncio.sleep(5)
        assert few.in_use() == [1]
        assert [worker.pid for worker in few.loops._workers] == [1]

    virtual(main)


def test_a_worker_that_is_to_end_and_is_silent_is_ended_at_once() -> None:
    """Others that execute there would wait for it until their time is up."""

    async def main(few: Few) -> None:
        (straggler, _), (_, worker) = few.run(RecordingAttempt()), few.run(RecordingAttempt())
        await asyncio.sleep(1)
        straggler.abandon(DONE)
        few.loops.drain(straggler)
        few.loops.beat()
        await asyncio.sleep(5)
        few.loops.beat()
        assert few.killed() == [], "somebody waits for what executes there"
        assert few.loops.silent_s(straggler) == pytest.approx(5)
        few.loops.replace(straggler)
        assert few.killed() == [0]
        assert worker.pid not in [each.pid for each in few.loops._workers]
        assert few.loops.silent_s(straggler) == 0.0, "once"
        assert few.loops.load().given_up == 1

    virtual(main)


def test_a_worker_is_not_ended_between_the_making_of_an_agent_and_its_run() -> None:
    async def main(few: Few) -> None:
        worker = few.loops._workers[0]

        async def works() -> object:
            call = CURRENT.get()
            assert call is not None
            await worker.execute(build(worker.number()), call, None)
            await asyncio.sleep(1)
            return await worker.execute(order(worker.number()), call, RecordingAttempt())  # type: ignore[arg-type]

        call = few.loops.start(works)
        straggler, _ = few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.Done(call=0, resumable=True))
        straggler.abandon(DONE)
        await asyncio.sleep(0.5)
        few.loops.drain(straggler)
        await asyncio.sleep(1)
        few.loops.beat()
        assert few.killed() == []
        few.all[0].report(m.Done(call=2, resumable=True, finished=DONE))
        assert await call.done == DONE
        few.loops.beat()
        assert few.killed() == [0]

    virtual(main)


def test_a_run_that_is_about_to_begin_in_a_worker_does_so_before_that_is_ended() -> None:
    async def main(few: Few) -> None:
        straggler, _ = few.run(RecordingAttempt())
        await asyncio.sleep(1)
        straggler.abandon(DONE)
        await asyncio.sleep(0)
        few.run(RecordingAttempt())  # with an agent that was there, which has just been taken out of the pool
        few.loops.drain(straggler)
        await asyncio.sleep(1)
        assert few.killed() == []

    virtual(main)


def test_what_is_known_of_the_tools_is_known_while_no_worker_takes_calls() -> None:
    async def main(few: Few) -> None:
        few.run()
        await asyncio.sleep(1)
        few.all[0].report(m.Done(call=0, resumable=False))
        assert not few.loops.resumable
        few.are_ready = False
        await asyncio.sleep(20)
        few.all[0].dies()
        assert not few.loops.resumable, "while it is dead"
        await asyncio.sleep(5)
        assert few.in_use() == [1]
        assert not few.loops.resumable, "while another one begins"
        few.all[1].report(m.Ready(resumable=True))
        assert [few.loops.resumable] == [True]

    virtual(main)


class Alone:
    """A target and its only agent: `does` is what it does with an attempt."""

    resumable, singleton, self_managed = True, False, False
    description = "a target"

    def __init__(self, does: Callable[[Attempt], object]) -> None:
        self._does = does

    async def build(self, *given: object) -> "Alone":
        return self

    async def run(self, attempt: Attempt) -> Finished:
        self._does(attempt)
        return DONE

    def compact(self) -> None:
        """Nothing."""


def alone(does: Callable[[Attempt], object], clock: Clock) -> tuple[WorkerRuntime, Nowhere]:
    target, transport = Alone(does), Nowhere()
    runtime = WorkerRuntime(
        target, InlineLoops(), clock, lambda carrier: None, on_exit=lambda: None, on_close=lambda: None
    )
    runtime.channel.connection_made(transport)
    runtime._agents[0] = target
    return runtime, transport


def test_phases_are_reported_before_they_start() -> None:
    """It may block the loop: then it has to be known what does."""
    reported: list[bytes] = []

    async def main(clock: VirtualClock) -> None:
        def does(attempt: Attempt) -> None:
            attempt.begin_tool("t1", "sleep", {})
            reported.extend(transport.written)

        runtime, transport = alone(does, clock)
        runtime._receive(order(1))
        await asyncio.sleep(1)
        assert b"begin_tool" in b"".join(reported)
        for written in transport.written:
            assert list(Frames().feed(written)) != [b"[]"], "nothing is said twice, and no empty frame"

    run_virtual(main)


def test_a_run_that_was_to_end_before_it_could_begin_does_not_begin() -> None:
    """The order to execute it waited for a loop that another run had blocked."""
    began: list[Attempt] = []

    async def main(clock: VirtualClock) -> None:
        runtime, transport = alone(began.append, clock)
        runtime._receive(order(1))
        runtime._receive(m.Signal(1))
        await asyncio.sleep(1)
        assert began == []
        assert b"RunStopped" in b"".join(transport.written)
        runtime._receive(order(2))
        await asyncio.sleep(1)
        assert len(began) == 1

    run_virtual(main)


def test_a_worker_that_answers_while_the_loop_of_its_agents_does_not_counts_as_silent() -> None:
    """For as long as it said, and since then; until it says that the loop is well."""

    async def main(few: Few) -> None:
        call, _ = few.run(RecordingAttempt())
        few.loops.beat()
        few.all[0].report(m.Heartbeat(silent_s=2.0, running=None, backlog=0))
        await asyncio.sleep(3)
        assert few.loops.silent_s(call) == pytest.approx(5)
        few.all[0].report(m.Heartbeat(silent_s=0.0, running=None, backlog=0))
        await asyncio.sleep(3)
        assert few.loops.silent_s(call) == 0.0

    virtual(main)
