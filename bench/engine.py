"""The engine without HTTP: throughput, hand-off latency, and what age and load change, for each journal.

    python -m bench.engine [--quick]
    POSTGRES=postgresql://... python -m bench.engine      with a journal in an empty database besides

A no-op agent (an async function) is served by the real service on two loops, as `strandline serve` does. Absolute
figures depend on the machine; compare the ratios of one run.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import Progress as ProgressBar
from rich.table import Table

from strandline._agents.function import FunctionTarget, Session
from strandline._agents.port import Attempt, Finished, SessionAgent, Target
from strandline._clock import SystemClock
from strandline._engine.loops import AgentLoops
from strandline._engine.observers import UNOBSERVED, Observer
from strandline._engine.options import Options
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._history import Progress
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Journal
from strandline._journal.sqlite import SqliteJournal
from strandline._model import ANONYMOUS, AgentRecord, RunId, SessionId, SessionKey, Succeeded
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.scrape import Scrapes

MakeJournal = Callable[[Path, MetricsRecorder], Journal]
JOURNALS: dict[str, MakeJournal] = {
    "memory": lambda folder, recorder: MemoryJournal(SystemClock()),
    "sqlite": lambda folder, recorder: SqliteJournal(
        folder / "journal.db", SystemClock(), on_commit=recorder.committed
    ),
}
if "POSTGRES" in os.environ:
    JOURNALS["postgresql"] = lambda folder, recorder: in_postgres(os.environ["POSTGRES"], recorder)
SESSIONS = 50


def in_postgres(address: str, recorder: MetricsRecorder) -> Journal:
    """Return a journal in a schema of its own of the database at `address`; the schema stays."""
    from strandline._journal.postgres.journal import PostgresJournal
    from strandline._journal.postgres.wire import Wire

    schema = f"bench_{time.time_ns()}"
    wire = Wire(address)
    wire.execute(f"CREATE SCHEMA {schema}")
    wire.close()
    place = f"{address}{'&' if '?' in address else '?'}options=-csearch_path%3D{schema}"
    return PostgresJournal(place, SystemClock(), on_commit=recorder.committed)


class NoOp:
    """An agent that does nothing, and notes when it was started; one that holds its slot until it is let go."""

    def __init__(self) -> None:
        self.started = 0.0
        self.hold = asyncio.Event()

    async def answer(self, message: str, session: Session) -> str:
        self.started = time.perf_counter()
        if message == "hold":
            while not self.hold.is_set():
                await asyncio.sleep(0.05)
        return "done"


class Rounds:
    """A target whose agents do `rounds` rounds with one tool that does nothing; with `checkpoint` they report them."""

    resumable, singleton, self_managed = True, False, False
    description = "rounds"

    def __init__(self, *, checkpoint: bool) -> None:
        self.checkpoint = checkpoint
        self.waits: list[float] = []
        """How many seconds the tools of each round waited before they started."""

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        return RoundsAgent(self)


class RoundsAgent:
    """One session's."""

    def __init__(self, target: Rounds) -> None:
        self._target = target

    async def run(self, attempt: Attempt) -> Finished:
        attempt.add({"role": "user", "content": [{"text": "x"}]})
        use = {"toolUseId": "t1", "name": "tool", "input": {"n": 1}}
        result = {"toolUseId": "t1", "status": "success", "content": [{"text": "done"}]}
        attempt.add({"role": "assistant", "content": [{"toolUse": use}]})
        if self._target.checkpoint:
            began = time.perf_counter()
            await attempt.begin_round()
            self._target.waits.append(time.perf_counter() - began)
            await attempt.end_tool("t1", result)
        attempt.add({"role": "user", "content": [{"toolResult": result}]})
        if self._target.checkpoint:
            await attempt.end_round(None)
        attempt.add({"role": "assistant", "content": [{"text": "done"}]})
        return Finished(ending=Succeeded())

    def compact(self) -> None:
        """Keep nothing."""


def key(session: str) -> SessionKey:
    return SessionKey(ANONYMOUS, SessionId(session))


@asynccontextmanager
async def serving(
    make_journal: MakeJournal, agent: NoOp, target: Target | None = None, *, observed: bool = True, **options: Any
) -> AsyncIterator[Service]:
    numbers = count()
    loops = AgentLoops(executor_threads=8, clock=SystemClock(), new_loop=uvloop.new_event_loop)
    recorder = MetricsRecorder()
    observer: Observer = recorder if observed else UNOBSERVED
    with tempfile.TemporaryDirectory() as folder:
        service = Service(
            journal=make_journal(Path(folder), recorder),
            target=target or FunctionTarget(agent.answer, description="no-op"),
            loops=loops,
            clock=SystemClock(),
            new_run_id=lambda key: RunId(f"run_{next(numbers):09d}"),
            workspace=lambda key: folder,
            options=Options(**options),
            observer=observer,
        )
        await service.start()
        try:
            yield service
        finally:
            agent.hold.set()
            await service.drain()
            loops.close()


async def ask(service: Service, session: str, text: str = "x") -> None:
    ticket = await service.submit(Request(key=key(session), input=text))
    await ticket.stream.outcome()


async def checkpointing(make_journal: MakeJournal, samples: int, *, checkpoint: bool) -> dict[str, float]:
    """Return the milliseconds of a run with a round of one tool, and of the wait before it, and the CPU of such a run.

    The times are those of one client alone, with no other commit to be shared; the CPU is that of a run among many.
    """
    target = Rounds(checkpoint=checkpoint)
    async with serving(make_journal, NoOp(), target=target) as service:
        for _ in range(samples // 10):
            await ask(service, "s")
        target.waits.clear()
        times = []
        for _ in range(samples):
            sent = time.perf_counter()
            await ask(service, "s")
            times.append((time.perf_counter() - sent) * 1000)
        wait_ms = statistics.median(target.waits) * 1000 if target.waits else 0.0

        async def client(session: str) -> None:
            for _ in range(4 * samples // SESSIONS):
                await ask(service, session)

        cpu = time.process_time()
        await asyncio.gather(*(client(f"s{n}") for n in range(SESSIONS)))
        cpu = time.process_time() - cpu
        return {
            "run p50 ms": statistics.median(times),
            "wait p50 ms": wait_ms,
            "CPU us": cpu / (4 * samples // SESSIONS * SESSIONS) * 1e6,
        }


async def throughput(
    make_journal: MakeJournal, runs: int, *, keyed: bool = False, observed: bool = True
) -> dict[str, float]:
    """Return runs per second over 50 sessions, all sent as fast as the queues take them, and the CPU of one."""
    numbers = count()
    async with serving(make_journal, NoOp(), observed=observed) as service:

        def request(session: str) -> Request:
            if not keyed:
                return Request(key=key(session), input="x")
            return Request(key=key(session), input="x", idempotency_key=f"k{next(numbers)}", fingerprint=bytes(32))

        async def client(session: str) -> None:
            for _ in range(runs // SESSIONS // 10):
                tickets = [await service.submit(request(session)) for _ in range(10)]
                await tickets[-1].stream.outcome()

        await asyncio.gather(*(client(f"s{n}") for n in range(SESSIONS)))
        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(client(f"s{n}") for n in range(SESSIONS)))
        cpu = time.process_time() - cpu
        return {"runs/s": runs / (time.perf_counter() - started), "CPU us": cpu / runs * 1e6}


async def latency(make_journal: MakeJournal, samples: int, *, messages: int = 0) -> dict[str, float]:
    """Return the milliseconds from submit to the agent's start, and to the outcome, of one run on an idle session."""
    agent = NoOp()
    async with serving(make_journal, agent, max_queued_per_session=1000) as service:
        for _ in range(messages // 2):
            await ask(service, "s")
        await ask(service, "s")
        hand_off, round_trip = [], []
        for _ in range(samples):
            sent = time.perf_counter()
            await ask(service, "s")
            round_trip.append((time.perf_counter() - sent) * 1000)
            hand_off.append((agent.started - sent) * 1000)
        return {
            "hand-off p50 ms": statistics.median(hand_off),
            "hand-off p99 ms": statistics.quantiles(hand_off, n=100)[98],
            "round trip p50 ms": statistics.median(round_trip),
            "round trip p99 ms": statistics.quantiles(round_trip, n=100)[98],
        }


async def accept_under_load(make_journal: MakeJournal, waiting: int, samples: int, *, spread: bool) -> dict[str, float]:
    """Return the milliseconds that one accept takes while `waiting` runs wait, in 1,000 sessions or in one."""
    agent = NoOp()
    async with serving(
        make_journal, agent, max_running=1, max_queued=10_000_000, max_queued_per_session=10_000_000, drain_grace_s=5
    ) as service:
        await service.submit(Request(key=key("holder"), input="hold"))
        for first in range(0, waiting, 500):
            await asyncio.gather(
                *(
                    service.submit(Request(key=key(f"w{n % 1000 if spread else 0}"), input="x"))
                    for n in range(first, min(first + 500, waiting))
                )
            )
        times = []
        for n in range(samples):
            sent = time.perf_counter()
            await service.submit(Request(key=key(f"w{n % 1000 if spread else 0}"), input="x"))
            times.append((time.perf_counter() - sent) * 1000)
        return {"accept p50 ms": statistics.median(times)}


async def scrape(make_journal: MakeJournal, waiting: int, samples: int) -> dict[str, float]:
    """Return the milliseconds in which the serving loop puts a scrape together while runs wait in as many sessions."""
    agent = NoOp()
    async with serving(make_journal, agent, max_running=1, max_queued=waiting + 1) as service:
        await service.submit(Request(key=key("holder"), input="hold"))
        for first in range(0, waiting, 500):
            numbers = range(first, min(first + 500, waiting))
            await asyncio.gather(*(service.submit(Request(key=key(f"w{n}"), input="x")) for n in numbers))
        scrapes, times = Scrapes(service, MetricsRecorder(), None), []
        await scrapes.scrape("")
        for _ in range(samples):
            sent_at = time.perf_counter()
            await scrapes.scrape("")
            times.append((time.perf_counter() - sent_at) * 1000)
        return {"p50 ms": statistics.median(times), "p99 ms": sorted(times)[len(times) * 99 // 100]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, for a first look")
    parser.add_argument("--journal", choices=JOURNALS, help="only this one")
    args = parser.parse_args()
    scale = 10 if args.quick else 1
    runs, samples, many = 20_000 // scale, 2_000 // scale, 100_000 // scale
    rows: list[tuple[str, str, str, str]] = []
    console = Console()
    names = [args.journal] if args.journal else list(JOURNALS)
    with ProgressBar(console=console, transient=True) as progress:
        task = progress.add_task("engine", total=len(names) * 13)

        def measure(title: str, work: Coroutine[Any, Any, dict[str, float]]) -> dict[str, float]:
            progress.update(task, description=title)
            result = uvloop.run(work)
            progress.advance(task)
            return result

        for name in names:
            make = JOURNALS[name]
            first = measure(f"{name}: throughput", throughput(make, runs))
            rows.append((name, "throughput, 50 sessions", f"{first['runs/s']:,.0f} runs/s", ""))
            unseen = measure(f"{name}: without metrics", throughput(make, runs, observed=False))
            figures = f"{first['CPU us']:.0f} / {unseen['CPU us']:.0f} us"
            share = f"{first['CPU us'] / unseen['CPU us']:.2f}"
            rows.append((name, "CPU of a run with metrics / without", figures, share))
            scraped = measure(f"{name}: scrape", scrape(make, many // 10, samples // 10))
            figures = f"p50 {scraped['p50 ms']:.1f}, p99 {scraped['p99 ms']:.1f} ms"
            rows.append((name, f"a scrape while runs of {many // 10:,} sessions wait", figures, ""))
            keyed = measure(f"{name}: keys", throughput(make, runs, keyed=True))
            share = f"{keyed['CPU us'] / first['CPU us']:.2f}"
            figures = f"{keyed['CPU us']:.0f} / {first['CPU us']:.0f} us"
            rows.append((name, "CPU of a run with an idempotency key / without", figures, share))
            idle = measure(f"{name}: latency", latency(make, samples))
            rows += [(name, f"idle session, {title}", f"{value:.2f}", "") for title, value in idle.items()]
            none, one = (
                measure(f"{name}: checkpoints", checkpointing(make, samples, checkpoint=checkpoint))
                for checkpoint in (False, True)
            )
            rows.append(ratio(name, "run with a checkpointed tool call / without", one, none, "run p50 ms"))
            rows.append((name, "wait before the tools of a round", f"{one['wait p50 ms']:.3f} ms", ""))
            share = f"{one['CPU us'] / none['CPU us']:.2f}"
            rows.append(
                (name, "CPU of such a run, 50 sessions", f"{one['CPU us']:.0f} / {none['CPU us']:.0f} us", share)
            )
            short = measure(f"{name}: 10 messages", latency(make, samples, messages=10))
            long = measure(f"{name}: 1,000 messages", latency(make, samples, messages=1000))
            rows.append(ratio(name, "run with 1,000 messages / with 10", long, short, "round trip p50 ms"))
            for spread, where in ((True, "over 1,000 sessions"), (False, "in one session")):
                none = measure(f"{name}: accept", accept_under_load(make, 0, samples, spread=spread))
                title = f"accept with {many:,} waiting {where}"
                full = measure(f"{name}: {title}", accept_under_load(make, many, samples, spread=spread))
                rows.append(ratio(name, f"{title} / with none", full, none, "accept p50 ms"))
    table = Table("journal", "what", "measured", "ratio", title="Engine, without HTTP")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def ratio(
    name: str, title: str, top: dict[str, float], bottom: dict[str, float], figure: str
) -> tuple[str, str, str, str]:
    return (name, title, f"{top[figure]:.3f} / {bottom[figure]:.3f} ms", f"{top[figure] / bottom[figure]:.2f}")


if __name__ == "__main__":
    main()
