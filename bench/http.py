"""`/chat` over HTTP, against the same agent without a server: `python -m bench.http [--quick]`.

All subjects run the same scripted agent, whose window is full (40 messages) before anything is measured, in
processes pinned to one core; the load comes from another. They take turns (A B C D A B C D), because a machine
is never quiet, and the median over the repetitions counts. Times are milliseconds. Every figure of a run is to
be compared with the loop's of the same run, not with another day's.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import processes
from bench.load import Load, quantile
from bench.processes import ROOT, DidNotStart, Subject, cores, loop, pinned, server

MANY = 64
PROBE_S = 0.02
WARM_TURNS = 20
"""A turn is two messages; so many fill the window."""

LOOP = "agents in a loop"
ONE_BY_ONE = "one agent after another"
ECHO = "Starlette echo"
LOCK = "FastAPI and a lock"
STRANDLINE = "strandline, SQLite"

AGENT = str(ROOT / "bench" / "agents" / "scripted.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes, in seconds."""

    repetitions: int
    one_s: float
    many_s: float


FULL = Plan(repetitions=5, one_s=0.8, many_s=2.0)
QUICK = Plan(repetitions=1, one_s=0.5, many_s=1.2)


@dataclass(slots=True)
class Figures:
    """All repetitions of one subject."""

    one: list[Load]
    many: list[Load]

    def of(self, loads: list[Load], figure: Callable[[Load], float]) -> float:
        """Return the median of a figure over the repetitions."""
        return median(figure(load) for load in loads)

    @property
    def failures(self) -> list[str]:
        """The failures of all repetitions."""
        return [failure for load in (*self.one, *self.many) for failure in load.failures]


def start(stack: ExitStack, folder: Path, console: Console) -> dict[str, Subject]:
    """Start all subjects; one that does not start is left out, and said."""
    core, _ = cores()
    journal = f"sqlite:{folder / 'journal.db'}"
    commands = {
        ECHO: [sys.executable, "-m", "bench.echo"],
        LOCK: [*processes.LOCK, f"{AGENT}:make_agent"],
        STRANDLINE: [*processes.STRANDLINE, AGENT, "--port", "0", "--journal", journal],
    }
    subjects: dict[str, Subject] = {
        LOOP: stack.enter_context(loop(core)),
        ONE_BY_ONE: stack.enter_context(loop(core, "--one-by-one")),
    }
    for number, (name, arguments) in enumerate(commands.items()):
        try:
            subjects[name] = stack.enter_context(server(arguments, core, folder / f"{number}.log"))
        except (DidNotStart, OSError) as error:
            console.print(f"[red]{name} did not start and is left out:[/red] {error}", highlight=False)
    return subjects


async def measure(subjects: dict[str, Subject], plan: Plan, console: Console) -> dict[str, Figures]:
    """Warm all subjects, then let them take turns."""
    figures: defaultdict[str, Figures] = defaultdict(lambda: Figures([], []))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(subjects) * (1 + plan.repetitions))
        for name, subject in subjects.items():
            progress.update(task, description=f"filling the windows: {name}")
            for count in (1, MANY):
                await subject.warm(count, WARM_TURNS)
            progress.advance(task)
        for repetition in range(1, plan.repetitions + 1):
            for name, subject in subjects.items():
                progress.update(task, description=f"{repetition} of {plan.repetitions}: {name}")
                figures[name].one.append(await subject.load(1, plan.one_s))
                figures[name].many.append(await subject.load(MANY, plan.many_s, probe_s=PROBE_S))
                progress.advance(task)
    return figures


# -- the report ---------------------------------------------------------------------------------------


def ms(q: float) -> Callable[[Load], float]:
    return lambda load: quantile(load.latencies_s, q) * 1000


def health_ms(q: float) -> Callable[[Load], float]:
    return lambda load: quantile(load.health_s, q) * 1000


def report(figures: dict[str, Figures], console: Console) -> None:
    """Print what was measured, each figure with its ratio to the loop's."""
    limit = figures[LOOP]
    per_s = limit.of(limit.many, lambda load: load.per_s)
    hot = figures[ONE_BY_ONE].of(figures[ONE_BY_ONE].many, lambda load: load.per_s)
    p50 = limit.of(limit.one, ms(0.5))
    many = Table(title=f"POST /chat, {MANY} sessions with a client each", title_justify="left")
    one = Table(title="POST /chat, 1 session with 1 client", title_justify="left")
    for table, columns in (
        (many, ("of loop", "of one by one", "a second", "CPU us", "health p50 ms", "p99", "max")),
        (one, ("p50 of loop's", "p50 ms", "p99 ms")),
    ):
        table.add_column("", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right")
    for name, seen in figures.items():
        here = seen.of(seen.many, lambda load: load.per_s)
        cpu_us = seen.of(seen.many, lambda load: load.cpu_s / len(load.latencies_s) * 1e6)
        probes: list[str] = []
        if seen.many[0].health_s:
            worst = max(max(load.health_s) for load in seen.many) * 1000
            probes = [*(f"{seen.of(seen.many, health_ms(q)):.1f}" for q in (0.5, 0.99)), f"{worst:.1f}"]
        many.add_row(name, f"{here / per_s:.2f}", f"{here / hot:.2f}", f"{here:,.0f}", f"{cpu_us:,.0f}", *probes)
        here = seen.of(seen.one, ms(0.5))
        one.add_row(name, f"{here / p50:.2f}", f"{here:.2f}", f"{seen.of(seen.one, ms(0.99)):.2f}")
    console.print(many, one)
    for name, seen in figures.items():
        if seen.failures:
            console.print(f"[red]{name}: {len(seen.failures)} failed, e.g. {seen.failures[0]}[/red]", highlight=False)
    spread = [load.per_s / per_s for load in limit.many]
    console.print(
        f"How quiet the machine was: the loop's own answers/s went from {min(spread):.2f} to {max(spread):.2f} of"
        " their median. The agents of the loop take turns, as sessions do; called one by one they run in warm caches.",
        highlight=False,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="POST /chat against the same agent called in a loop")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first look")
    plan = QUICK if parser.parse_args().quick else FULL
    console = Console()
    _, own_core = cores()
    # Subjects inherit the core of their parent, so they are started before this process is pinned.
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as folder, ExitStack() as stack:
        subjects = start(stack, Path(folder), console)
        with pinned(own_core):
            figures = uvloop.run(measure(subjects, plan, console))
    report(figures, console)


if __name__ == "__main__":
    main()
