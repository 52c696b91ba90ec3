"""What it costs to be watched: `python -m bench.watched`. The same server with metrics and traces, and without.

Subjects take turns in the same seconds: with nothing counted or traced; as it is; as it is, scraped every second; and
with a trace in each request. The ratio is of the server's processor time for an answer, which is what bounds throughput
on one core; that of the throughput itself stands beside it.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from bench.cores import cpu_s
from bench.load import drive
from bench.processes import ROOT

UNWATCHED = """
import strandline._server as server, strandline._http.app.build as app
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline._engine.observers import Observer, Tracing
class Blind(Observer):
    committed = cut_off = lambda self, *given, **named: None
server.MetricsRecorder = Blind
server.Traces = type("Blindfold", (Tracing,), {"arrived": lambda self, headers: None})
"""
"""What takes the eyes of a server: for what it costs to have them, there is no setting."""
TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SUBJECTS = ("not watched", "as it is", "scraped", "traced")


class Process:
    """One server."""

    def __init__(self, stack: ExitStack, folder: Path, subject: str, agent: str) -> None:
        eyes = UNWATCHED if subject == "not watched" else ""
        code = f"{eyes}\nimport sys\nfrom strandline._cli import main\nsys.argv[0] = 'strandline'\nmain()"
        name = subject.replace(" ", "-")
        self.log = folder / f"{name}.log"
        arguments = [sys.executable, "-c", code, "serve", agent, "--port", "0"]
        arguments += ["--journal", f"sqlite:{folder / name}.db", "--workspace", str(folder / "w")]
        paths = f"{ROOT / 'src'}:{ROOT}:{ROOT / 'tests'}"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, stdout=out, stderr=out
            )
        stack.callback(self.process.wait)
        stack.callback(self.process.terminate)
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        self.url = found.group()


async def turn(server: Process, subject: str, clients: int, seconds: float) -> tuple[float, float]:
    """Return how many answers there were in a second, and what each took of the server's processor, in seconds."""
    scraping = asyncio.create_task(_scrape(server.url)) if subject == "scraped" else None
    before = cpu_s(server.process.pid)
    headers = {"traceparent": TRACED} if subject == "traced" else {}
    load = await drive(server.url, clients, seconds=seconds, headers=headers)
    if scraping is not None:
        scraping.cancel()
    assert not load.failures, load.failures[:1]
    return load.per_s, (cpu_s(server.process.pid) - before) / len(load.latencies_s)


async def _scrape(url: str) -> None:
    while True:
        await asyncio.to_thread(lambda: urlopen(f"{url}/metrics").read())
        await asyncio.sleep(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="bench/agents/scripted.py:make_agent")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as folder, ExitStack() as stack:
        servers = {each: Process(stack, Path(folder), each, given.agent) for each in SUBJECTS}
        for subject, server in servers.items():
            asyncio.run(turn(server, subject, given.clients, given.seconds))
        seen: dict[str, list[tuple[float, float]]] = {each: [] for each in SUBJECTS}
        for number in range(given.turns):
            for subject in SUBJECTS if number % 2 == 0 else reversed(SUBJECTS):
                seen[subject].append(asyncio.run(turn(servers[subject], subject, given.clients, given.seconds)))
    table = Table("", "answers/s", "processor, ms", "of it unwatched", "throughput, of unwatched")
    blind = seen["not watched"]
    for subject, turns in seen.items():
        cpu = [mine[1] / theirs[1] for mine, theirs in zip(turns, blind, strict=True)]
        speed = [mine[0] / theirs[0] for mine, theirs in zip(turns, blind, strict=True)]
        table.add_row(
            subject,
            f"{median(each[0] for each in turns):.0f}",
            f"{median(each[1] for each in turns) * 1000:.2f}",
            f"{median(cpu):.3f} ({min(cpu):.3f}-{max(cpu):.3f})",
            f"{median(speed):.3f} ({min(speed):.3f}-{max(speed):.3f})",
        )
    console = Console()
    console.print(table)
    console.print(f"load {os.getloadavg()[0]:.1f}; {given.turns} turns of {given.seconds:g} s each")


if __name__ == "__main__":
    main()
