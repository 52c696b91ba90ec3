"""What an idle session and a waiting run take in memory: `python -m bench.memory [--quick]`.

Measured from outside, as the growth of a server's resident memory divided by how many were added, after as
many others have filled its caches. It is an upper bound: memory that the server has freed but not returned
counts. The agent has ten tools and, after ten turns, 20 messages.
"""

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table
from strands import Agent
from strands.telemetry.metrics import EventLoopMetrics

from bench.agents.ten_tools import make_agent
from bench.load import MESSAGE, chat, connect, depth, drive
from bench.processes import LOCK, ROOT, STRANDLINE, DidNotStart, Server, cores, pinned, rss_bytes, server

TURNS = 10
AT_ONCE = 50
AGENT = str(ROOT / "bench" / "agents" / "ten_tools.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of each are added."""

    sessions: int
    runs: int


Figure = Callable[[Server, Plan], Coroutine[Any, Any, float]]

FULL = Plan(sessions=1000, runs=4000)
QUICK = Plan(sessions=300, runs=1500)


async def sessions(subject: Server, plan: Plan) -> float:
    """Return the bytes that one more idle session takes."""

    async def add(name: str, count: int) -> None:
        for start in range(0, count, AT_ONCE):
            load = await drive(subject.url, min(AT_ONCE, count - start), turns=TURNS, prefix=f"{name}-{start}")
            if load.failures:
                raise DidNotStart(load.failures[0])

    await add("first", plan.sessions // 3)
    before = rss_bytes(subject.pid)
    await add("then", plan.sessions)
    return (rss_bytes(subject.pid) - before) / plan.sessions


async def waiting(subject: Server, plan: Plan) -> float:
    """Return the bytes that one more waiting run takes, its client gone, with an input of some 50 bytes."""
    hold = await connect(subject.url)
    held = hold.ask(chat(subject.url, "queue", "hold"))
    while await depth(subject.url) != (True, 0):
        await asyncio.sleep(0.01)

    async def add(already: int, count: int) -> None:
        for start in range(already, already + count, AT_ONCE):
            clients = [await connect(subject.url) for _ in range(AT_ONCE)]
            for client in clients:
                client.ask(chat(subject.url, "queue"))
            while (await depth(subject.url))[1] < start + AT_ONCE:
                await asyncio.sleep(0.001)
            for client in clients:
                client.close()

    first = plan.runs // 3 // AT_ONCE * AT_ONCE
    await add(0, first)
    before = rss_bytes(subject.pid)
    await add(first, plan.runs)
    taken = (rss_bytes(subject.pid) - before) / plan.runs
    held.cancel()
    hold.close()
    return taken


async def alone(count: int) -> float:
    """Return the bytes that one more agent takes in this process, without any server: the floor."""

    async def build(name: str, number: int) -> list[Agent]:
        agents = [make_agent(f"{name}-{place}") for place in range(number)]
        for agent in agents:
            for _ in range(TURNS):
                await agent.invoke_async(MESSAGE)
                agent.event_loop_metrics = EventLoopMetrics()  # they grow with every run
        return agents

    kept = await build("first", count // 3)
    gc.collect()
    before = rss_bytes(os.getpid())
    kept += await build("then", count)
    gc.collect()
    return (rss_bytes(os.getpid()) - before) / count


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="memory of an idle session and of a waiting run")
    parser.add_argument("--quick", action="store_true", help="fewer of each, for a first look")
    parser.add_argument("--alone", type=int, metavar="N", help="only the floor, with N agents; prints bytes")
    options = parser.parse_args()
    if options.alone:
        print(asyncio.run(alone(options.alone)))
        return
    plan = QUICK if options.quick else FULL
    console = Console()
    core, own_core = cores()
    table = Table(title="Growth of resident memory", title_justify="left")
    for column in ("", "KB", "to reach"):
        table.add_column(column, justify="right" if column else "left")
    with console.status("agents alone"):
        child = [sys.executable, "-m", "bench.memory", "--alone", str(plan.sessions)]
        floor = float(subprocess.run(child, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    table.add_row("the agent alone, its metrics reset", f"{floor / 1000:.1f}", "")
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as name:
        folder = Path(name)

        def strandline(journal: str) -> list[str]:
            return [*STRANDLINE, AGENT, "--port", "0", "--journal", f"sqlite:{folder / journal}"]

        keeps = {"STRANDLINE_MAX_AGENTS": "100000", "STRANDLINE_AGENT_IDLE": "3600"}
        evicts = {"STRANDLINE_MAX_AGENTS": "10"}
        holds = {"STRANDLINE_MAX_QUEUED_PER_SESSION": "100000", "STRANDLINE_MAX_QUEUED": "100000"}
        rows: list[tuple[str, list[str], dict[str, str], Figure, str]] = [
            ("idle session, FastAPI and a lock", [*LOCK, f"{AGENT}:make_agent"], {}, sessions, ""),
            ("idle session, agent in memory", strandline("kept.db"), keeps, sessions, "20"),
            ("idle session, agent evicted", strandline("evicted.db"), evicts, sessions, "0"),
            ("waiting run, its client gone", strandline("waiting.db"), holds, waiting, "2 and its input"),
        ]
        for label, arguments, settings, figure, goal in rows:
            with console.status(label):
                try:
                    with server(arguments, core, folder / "server.log", settings) as subject, pinned(own_core):
                        taken = uvloop.run(figure(subject, plan))
                except DidNotStart as error:
                    console.print(f"[red]{label}: left out:[/red] {error}", highlight=False)
                    continue
            table.add_row(label, f"{taken / 1000:.1f}", goal)
    console.print(table)


if __name__ == "__main__":
    main()
