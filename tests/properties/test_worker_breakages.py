"""What can be wrong between a server and its workers is found by the simulation, in the worlds that have workers."""

import asyncio
from collections.abc import Callable
from itertools import count, islice

import pytest

from breakage_support import SEEDS, is_noticed
from simulation.journals import MemoryStore
from simulation.perils import Perils
from simulation.world import World
from strandline._engine.execution import Execution, ExecutionResult, Runner
from strandline._workers import messages as m
from strandline._workers.client import WorkerClient
from strandline._workers.loops import WorkerLoops
from strandline._workers.remote_call import RemoteCall
from strandline._workers.runtime import WorkerRuntime

Break = Callable[[pytest.MonkeyPatch], None]


def end_no_worker(patch: pytest.MonkeyPatch) -> None:
    """A worker that is to end continues for as long as it likes."""
    patch.setattr(WorkerClient, "end_if_idle", lambda end: None)


def think_it_dead_too_early(patch: pytest.MonkeyPatch) -> None:
    """A worker that is to end at once counts as dead, and continues for a while."""

    def kill(end: WorkerClient) -> None:
        end.leaving = end.dismissed = True
        end._channel = None
        end.dead()

    patch.setattr(WorkerClient, "kill", kill)


def lose_nothing(patch: pytest.MonkeyPatch) -> None:
    """What a dead worker had to do is still waited for."""
    patch.setattr(RemoteCall, "lose", RemoteCall.over)


def say_go_too_early(patch: pytest.MonkeyPatch) -> None:
    """A round's tools start before it is durable."""
    checkpoint = RemoteCall._checkpoint

    async def checkpointed(remote: RemoteCall, report: m.AttemptCall) -> None:
        if report.method == "begin_round":
            remote._send(m.Proceed(remote.number, allowed=True))
        await checkpoint(remote, report)

    patch.setattr(RemoteCall, "_checkpoint", checkpointed)


def take_reports_as_they_come(patch: pytest.MonkeyPatch) -> None:
    """What is reported after a round or a result does not wait until that is stored."""

    def receive(remote: RemoteCall, report: m.AttemptCall | m.Done) -> None:
        if isinstance(report, m.Done):
            remote._ended(report)
        elif report.method in m.AWAITED:
            remote._storing = asyncio.create_task(remote._checkpoint(report))
        else:
            remote._apply(report)

    patch.setattr(RemoteCall, "receive", receive)


def think_that_nothing_works_on(patch: pytest.MonkeyPatch) -> None:
    """A call that has ended in a worker counts as over, whatever works on for it there."""
    ended = RemoteCall._ended

    def over(remote: RemoteCall, report: m.Done) -> None:
        remote.over()
        ended(remote, report)

    patch.setattr(RemoteCall, "_ended", over)


def count_no_attempt(patch: pytest.MonkeyPatch) -> None:
    """A run whose worker has died is requeued as if it had never been tried."""

    async def uncounted(runner: Runner, execution: Execution) -> ExecutionResult:
        await runner._journal.release(execution.claim.token, counted=False)
        return ExecutionResult(claim=execution.claim, requeued=execution.loop_lost)

    patch.setattr(Runner, "_requeue", uncounted)


def go_on_whatever_was_done(patch: pytest.MonkeyPatch) -> None:
    """A run whose worker has died in one of its tools continues."""
    can_go_on = Runner._can_resume
    patch.setattr(
        Runner, "_can_resume", lambda runner, execution: is_loop_lost(execution) or can_go_on(runner, execution)
    )


def is_loop_lost(execution: Execution) -> bool:
    return execution.loop_lost


def replace_nobody(patch: pytest.MonkeyPatch) -> None:
    """Nothing takes the place of a worker that has died."""
    patch.setattr(WorkerLoops, "_replace", lambda loops, place, end: None)


def mix_agents_up(patch: pytest.MonkeyPatch) -> None:
    """A worker has another agent execute a run than the one that was made for it."""
    receive = WorkerRuntime._run

    def run(runtime: WorkerRuntime, order: m.Run) -> None:
        agents, runtime._agents = runtime._agents, dict.fromkeys(runtime._agents, next(iter(runtime._agents.values())))
        try:
            receive(runtime, order)
        finally:
            runtime._agents = agents

    patch.setattr(WorkerRuntime, "_run", run)


def has_workers(seed: int) -> bool:
    """Return whether the servers of a world have workers."""
    return Perils(seed).workers > 0


def has_holds_in_workers(seed: int) -> bool:
    """Return whether runs of a world may leave threads in workers, for which their sessions are held."""
    if not has_workers(seed):
        return False

    async def draw() -> World:
        return World(seed, make_store=MemoryStore)

    world = asyncio.run(draw())
    return world.traits.threads > 0.0 and world.traits.tools > 0.0 and world.options.hold_limit_s > 0.0


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a worker that is of no use and stays": (end_no_worker, 1000, "of no use"),
    "a worker that is thought dead too early": (think_it_dead_too_early, 2464, "executed at once"),
    "a death that nobody hears of": (lose_nothing, 1009, "waits for good"),
    "a round that begins too early": (say_go_too_early, 1196, "is forgotten"),
    "reports out of order": (take_reports_as_they_come, 3445, "its agent answered|the model said"),
    "a hold that is not taken": (think_that_nothing_works_on, 1025, "executed at once"),
    "an attempt that is not counted": (count_no_attempt, 1025, "was cut off and not counted"),
    "a tool in the middle that a run continues after": (go_on_whatever_was_done, 1021, "nobody knows what became of"),
    "a worker that nobody replaces": (replace_nobody, 1000, "waits for good|no rest"),
    "an agent of another session": (mix_agents_up, 1021, "the session had"),
}
"""Each with the seed at which the search begins: where few worlds show it, shortly before the first."""
WHERE: dict[str, Callable[[int], bool]] = {"a hold that is not taken": has_holds_in_workers}
"""The worlds in which those can be seen at all that few show: a search among all of them would rest on luck."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = islice(filter(WHERE.get(name, has_workers), count(first)), SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
