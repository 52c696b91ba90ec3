"""Several servers over one PostgreSQL, which `python -m bench.servers [--quick]` starts for itself (`make bench`).

- *Engine*: the same runs on SQLite and on PostgreSQL, without HTTP; both wait for the disk (`fsync`).
- *Forwarded*: one client, whose session the server owns or another one does; then 16 clients, all of another server's
  sessions. What the first server's processor time is of the owner's. The same for the pieces of a stream.
- *Takeover*: `kill -9` of a server in whose sessions runs wait, until the other one has ended the first of them.
- *Two servers*: 64 clients of one server, then of two, where half of the requests are forwarded, as behind a balancer
  that knows nothing of owners. Answers a second only show something with four cores or more (the servers have one
  each, PostgreSQL and the load generator the others); the processor time of an answer shows it anywhere.

Servers have one core, or one each, PostgreSQL and load another one. The figures depend on the machine: compare ratios.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import engine, stream
from bench.load import CHAT, Load, Speech, chat, connect, drive, quantile, request
from bench.processes import ROOT, STRANDLINE, Server, cores, cpu_s, pinned, server
from strandline._clock import SystemClock
from strandline._journal.partitions import partition_of
from strandline._journal.port import Journal
from strandline._journal.postgres import schema
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.wire import Wire
from strandline._model import ANONYMOUS, SessionId, SessionKey
from strandline._telemetry.recorder import MetricsRecorder
from tools.postgres import Cluster, why_no_postgres

SCRIPTED: Final = str(ROOT / "bench" / "agents" / "scripted.py")
STREAMING: Final = str(ROOT / "bench" / "agents" / "streaming.py")
MANY, SOME = 64, 16
RATE, CHUNKS = 200, 200
SHARED_S: Final = 30.0
"""How long two servers have to share the partitions."""
LEASE_S: Final = 10.0
ENOUGH_CORES: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long."""

    repetitions: int
    runs: int
    samples: int
    seconds: float
    waiting: int


FULL = Plan(repetitions=5, runs=10_000, samples=1000, seconds=2.0, waiting=10_000)
QUICK = Plan(repetitions=1, runs=2000, samples=200, seconds=1.0, waiting=1000)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    what: str
    measured: str
    ratio: str
    goal: str


def fraction(top: float, bottom: float) -> str:
    return f"{top / bottom:.2f}"


# -- the database -------------------------------------------------------------------------------------


class Database:
    """A database of a cluster, and what its processes take."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.url = cluster.new_database()
        wire = Wire(self.url)
        schema.migrate(wire)
        wire.close()

    def cpu_s(self) -> float:
        """Return the processor time of all processes that PostgreSQL has and had; 0 where that cannot be seen."""
        parent = int((self._cluster.folder / "data" / "postmaster.pid").read_text().split()[0])
        return cpu_s(parent, ended_children=True) + sum(cpu_s(pid) for pid in _children(parent))

    def owners(self) -> dict[int, int]:
        """Return the process of the server that owns each partition."""
        wire = Wire(self.url)
        found = wire.execute(
            "SELECT p, split_part(name, ' ', 2)::bigint FROM partitions JOIN servers ON id = owner WHERE alive"
        ).fetchall()
        wire.close()
        return dict(found)


def _children(parent: int) -> Iterator[int]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(place.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(place.parent.name)
        except OSError:
            continue  # it has ended


# -- the engine ---------------------------------------------------------------------------------------


def engines(cluster: Cluster, plan: Plan) -> list[Row]:
    """Compare the engine on PostgreSQL with that on SQLite, in turns."""
    committed = 0

    def on_commit(took_s: float, operations: int) -> None:
        nonlocal committed
        committed += 1

    def postgres(folder: Path, recorder: MetricsRecorder) -> Journal:
        return PostgresJournal(database.url, SystemClock(), on_commit=on_commit)

    makes: dict[str, engine.MakeJournal] = {"sqlite": engine.JOURNALS["sqlite"], "postgresql": postgres}
    per_s: dict[str, list[float]] = {name: [] for name in makes}
    idle_ms: dict[str, list[float]] = {name: [] for name in makes}
    used_us, together = [], []
    for _ in range(plan.repetitions):
        for name, make in makes.items():
            database = Database(cluster)
            before, committed = database.cpu_s(), 0
            per_s[name].append(uvloop.run(engine.throughput(make, plan.runs))["runs/s"])
            if name == "postgresql":
                runs = 2 * plan.runs  # as many before anything is measured
                used_us.append((database.cpu_s() - before) / runs * 1e6)
                together.append(runs / committed)
            database = Database(cluster)  # the ids of the runs are the same again
            idle_ms[name].append(uvloop.run(engine.latency(make, plan.samples))["round trip p50 ms"])
    fast, here = (median(per_s[name]) for name in makes)
    base, idle = (median(idle_ms[name]) for name in makes)
    return [
        Row("Engine: runs/s on PostgreSQL / SQLite", f"{here:,.0f} / {fast:,.0f}", fraction(here, fast), ">= 0.6"),
        Row("Engine: an idle round trip, ms", f"{idle:.2f} / {base:.2f}", fraction(idle, base), "<= 1.7"),
        Row(
            "PostgreSQL's processor time of a run, us",
            f"{median(used_us):.0f}, with {median(together):.0f} runs a commit",
            "",
            "<= 90 with 25",
        ),
    ]


# -- two servers --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Pair:
    """Two servers over one database, and who owns which sessions."""

    first: Server
    second: Server
    database: Database
    _numbers: Iterator[int] = field(default_factory=count)

    def sessions_of(self, owner: Server) -> Iterator[str]:
        """Name sessions that this server owns, another one each time."""
        owners = self.database.owners()
        for number in self._numbers:
            name = f"of-{number}"
            if owners[partition_of(SessionKey(ANONYMOUS, SessionId(name)))] == owner.pid:
                yield name

    async def shared(self) -> None:
        """Return when each owns half."""
        async with asyncio.timeout(SHARED_S):
            while True:
                owned = list(self.database.owners().values())
                if len(owned) == 256 and 100 < owned.count(self.first.pid) < 156:
                    return
                await asyncio.sleep(0.2)


@contextmanager
def pair(cluster: Cluster, agent: str, cores_of: Sequence[set[int]], *options: str) -> Iterator[Pair]:
    """Start two servers; `options` are those of the second one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strandline-bench-")))
        database = Database(cluster)
        command = [*STRANDLINE, agent, "--port", "0", "--journal", database.url]
        started = [
            stack.enter_context(server([*command, *more], core, folder / f"{number}.log"))
            for number, (more, core) in enumerate(zip(((), options), cores_of, strict=True))
        ]
        found = Pair(started[0], started[1], database)
        uvloop.run(found.shared())
        yield found


def mapped(names: Sequence[str]) -> Speech:
    """Return how clients ask that each have one of these sessions."""
    left = iter(names)
    return replace(CHAT, ask=lambda url, name: chat(url, next(left)))


def p50_ms(loads: Sequence[Load]) -> float:
    return median(quantile(each.latencies_s, 0.5) * 1000 for each in loads)


def sound(*loads: Load) -> None:
    """Raise if a request failed: nothing measured would count."""
    for load in loads:
        if load.failures:
            raise SystemExit(f"{len(load.failures)} requests failed, e.g. {load.failures[0]}")


def forwarded(cluster: Cluster, plan: Plan) -> list[Row]:
    """Compare requests for a server's own sessions with those that it forwards."""
    core, own_core = cores()
    with pair(cluster, SCRIPTED, (core, core)) as both, pinned(own_core):
        first, second = both.first, both.second
        own, foreign = next(both.sessions_of(first)), next(both.sessions_of(second))
        others = list(islice(both.sessions_of(second), SOME))
        for name in (own, foreign):
            sound(uvloop.run(drive(first.url, 1, turns=20, session=name)))
        sound(uvloop.run(drive(first.url, SOME, turns=20, speech=mapped(others))))
        direct, passed = list[Load](), list[Load]()
        at_first, at_owner, alone = list[float](), list[float](), list[float]()
        for _ in range(plan.repetitions):
            direct.append(uvloop.run(drive(first.url, 1, seconds=plan.seconds, session=own)))
            passed.append(uvloop.run(drive(first.url, 1, seconds=plan.seconds, session=foreign)))
            for url, there in ((first.url, at_owner), (second.url, alone)):
                before = cpu_s(first.pid), cpu_s(second.pid)
                load = uvloop.run(drive(url, SOME, seconds=plan.seconds, speech=mapped(others)))
                sound(load)
                answers = len(load.latencies_s)
                there.append((cpu_s(second.pid) - before[1]) / answers * 1e6)
                if there is at_owner:
                    at_first.append((cpu_s(first.pid) - before[0]) / answers * 1e6)
        sound(*direct, *passed)
    one, more = p50_ms(direct), p50_ms(passed)
    cost, owner = median(at_first), median(at_owner)
    return [
        Row("A forwarded request, ms more than an own one", f"{more:.2f} - {one:.2f} = {more - one:.2f}", "", "<= 0.4"),
        Row(
            "Its processor time at the first server / at the owner, us",
            f"{cost:,.0f} / {owner:,.0f} ({median(alone):,.0f} asked directly)",
            fraction(cost, owner),
            "<= 0.25",
        ),
    ]


def pieces(cluster: Cluster, plan: Plan) -> list[Row]:
    """Compare the pieces of a stream of a server's own session with those that come from another server."""
    core, own_core = cores()
    with pair(cluster, STREAMING, (core, core)) as both, pinned(own_core):
        late: dict[str, list[float]] = {"own": [], "foreign": []}
        names = {
            "own": next(both.sessions_of(both.first)),
            "foreign": next(both.sessions_of(both.second)),
        }
        for _ in range(plan.repetitions):
            for whose, name in names.items():
                ask = _stream_of(name)
                heard = uvloop.run(stream.streams(both.first, ask, 1, RATE, CHUNKS, 2))
                late[whose].append(quantile(heard.late_s, 0.5) * 1000)
    own, foreign = (median(late[whose]) for whose in names)
    measured = f"{foreign:.2f} - {own:.2f} = {foreign - own:.2f}"
    return [Row("A piece of a forwarded stream, ms later than an own one", measured, "", "<= 0.5")]


def _stream_of(session: str) -> stream.Ask:
    return lambda url, _, question: stream.v1(url, session, question)


async def _fill(pair_of: Pair, waiting: int) -> str:
    """Let a run of the second server hold its only slot, and runs in 1,000 of its sessions wait. Returns the first."""
    names = list(islice(pair_of.sessions_of(pair_of.second), 1001))
    url = pair_of.second.url

    async def accept(session: str, text: str) -> str:
        client = await connect(url)
        status, body = await client.ask(_accepting(url, session, text))
        client.close()
        if status != 202:
            raise SystemExit(f"a run was not accepted: {status} {body[:200]!r}")
        run_id: str = json.loads(body)["run_id"]
        return run_id

    await accept(names[0], "hold")
    first = await accept(names[1], "1000 1")
    sessions = (names[1 + number % 1000] for number in range(1, waiting))

    async def accept_some() -> None:
        client = await connect(url)
        for session in sessions:
            status, body = await client.ask(_accepting(url, session, "1000 1"))
            if status != 202:
                raise SystemExit(f"a run was not accepted: {status} {body[:200]!r}")
        client.close()

    await asyncio.gather(*(accept_some() for _ in range(SOME)))
    return first


def _accepting(url: str, session: str, text: str) -> bytes:
    return request(url, "POST", f"/v1/sessions/{session}/runs", {"input": text}, Prefer="respond-async")


async def _until_ended(url: str, run_id: str) -> None:
    while True:
        answer = await stream.answered(url, "GET", f"/v1/runs/{run_id}")
        if answer.get("status") == "succeeded":
            return
        await asyncio.sleep(0.02)


def takeover(cluster: Cluster, plan: Plan) -> list[Row]:
    """Kill a server in whose sessions runs wait."""
    core, own_core = cores()
    limits = ("--max-running", "1", "--max-queued", str(plan.waiting + 10), "--max-queued-per-session", "1000")
    with pair(cluster, STREAMING, (core, core), *limits) as both, pinned(own_core):
        first = uvloop.run(_fill(both, plan.waiting))
        began = time.monotonic()
        os.kill(both.second.pid, signal.SIGKILL)
        uvloop.run(asyncio.wait_for(_until_ended(both.first.url, first), 6 * LEASE_S))
        took_s = time.monotonic() - began
    what = f"Takeover after kill -9 with {plan.waiting:,} waiting, s"
    return [Row(what, f"{took_s:.1f}, of which the lease {LEASE_S:.0f} at most", "", "<= 11.5")]


async def _both(urls: Sequence[str], seconds: float) -> list[Load]:
    each = MANY // len(urls)
    return await asyncio.gather(*(drive(url, each, seconds=seconds, prefix="many") for url in urls))


def scaled(cluster: Cluster, plan: Plan) -> list[Row]:
    """Compare two servers with one."""
    enough = (os.cpu_count() or 1) >= ENOUGH_CORES
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    where = ({free[0]}, {free[1]}) if enough and free else (set[int](), set[int]())
    per_s: dict[int, list[float]] = {1: [], 2: []}
    used_us: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strandline-bench-")))
        lone = Database(cluster)
        command = [*STRANDLINE, SCRIPTED, "--port", "0", "--journal", lone.url]
        single = stack.enter_context(server(command, where[0], folder / "lone.log"))
        both = stack.enter_context(pair(cluster, SCRIPTED, where))
        stack.enter_context(pinned(set(free[2:]) if enough else set()))
        groups: dict[int, list[Server]] = {1: [single], 2: [both.first, both.second]}
        for turn in range(plan.repetitions + 1):
            for many, group in groups.items():
                before = lone.cpu_s() + sum(cpu_s(each.pid) for each in group)
                began = time.perf_counter()
                loads = uvloop.run(_both([each.url for each in group], plan.seconds))
                took_s = time.perf_counter() - began
                sound(*loads)
                answers = sum(len(each.latencies_s) for each in loads)
                if turn:  # the first one fills the windows
                    per_s[many].append(answers / took_s)
                    used = lone.cpu_s() + sum(cpu_s(each.pid) for each in group) - before
                    used_us[many].append(used / answers * 1e6)
    one, two = (median(per_s[many]) for many in groups)
    cost, cost_of_two = (median(used_us[many]) for many in groups)
    said = "" if enough else f" (says nothing on {os.cpu_count()} cores)"
    return [
        Row("Answers/s of two servers / of one", f"{two:,.0f} / {one:,.0f}{said}", fraction(two, one), ">= 1.7"),
        Row(
            "Processor time of an answer with the database, us, two servers / one",
            f"{cost_of_two:,.0f} / {cost:,.0f}",
            fraction(cost_of_two, cost),
            "",
        ),
    ]


PARTS: Final[dict[str, Callable[[Cluster, Plan], list[Row]]]] = {
    "engine": engines,
    "forwarded": forwarded,
    "pieces": pieces,
    "takeover": takeover,
    "two": scaled,
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.servers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about a minute, for a first look")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeat for more")
    options = parser.parse_args()
    console = Console()
    if (why := why_no_postgres()) is not None:
        raise SystemExit(why)
    table = Table(title="Several servers", title_justify="left")
    for column in ("", "measured", "ratio", "to reach"):
        table.add_column(column, justify="right" if column in ("ratio", "to reach") else "left")
    columns: tuple[Any, ...] = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with pinned(cores()[1]):
        cluster = Cluster(synced=True)
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            for name in options.only or PARTS:
                task = progress.add_task(name)
                for row in PARTS[name](cluster, QUICK if options.quick else FULL):
                    table.add_row(row.what, row.measured, row.ratio, row.goal)
                progress.remove_task(task)
    finally:
        cluster.remove()
    console.print(table)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    console.print(f"{os.cpu_count()} cores, load {load}.", highlight=False)


if __name__ == "__main__":
    main()
