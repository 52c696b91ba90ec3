"""What run control takes, over HTTP: cancels, refusals, fairness. `python -m bench.control [--quick]`.

The server has one core, the load generator the other. What is measured, and from when to when:

- *Cancel of a waiting run*: from sending it until a `GET /v1/runs/{id}`, polled on another connection, says
  `cancelled`; and until a client that waits for the run (`Prefer: wait`) is answered. Alone, and beside 16 busy
  sessions with runs of 100 ms.
- *Cancel of a run that streams*: from sending it, at any moment between two chunks, until a client that waits for the
  run is answered.
- *429*: 64 clients send to a session whose queue is full. 63 of them are in a process of their own. First they send
  2,000 requests a second in all, then each sends again as soon as it is answered: then each always has a request in the
  server, which takes as long as 63 refusals. The 64th sends every 25 ms from this process, and its time counts from its
  scheduled instant, even if it is late.
- *Fairness*: with one slot and 10,000 runs that wait in one session, how long a run of another session waits from its
  acceptance to its start, by the server's own clock, and how long a run takes.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench.load import Client, connect, health, quantile, request
from bench.processes import ROOT, STRANDLINE, Server, cores, cpu_s, pinned, server

AGENT = str(ROOT / "bench" / "agents" / "control.py")
HAMMERS = 63
PACED_PER_S = 2000
PROBE_S = 0.025
CHUNKS_MS = (20, 200)
SLOT_MS = 50
BESIDE = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How many samples of each, how long the hammering lasts in seconds, and how many runs wait."""

    cancels: int
    streams: int
    hammer_s: float
    waiting: int
    singles: int


FULL = Plan(cancels=300, streams=60, hammer_s=5.0, waiting=10_000, singles=40)
QUICK = Plan(cancels=50, streams=12, hammer_s=1.5, waiting=1_000, singles=10)


class Caller:
    """One connection that speaks the run API."""

    def __init__(self, url: str, client: Client) -> None:
        self._url = url
        self._client = client

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, Any]]:
        status, answer = await self._client.ask(request(self._url, method, path, body, **headers))
        return status, json.loads(answer)

    async def send(self, session: str, text: str) -> str:
        """Have a run accepted; return its id."""
        status, run = await self.ask("POST", f"/v1/sessions/{session}/runs", {"input": text})
        assert status == 202, run
        return str(run["run_id"])

    async def until(self, run_id: str, status: str) -> dict[str, Any]:
        """Poll until a run has a status."""
        while (found := await self.ask("GET", f"/v1/runs/{run_id}"))[1]["status"] != status:
            await asyncio.sleep(0)
        return found[1]

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait for the end of a run, as a client does that has nothing else to do."""
        return (await self.ask("GET", f"/v1/runs/{run_id}", Prefer="wait=60"))[1]


@asynccontextmanager
async def callers(url: str, count: int) -> AsyncIterator[list[Caller]]:
    clients = [await connect(url) for _ in range(count)]
    try:
        yield [Caller(url, client) for client in clients]
    finally:
        for client in clients:
            client.close()


# -- cancels ------------------------------------------------------------------------------------------


async def cancel_waiting(url: str, samples: int) -> dict[str, list[float]]:
    """Return the milliseconds until cancels of waiting runs were answered, visible, and sent to waiting clients."""
    times: dict[str, list[float]] = {"answered": [], "visible": [], "received": []}
    session = f"waiting-{random.random()}"
    async with callers(url, 3) as (one, two, three):
        holder = await one.send(session, "take 600000")
        for _ in range(samples):
            run_id = await one.send(session, "take 1")
            waits = asyncio.create_task(three.ended(run_id))
            await asyncio.sleep(0.003)
            began = time.perf_counter()

            async def note(name: str, work: Any, began: float = began) -> None:
                await work
                times[name].append((time.perf_counter() - began) * 1000)

            await asyncio.gather(
                note("answered", one.ask("POST", f"/v1/runs/{run_id}/cancel")),
                note("visible", two.until(run_id, "cancelled")),
                note("received", waits),
            )
            assert (await waits)["status"] == "cancelled"
        await one.ask("POST", f"/v1/runs/{holder}/cancel")
        await two.ended(holder)
    return times


async def beside(url: str, samples: int) -> dict[str, list[float]]:
    """Measure cancels of waiting runs beside sessions that are busy."""

    async def busy(caller: Caller, number: int) -> None:
        while True:
            await caller.ended(await caller.send(f"busy-{number}", "take 100"))

    async with callers(url, BESIDE) as many:
        others = [asyncio.create_task(busy(caller, number)) for number, caller in enumerate(many)]
        try:
            return await cancel_waiting(url, samples)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


async def cancel_streaming(url: str, chunk_ms: int, samples: int) -> list[float]:
    """Return the milliseconds until cancels of streaming runs reached a waiting client; four streams at once."""
    times: list[float] = []

    async def one(session: str) -> None:
        async with callers(url, 2) as (asking, waits):
            for _ in range(samples // 4):
                run_id = await asking.send(session, f"stream {chunk_ms}")
                while (await asking.ask("GET", f"/v1/runs/{run_id}"))[1]["status"] != "running":
                    await asyncio.sleep(0.005)
                ended = asyncio.create_task(waits.ended(run_id))
                await asyncio.sleep(0.05 + random.random() * chunk_ms / 1000)
                began = time.perf_counter()
                cancel = asyncio.create_task(asking.ask("POST", f"/v1/runs/{run_id}/cancel"))
                assert (await ended)["status"] == "cancelled"
                times.append((time.perf_counter() - began) * 1000)
                await cancel

    await asyncio.gather(*(one(f"stream-{chunk_ms}-{number}") for number in range(4)))
    return times


# -- refusals -----------------------------------------------------------------------------------------


def refused(url: str) -> bytes:
    return request(url, "POST", "/v1/sessions/full/runs", {"input": "take 1"})


async def fill(url: str) -> None:
    """Fill the queue of a session."""
    async with callers(url, 1) as (caller,):
        while (await caller.ask("POST", "/v1/sessions/full/runs", {"input": "take 600000"}))[0] == 202:
            pass


async def probe(url: str, seconds: float) -> list[float]:
    """Probe every `PROBE_S`; return the milliseconds of each answer, from its scheduled instant."""
    client, refusing = await connect(url), refused(url)
    times = []
    begin = time.perf_counter()
    for number in range(int(seconds / PROBE_S)):
        due = begin + number * PROBE_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        status, _ = await client.ask(refusing)
        assert status == 429, status
        times.append((time.perf_counter() - due) * 1000)
    client.close()
    return times


async def hammer(url: str, seconds: float, per_s: float) -> dict[str, Any]:
    """Let 63 clients send again as soon as they are answered, or `per_s` times a second in all, in turns."""
    clients, refusing = [await connect(url) for _ in range(HAMMERS)], refused(url)
    for client in clients:
        await client.ask(health(url))
    times: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()

    async def ask(client: Client, number: int) -> None:
        every_s = HAMMERS / per_s if per_s else 0.0
        due = begin + number * every_s / HAMMERS
        while (now := time.perf_counter()) < begin + seconds:
            if per_s:
                await asyncio.sleep(max(0.0, due - now))
            start = due if per_s else now
            status, _ = await client.ask(refusing)
            assert status == 429, status
            times.append((time.perf_counter() - start) * 1000)
            due += every_s

    await asyncio.gather(*(ask(client, number) for number, client in enumerate(clients)))
    took = time.perf_counter() - begin
    for client in clients:
        client.close()
    return {"times": times, "per_s": len(times) / took, "busy": (time.process_time() - cpu) / took}


async def refusals(subject: Server, seconds: float, per_s: float = 0.0) -> dict[str, Any]:
    """Have a full queue hammered, and probe it from this process. Return the figures of both."""
    arguments = [sys.executable, "-m", "bench.control", "--hammer", subject.url, str(seconds), str(per_s)]
    process = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    before = cpu_s(subject.pid)
    await asyncio.sleep(0.2)
    probed = await probe(subject.url, seconds - 0.4)
    figures: dict[str, Any] = json.loads((await process.communicate())[0])
    cpu = cpu_s(subject.pid) - before
    return {**figures, "probed": probed, "cpu_us": cpu / (len(figures["times"]) + len(probed)) * 1e6}


# -- fairness -----------------------------------------------------------------------------------------


async def fairness(url: str, waiting: int, singles: int) -> tuple[list[float], list[float]]:
    """Return in milliseconds how long single runs waited beside a session with many, and how long runs took."""
    waits, took = [], []
    async with callers(url, 17) as (single, *many):
        left = iter(range(waiting))

        async def send(caller: Caller) -> None:
            for _ in left:
                await caller.send("many", f"take {SLOT_MS}")

        await asyncio.gather(*(send(caller) for caller in many))
        for number in range(singles):
            await asyncio.sleep(random.random() * 3 * SLOT_MS / 1000)
            run = await single.ended(await single.send(f"single-{number}", f"take {SLOT_MS}"))
            created, started, ended = (
                datetime.fromisoformat(run[name]).timestamp() for name in ("created_at", "started_at", "ended_at")
            )
            waits.append((started - created) * 1000)
            took.append((ended - started) * 1000)
    return waits, took


# -- the report ---------------------------------------------------------------------------------------


def row(table: Table, what: str, times: Sequence[float], goal: str, holds: Callable[[Sequence[float]], bool]) -> None:
    p50, p99 = (f"{quantile(times, q):.1f}" for q in (0.5, 0.99))
    met = ("[green]yes[/green]" if holds(times) else "[red]no[/red]") if goal else ""
    table.add_row(what, str(len(times)), p50, p99, f"{max(times):.1f}", goal, met)


def p99_below(limit_ms: float) -> Callable[[Sequence[float]], bool]:
    return lambda times: quantile(times, 0.99) < limit_ms


def all_below(limit_ms: float) -> Callable[[Sequence[float]], bool]:
    return lambda times: max(times) <= limit_ms


async def measure(folder: Path, plan: Plan, table: Table, console: Console) -> list[str]:
    """Measure everything, a row each; return what is to be said besides."""
    core, own_core = cores()
    said = []

    @asynccontextmanager
    async def serving(name: str, **settings: str) -> AsyncIterator[Server]:
        arguments = [*STRANDLINE, AGENT, "--port", "0", "--journal", f"sqlite:{folder / name}.db"]
        given = {"STRANDLINE_DRAIN_GRACE": "0.1", **settings}
        with server(arguments, core, folder / f"{name}.log", given) as subject, pinned(own_core):
            yield subject

    async with serving("control") as subject:
        with console.status("cancels of waiting runs"):
            for where, work in (("", cancel_waiting), (f" beside {BESIDE} busy sessions", beside)):
                times = await work(subject.url, plan.cancels)
                row(table, f"cancel of a waiting run{where}: visible", times["visible"], "10 ms", p99_below(10))
                row(table, "    the waiting client is answered", times["received"], "10 ms", p99_below(10))
        for chunk_ms in CHUNKS_MS:
            with console.status(f"cancels of streams, {chunk_ms} ms"):
                streamed = await cancel_streaming(subject.url, chunk_ms, plan.streams)
                goal = chunk_ms + 50
                row(table, f"cancel of a stream, a chunk every {chunk_ms} ms", streamed, f"{goal} ms", all_below(goal))
        with console.status("refusals"):
            await fill(subject.url)
            row(table, "429, one client alone", await probe(subject.url, plan.hammer_s / 2), "5 ms", p99_below(5))
            for per_s, how in ((PACED_PER_S, f"63 others ask {PACED_PER_S:,} times/s"), (0, "63 others never pause")):
                found = await refusals(subject, plan.hammer_s, per_s)
                row(table, f"429, while {how}", found["probed"], "5 ms", p99_below(5))
                row(table, "    the 63 themselves", found["times"], "", p99_below(5))
                said.append(
                    f"429, {how}: {found['per_s']:,.0f} refusals/s, {found['cpu_us']:.0f} us of the server's CPU each;"
                    f" the 63 took {found['busy']:.0%} of a core."
                )
    limits = {"STRANDLINE_MAX_QUEUED_PER_SESSION": "20000", "STRANDLINE_MAX_QUEUED": "30000"}
    async with serving("fairness", STRANDLINE_MAX_RUNNING="1", **limits) as subject:
        with console.status("fairness"):
            waits, took = await fairness(subject.url, plan.waiting, plan.singles)
        slot_ms = median(took)
        what = f"a single run beside {plan.waiting:,} waiting ones of another session"
        row(table, f"{what}, until it starts", waits, f"{slot_ms:.0f} ms", all_below(max(took)))
        said.append(
            f"A run takes {slot_ms:.1f} ms (median): the single ones waited {max(waits) / slot_ms:.2f} of that."
        )
    return said


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="cancels, refusals and fairness over HTTP")
    parser.add_argument("--quick", action="store_true", help="fewer of each, for a first look")
    parser.add_argument("--hammer", nargs=3, metavar=("URL", "SECONDS", "PER_S"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hammer:
        url, seconds, per_s = options.hammer
        print("ready", flush=True)
        print(json.dumps(uvloop.run(hammer(url, float(seconds), float(per_s)))))
        return
    console = Console()
    table = Table(title="Run control, over HTTP", title_justify="left")
    for column in ("", "samples", "p50 ms", "p99 ms", "max ms", "goal", "met"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as folder:
        said = uvloop.run(measure(Path(folder), QUICK if options.quick else FULL, table, console))
    console.print(table)
    for line in said:
        console.print(line, highlight=False)


if __name__ == "__main__":
    main()
