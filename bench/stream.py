"""What streaming takes, over HTTP: `python -m bench.stream [--quick]`.

The server has one core, the listeners the other. The agent emits a few bytes at a pace, each with its time; Strands
takes some 15 us for each. What is measured, and from when to when:

- *First text*: from sending the request until its first text is read, minus what the same agents take in a process of
  their own, from the call to the first text, as many at once; of one stream alone, and of 16 with 1,000 chunks a second
  each. Beside it a server with FastAPI and a lock, which stores nothing and numbers nothing.
- *How late*: from the moment at which the model emits a chunk until a client has it, and the processor time of each.
- *Whole*: 50 runs of 200 chunks a second. Every event must have the number after that of the one before, and the texts
  together must be what the end of the run and `GET` say.
- *Resumed*: 100 streams, cut by their clients at different events and resumed with `Last-Event-ID`.
- *Idle*: how much the server grows by a client that listens and hears nothing: to one run, to all that changes, and to
  a bare uvicorn app that does nothing but wait until the client leaves.

All subjects take turns. The machine may be busy: the smallest of the repetitions counts where several are made.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from bench import processes
from bench.agents.streaming import make_agent
from bench.listeners import Listener, listener
from bench.load import connect, quantile, request
from bench.processes import ROOT, STRANDLINE, DidNotStart, Server, cores, cpu_s, pinned, rss_bytes, server

AGENT = str(ROOT / "bench" / "agents" / "streaming.py")
MANY, MANY_PER_S = 16, 1000
SESSIONS, SESSIONS_PER_S = 50, 200
CUT = 100
AGENTS = "no server"
SHORT = 5
"""Chunks of a run of which only the first counts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, how long in seconds, and how many."""

    repetitions: int
    alone: int
    seconds: float
    idle: int


FULL = Plan(repetitions=3, alone=60, seconds=2.0, idle=1000)
QUICK = Plan(repetitions=1, alone=40, seconds=1.0, idle=400)


@dataclass(slots=True)
class Heard:
    """Times to the first text, and of all texts how late they were; processor time of the process."""

    first_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


Ask = Callable[[str, str, str], bytes]
"""Of a URL, a session and a question, the request."""


def v1(url: str, session: str, question: str) -> bytes:
    return request(url, "POST", f"/v1/sessions/{session}/runs", {"input": question}, Accept="text/event-stream")


def lock(url: str, session: str, question: str) -> bytes:
    return request(url, "POST", "/stream", {"message": question, "session_id": session})


async def streams(subject: Server, ask: Ask, count: int, rate: int, chunks: int, runs: int) -> Heard:
    """Hear `count` streams at once, each of `runs` runs one after another."""
    heard = Heard()
    ears = [await listener(subject.url) for _ in range(count)]

    async def hear(ear: Listener, number: int) -> None:
        await asyncio.sleep(number * chunks / rate / count)  # so that they do not all begin at once
        for _ in range(runs):
            first_s = await ear.hear(ask(subject.url, f"{count}-{number}", f"{rate} {chunks}"))
            heard.first_s.append(first_s)

    cpu = cpu_s(subject.pid)
    await asyncio.gather(*(hear(ear, number) for number, ear in enumerate(ears)))
    heard.late_s = [late for ear in ears for late in ear.late_s]
    heard.cpu_s = cpu_s(subject.pid) - cpu
    for ear in ears:
        ear.close()
    if len(heard.late_s) != count * chunks * runs or not all(heard.first_s):
        raise DidNotStart(f"{subject.url}: {len(heard.late_s)} of {count * chunks * runs} chunks were heard")
    return heard


async def alone(count: int, rate: int, chunks: int, runs: int) -> Heard:
    """Do the same without a server: the agents, in this process."""
    heard = Heard()

    async def hear(number: int) -> None:
        agent = make_agent(str(number))
        await asyncio.sleep(number * chunks / rate / count)
        for _ in range(runs):
            begin, first_s = time.monotonic(), 0.0
            async for event in agent.stream_async(f"{rate} {chunks}"):
                if "data" in event:
                    now = time.monotonic()
                    first_s = first_s or now - begin
                    heard.late_s.append(now - int(event["data"][1:-1]) / 1e9)
            heard.first_s.append(first_s)

    cpu = time.process_time()
    await asyncio.gather(*(hear(number) for number in range(count)))
    heard.cpu_s = time.process_time() - cpu
    return heard


def alone_elsewhere(core: set[int], *numbers: int) -> Heard:
    """Measure `alone` in a process of its own."""
    child = [sys.executable, "-m", "bench.stream", "--alone", *map(str, numbers)]
    # A file, not a pipe: an unbuffered Python drops what a pipe does not take at once.
    with pinned(core), tempfile.TemporaryFile() as said:
        subprocess.run(child, cwd=ROOT, check=True, stdout=said)
        said.seek(0)
        return Heard(**json.load(said))


async def answered(url: str, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Return the answer to one request, over a connection of its own."""
    client = await connect(url)
    _, answer = await client.ask(request(url, method, path, body))
    client.close()
    result: dict[str, Any] = json.loads(answer)
    return result


# -- whole, resumed, idle -----------------------------------------------------------------------------


def faults(heard: list[tuple[int | None, dict[str, Any]]]) -> list[str]:
    """Return what is wrong with the events of a run, all of which were heard."""
    ids = [number for number, _ in heard if number is not None]
    found = [] if ids == list(range(1, len(ids) + 1)) else [f"the numbers of {len(ids)} events are not 1, 2, 3 ..."]
    text = "".join(data["text"] for _, data in heard if data["type"] == "text.delta")
    if not heard or heard[-1][1].get("output") != text:
        found.append("the pieces of text are not the whole")
    return found


async def whole(subject: Server, seconds: float) -> tuple[list[float], list[str]]:
    """Return how late the chunks of 50 sessions are, and what is missing of them."""
    ears = [await listener(subject.url, keep=True) for _ in range(SESSIONS)]
    rate = f"{SESSIONS_PER_S} {int(SESSIONS_PER_S * seconds)}"
    await asyncio.gather(*(ear.hear(v1(subject.url, f"whole-{n}", rate)) for n, ear in enumerate(ears)))
    for ear in ears:
        ear.close()
    return [late for ear in ears for late in ear.late_s], [each for ear in ears for each in faults(ear.events())]


async def resumed(subject: Server) -> tuple[int, list[str]]:
    """Cut 100 streams midway and resume each; return how many runs were still executing, and the faults."""
    chunks = 300
    executing, wrong = 0, list[str]()

    async def one(number: int) -> None:
        nonlocal executing
        first, second = await listener(subject.url, keep=True), await listener(subject.url, keep=True)
        first.enough = 1 + number * chunks * 3 // 4 // CUT
        await first.hear(v1(subject.url, f"cut-{number}", f"{SESSIONS_PER_S} {chunks}"))
        heard = first.events()
        run_id, last = heard[-1][1]["run_id"], max(each for each, _ in heard if each is not None)
        executing += heard[-1][1]["type"] != "run.finished"
        path = f"/v1/runs/{run_id}/events"
        await second.hear(request(subject.url, "GET", path, Accept="text/event-stream", Last_Event_ID=str(last)))
        second.close()
        wrong.extend(faults(heard + second.events()))
        kept = await answered(subject.url, "GET", f"/v1/runs/{run_id}")
        if kept["output"] != [*heard, *second.events()][-1][1].get("output"):
            wrong.append("what was streamed is not what is kept")

    await asyncio.gather(*(one(number) for number in range(CUT)))
    return executing, wrong


async def idle(subject: Server, count: int, payload: bytes) -> float:
    """Return the bytes by which the server grows for one more client that listens and hears nothing."""
    ears: list[Listener] = []

    async def add(number: int) -> None:
        for _ in range(number):
            ears.append(await listener(subject.url))
            ears[-1].ask(payload)
            await ears[-1].first_byte

    await add(count // 3)
    before = rss_bytes(subject.pid)
    await add(count)
    taken = (rss_bytes(subject.pid) - before) / count
    for ear in ears:
        ear.close()
    await asyncio.gather(*(ear.ended for ear in ears))
    return taken


# -- the whole of it ----------------------------------------------------------------------------------


def ms(values: list[float], q: float) -> float:
    return quantile(values, q) * 1000


def first_texts(subjects: Mapping[str, tuple[Server, Ask]], core: set[int], own: set[int], plan: Plan) -> list[Table]:
    """Measure time to first text, alone and with many; a table of each."""
    chunks = int(MANY_PER_S * plan.seconds / 4)
    tables = []
    for title, goal, numbers in (
        ("One stream", "2 ms", (1, MANY_PER_S, SHORT, plan.alone)),
        (f"{MANY} streams of {MANY_PER_S:,} chunks/s each", "6 ms", (MANY, MANY_PER_S, chunks, 4)),
    ):
        heard: dict[str, list[Heard]] = {AGENTS: [], **{name: [] for name in subjects}}
        for _ in range(plan.repetitions):
            heard[AGENTS].append(alone_elsewhere(core, *numbers))
            for name, (subject, ask) in subjects.items():
                with pinned(own):
                    heard[name].append(uvloop.run(streams(subject, ask, *numbers)))
        table = Table(title=f"{title}, ms (to reach: {goal} more than without a server)", title_justify="left")
        for column in ("", "first text", "more", "p99", "late p50", "p99", "CPU a run", "a chunk"):
            table.add_column(column, justify="right" if column else "left", no_wrap=not column)
        base = min(ms(each.first_s, 0.5) for each in heard[AGENTS])
        for name, seen in heard.items():
            first, p99 = (min(ms(each.first_s, q) for each in seen) for q in (0.5, 0.99))
            late = [f"{min(ms(each.late_s, q) for each in seen):.2f}" for q in (0.5, 0.99)]
            cpu = min(each.cpu_s for each in seen) * 1e6
            of_run, of_chunk = cpu / len(seen[0].first_s), cpu / len(seen[0].late_s)
            table.add_row(
                name, f"{first:.2f}", f"{first - base:.2f}", f"{p99:.2f}", *late, f"{of_run:,.0f}", f"{of_chunk:.0f}"
            )
        tables.append(table)
    return tables


async def of_a_run(subject: Server, count: int) -> float:
    """Return the bytes of one more subscriber of a run that says nothing."""
    holder = await listener(subject.url)
    holder.ask(v1(subject.url, "held", "hold"))
    await holder.first_byte
    run_id = (await answered(subject.url, "GET", "/v1/sessions/held/runs"))["runs"][0]["run_id"]
    path = f"/v1/runs/{run_id}/events"
    taken = await idle(subject, count, request(subject.url, "GET", path, Accept="text/event-stream"))
    holder.close()
    await answered(subject.url, "POST", f"/v1/runs/{run_id}/cancel", {})
    return taken


async def of_all(subject: Server, count: int) -> float:
    """Return the bytes of one more subscriber of all that changes, while nothing does."""
    return await idle(subject, count, request(subject.url, "GET", "/v1/events", Accept="text/event-stream"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="what streaming takes, over HTTP")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first look")
    parser.add_argument("--alone", type=int, nargs=4, metavar="N", help="only the agents, in this process; JSON")
    options = parser.parse_args()
    if options.alone:
        heard = uvloop.run(alone(*options.alone))
        print(json.dumps({"first_s": heard.first_s, "late_s": heard.late_s, "cpu_s": heard.cpu_s}))
        return
    plan = QUICK if options.quick else FULL
    console = Console()
    core, own = cores()
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as name, ExitStack() as stack:
        folder = Path(name)

        def begun(title: str, arguments: list[str]) -> Server:
            return stack.enter_context(server(arguments, core, folder / f"{title}.log"))

        def result(work: Coroutine[Any, Any, Any]) -> Any:
            with pinned(own):
                return uvloop.run(work)

        journal = f"sqlite:{folder / 'journal.db'}"
        strandline = begun("strandline", [*STRANDLINE, AGENT, "--port", "0", "--journal", journal])
        locked = begun("lock", [*processes.LOCK, f"{AGENT}:make_agent"])
        subjects = {"a lock": (locked, lock), "strandline": (strandline, v1)}
        for table in first_texts(subjects, core, own, plan):
            console.print(table)
        late, missing = result(whole(strandline, plan.seconds))
        console.print(
            f"{SESSIONS} sessions, {SESSIONS_PER_S} chunks/s each: {len(late):,} chunks, late p50 {ms(late, 0.5):.2f}"
            f" ms, p99 {ms(late, 0.99):.2f} ms; {f'[red]{missing[0]}[/red]' if missing else 'none was dropped'}",
            highlight=False,
        )
        executing, wrong = result(resumed(strandline))
        console.print(
            f"{CUT} streams cut and resumed, {executing} while their runs executed: "
            + (f"[red]{len(wrong)} wrong, e.g. {wrong[0]}[/red]" if wrong else "the same text in all"),
            highlight=False,
        )
        bare = begun("bare", [sys.executable, "-m", "bench.echo"])
        grown = {"bare uvicorn app": result(idle(bare, plan.idle, request(bare.url, "GET", "/wait")))}
        for title, work in (("events of one run", of_a_run), ("all that changes", of_all)):
            # A server of its own: the memory of those who have left is used again.
            fresh = begun(title, [*STRANDLINE, AGENT, "--port", "0", "--journal", f"sqlite:{folder / title}.db"])
            grown[title] = result(work(fresh, plan.idle))
        memory = Table(title="An idle subscriber, to reach 10 KB", title_justify="left")
        memory.add_column("")
        memory.add_column("KB", justify="right")
        for title, taken in grown.items():
            memory.add_row(title, f"{taken / 1000:.1f}")
        console.print(memory)


if __name__ == "__main__":
    main()
