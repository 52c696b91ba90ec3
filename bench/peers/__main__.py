"""Strandline beside its peers, on this machine: real servers on loopback, one agent that gives one scripted answer.

Every subject has one core, its load comes from another. They take turns (A B C A B C), because no machine is quiet, and
medians count. Then each server gets its trials: five requests to one session at once, a turn that fails, kill -9.
`make bench-peers` installs what is compared, in exact versions, into an environment of its own, and runs this.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.peers.measure import FULL, QUICK
from bench.peers.record import Machine, Record, load
from bench.peers.report import DASH, ROWS, put
from bench.peers.run import Run
from bench.peers.subjects import SERVERS
from bench.processes import ROOT
from tools.pictures.peers import draw

PAGE: Final = ROOT / "docs" / "benchmarks.md"
RECORD: Final = ROOT / "docs" / "benchmarks.json"
PICTURE: Final = ROOT / "docs" / "pictures" / "peers.svg"


def processor() -> str:
    """Return the processor's name, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


@contextmanager
def progress(console: Console) -> Iterator[tuple[Progress, Callable[[str, int], None]]]:
    """Show a bar; yield it and the function that moves it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")

        def step(what: str, done: int) -> None:
            bar.update(task, advance=done, description=what or None)
            if what and not console.is_terminal:
                console.print(what, highlight=False)

        yield bar, step


def run(*, quick: bool, only: list[str], console: Console) -> Record:
    """Do one whole run."""
    servers = [each for each in SERVERS if not only or each.key in only]
    began, before = time.monotonic(), os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="strandline-peers-") as folder,
        progress(console) as (bar, step),
        Run(QUICK if quick else FULL, servers, Path(folder), step) as done,
    ):
        bar.update(bar.task_ids[0], total=done.steps)
        done.measure()
        done.try_each()
    machine = Machine(
        date=datetime.now(UTC).date().isoformat(),
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        processor=processor(),
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        load_before=round(before, 1),
        load_during=round(done.load_during, 1),
        load_after=round(os.getloadavg()[0], 1),
    )
    took_s = round(time.monotonic() - began, 1)
    return Record(machine, quick, took_s, [round(each, 3) for each in done.spread], list(done.figures.values()))


def show(record: Record, console: Console) -> None:
    """Print the table of the page."""
    table = Table(show_lines=True)
    table.add_column("")
    for each in record.figures:
        table.add_column(each.key, justify="right")
    for label, cell in ROWS:
        table.add_row(label.replace("`", ""), *(cell(each) or DASH for each in record.figures))
    console.print(table)
    for each in record.figures:
        for failure in each.failures:
            console.print(f"[red]{each.key}: {failure}[/red]", highlight=False)
    machine = record.machine
    spread = f"{min(record.spread):.2f} to {max(record.spread):.2f}"
    console.print(
        f"{record.took_s:.0f} s, load {machine.load_before} before, {machine.load_during} at most,"
        f" {machine.load_after} after; the loop's own answers went from {spread} of their median.",
        highlight=False,
    )


def write(record: Record) -> None:
    """Write the record, the picture and the page's part."""
    RECORD.write_text(record.dump())
    PICTURE.write_text(draw(record))
    PAGE.write_text(put(PAGE.read_text(), record))


def main() -> None:
    """Run it, or draw again what was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes, for a first look at everything")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[each.key for each in SERVERS],
        help="this server; repeat for more",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was found here too")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md, its JSON and its picture")
    parser.add_argument("--again", action="store_true", help="measure nothing: write these from docs/benchmarks.json")
    options = parser.parse_args()
    console = Console()
    if options.again:
        write(load(RECORD.read_text()))
        return
    if options.write and options.only:
        parser.error("--write needs all servers: leave out --only")
    record = run(quick=options.quick, only=options.only, console=console)
    show(record, console)
    if options.json:
        options.json.write_text(record.dump())
    if options.write:
        write(record)


if __name__ == "__main__":
    main()
