"""What worker processes bring: `python -m bench.cores AGENT:SUBJECT,...`; needs two cores for itself.

The subjects take turns: the server without workers on one core (the load has the other) and on both, two of them with a
journal each, and one with workers; and over a private PostgreSQL, which has its share of the cores too: one server, one
with workers, and two servers of one command. Where both cores are used the load generator has its share of them;
*corrected* is what the rest of two cores would give.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import uvloop

from bench.load import drive, request, sessions
from bench.processes import ROOT, pinned
from tools.postgres import Cluster

_URL = re.compile(r"http://127\.0\.0\.1:\d+")
AGENTS = {
    "function": ("bench/agents/working.py:function", 64, 1),
    "text": ("bench/agents/scripted.py:make_agent", 64, 20),
    "rounds": ("bench/agents/working.py:make_agent", 16, 7),
    "stream": ("bench/agents/working.py:make_agent", 16, 7),
    "waiting": ("bench/agents/working.py:waiting", 64, 3),
    "burn": ("bench/agents/working.py:burn", 16, 10),
}
"""What is served, how many sessions talk at once, and how many answers fill their windows."""
ONE, BOTH = {0}, {0, 1}


class How(NamedTuple):
    """How a command serves: with how many workers for each server, on which cores, by how many servers, over what."""

    workers: int
    cores: set[int]
    servers: int = 1
    postgres: bool = False


SUBJECTS: dict[str, list[How]] = {
    "one": [How(1, ONE)],
    "one, both cores": [How(1, BOTH)],
    "two servers": [How(1, {0}), How(1, {1})],
    "2 workers": [How(2, BOTH)],
    "3 workers": [How(3, BOTH)],
    "pg: one": [How(1, BOTH, postgres=True)],
    "pg: 2 workers": [How(2, BOTH, postgres=True)],
    "pg: 2 servers": [How(1, BOTH, servers=2, postgres=True)],
}
"""The commands of a subject."""


@dataclass
class Turn:
    """One turn of one subject; times are seconds of processor time."""

    answers: int
    seconds: float
    load_s: float
    times: dict[str, float] = field(default_factory=dict)
    p50_ms: float = 0.0
    others: float = 0.0
    """How many cores everything else on this machine has used."""

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds

    @property
    def cores_for_load(self) -> float:
        return self.load_s / self.seconds


class Process:
    """One server."""

    def __init__(self, stack: ExitStack, folder: Path, number: int, target: str, how: How) -> None:
        self.log = folder / f"{number}.log"
        arguments = [sys.executable, "-m", "strandline", "serve", target, "--port", "0"]
        arguments += ["--workers", str(how.workers), "--servers", str(how.servers), "--workspace", str(folder / "w")]
        journal = cluster().new_database() if how.postgres else f"sqlite:{folder / f'{number}.db'}"
        arguments += ["--journal", journal]
        paths = f"{ROOT / 'src'}:{ROOT}:{ROOT / 'tests'}"
        with pinned(how.cores), self.log.open("w") as out:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=out, stderr=out
            )
        stack.callback(self.process.wait)
        stack.callback(self.process.terminate)
        while not (found := _URL.search(self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        self.url = found.group()
        self.servers = children_of(self.process.pid) if how.servers > 1 else [self.process.pid]
        self.workers = [worker for server in self.servers for worker in children_of(server)]

    def times(self) -> dict[str, float]:
        """Return the processor time of the servers' own processes, and of their workers."""
        return {"server": sum(map(cpu_s, self.servers)), "workers": sum(map(cpu_s, self.workers))}


@cache
def cluster() -> Cluster:
    """Return a PostgreSQL of this benchmark, which `main` removes."""
    return Cluster(synced=True)


def children_of(pid: int) -> list[int]:
    """Return the processes that the main thread of a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_s(pid: int) -> float:
    """Return the processor time of all threads of a process."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


class Ear(asyncio.Protocol):
    """A client that hears streams to their end and understands nothing else of them."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.done: asyncio.Future[None] | None = None
        self.last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.last = (self.last + data)[-9:]
        if self.last.endswith(b"\r\n0\r\n\r\n") and self.done is not None and not self.done.done():
            self.done.set_result(None)


async def hear(url: str, count: int, prefix: str, end: float) -> int:
    """Let clients hear one stream after another; return how many."""
    host, port = url.removeprefix("http://").split(":")
    heard = 0

    async def one(session: str) -> None:
        nonlocal heard
        _, ear = await asyncio.get_running_loop().create_connection(Ear, host, int(port))
        sent = request(url, "POST", f"/v1/sessions/{session}/runs", {"input": "go"}, Accept="text/event-stream")
        while time.perf_counter() < end:
            ear.done = asyncio.get_running_loop().create_future()
            ear.transport.write(sent)
            await ear.done
            heard += 1
        ear.transport.close()

    await asyncio.gather(*(one(session) for session in sessions(count, prefix)))
    return heard


def busy_s() -> float:
    """Return the processor time that all of this machine has used."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@contextmanager
def first(wanted: bool) -> Iterator[None]:
    """Let this session of processes, in the terminal's sense, go before all others."""
    place = Path("/proc/self/autogroup")
    if wanted:
        place.write_text("-15")
    try:
        yield
    finally:
        if wanted:
            place.write_text("0")


async def turn(servers: list[Process], count: int, seconds: float, *, stream: bool) -> Turn:
    each = max(1, count // len(servers))
    p50_ms = 0.0
    before = [server.times() for server in servers]
    began, cpu, busy = time.perf_counter(), time.process_time(), busy_s()
    if stream:
        heard = await asyncio.gather(*(hear(server.url, each, "bench", began + seconds) for server in servers))
        answers = sum(heard)
    else:
        loads = await asyncio.gather(*(drive(server.url, each, seconds=seconds) for server in servers))
        assert not any(load.failures for load in loads), [load.failures[:1] for load in loads]
        latencies = [each for load in loads for each in load.latencies_s]
        answers, p50_ms = len(latencies), median(latencies) * 1000
    done = Turn(answers, time.perf_counter() - began, time.process_time() - cpu, p50_ms=p50_ms)
    busy = busy_s() - busy
    for server, earlier in zip(servers, before, strict=True):
        for name, value in server.times().items():
            done.times[name] = done.times.get(name, 0.0) + value - earlier.get(name, 0.0)
    done.others = (busy - done.load_s - sum(done.times.values())) / done.seconds
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="+", help="AGENT:SUBJECT,SUBJECT,... by number from 0: " + "; ".join(SUBJECTS))
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1000.0, help="begin no further turn so many seconds after begin")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between turns, for what else runs here")
    parser.add_argument("--first", action="store_true", help="go before everything else during a turn (run by setsid)")
    parser.add_argument("--begin", type=Path, help="when everything runs, wait until there is this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as folder, ExitStack() as stack:
        if any(int(number) >= 5 for each in args.plan for number in each.partition(":")[2].split(",")):
            stack.callback(cluster().remove)
        running: dict[tuple[str, str], list[Process]] = {}
        for agent, _, numbers in (each.partition(":") for each in args.plan):
            target, clients, warm = AGENTS[agent]
            for name in [list(SUBJECTS)[int(number)] for number in numbers.split(",")]:
                servers = [
                    Process(stack, Path(folder), len(running) * 10 + at, target, how)
                    for at, how in enumerate(SUBJECTS[name])
                ]
                running[agent, name] = servers
                for server in servers:
                    load = uvloop.run(drive(server.url, clients // len(servers), turns=warm))
                    assert not load.failures, load.failures[0]
        print("ready", time.strftime("%X"), os.getloadavg(), flush=True)
        while args.begin is not None and not args.begin.exists():
            time.sleep(0.2)
        print("begun", time.strftime("%X"), os.getloadavg(), flush=True)
        limit = time.monotonic() + args.limit
        turns: dict[tuple[str, str], list[Turn]] = {each: [] for each in running}
        for _ in range(args.turns):
            for (agent, name), servers in running.items():
                if time.monotonic() > limit:
                    break
                time.sleep(args.pause)
                with pinned({1} if name == "one" else BOTH), first(args.first):
                    done = uvloop.run(turn(servers, AGENTS[agent][1], args.seconds, stream=agent == "stream"))
                turns[agent, name].append(done)
                line = f"{agent}/{name}: {done.per_s:.0f}/s, others {done.others:.2f}, load {os.getloadavg()[0]:.1f}"
                print(line, flush=True)
        for agent in dict.fromkeys(agent for agent, _ in running):
            report(agent, {name: seen for (of, name), seen in turns.items() if of == agent and seen})


def report(agent: str, turns: dict[str, list[Turn]]) -> None:
    """Print medians over the turns, and gains of pairs of turns of one round."""
    print(f"\n== {agent}")
    limit = turns.get("one") or turns.get("pg: one", [])
    for name, seen in turns.items():
        per_s = [turn.per_s for turn in seen]
        gains = [a.per_s / b.per_s for a, b in zip(seen, limit, strict=False)] or [0.0]
        free = [a.per_s / b.per_s * 2 / (2 - a.cores_for_load) for a, b in zip(seen, limit, strict=False)] or [0.0]
        cpu = [sum(turn.times.values()) / turn.answers * 1e6 for turn in seen]
        used = median(sum(turn.times.values()) / turn.seconds for turn in seen)
        print(
            f"{name:22} {median(per_s):6.0f}/s ({min(per_s):.0f}-{max(per_s):.0f})"
            f"  gain {median(gains):.2f} ({min(gains):.2f}-{max(gains):.2f}) corrected {median(free):.2f}"
            f"  p50 {median(turn.p50_ms for turn in seen):.2f} ms"
            f"  load {median(turn.load_s / turn.answers * 1e6 for turn in seen):.0f} us"
            f"  others {median(turn.others for turn in seen):.2f} (<{max(turn.others for turn in seen):.2f})"
            f"  cores {used:.2f}  CPU {median(cpu):.0f} us:",
            *(
                f"{each}={median(turn.times.get(each, 0.0) / turn.answers * 1e6 for turn in seen):.0f}"
                for each in sorted({each for turn in seen for each in turn.times})
            ),
        )


if __name__ == "__main__":
    main()
