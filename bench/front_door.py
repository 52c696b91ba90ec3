"""From nothing to a first answer, in seconds and megabytes: `python -m bench.front_door [--quick] [--cold]`.

How long `strandline --help` takes; how long `serve` takes until it is ready, by step and by whose imports; how long it
takes from an empty environment to an answer of one's own agent; and what an installation adds to that of
`strands-agents` alone. The last two install from the package registry as pip is configured here, with the versions of
`constraints.txt`.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections import defaultdict
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.processes import ROOT

AGENT = """
from strands import Agent
from strandline.testing import ScriptedModel


def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(lambda messages: "Hello."))
"""
START_S = 60.0
_URL = re.compile(r"http://127\.0\.0\.1:\d+")
_IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")
_OURS = re.compile(r"STRANDLINE_|AGENT_ID$|PORT$|IDLE_TIMEOUT_MINUTES$")


def environment(*, checkout: bool) -> dict[str, str]:
    """Return this environment without settings of ours; with `checkout`, this checkout is what is imported."""
    clean = {name: value for name, value in os.environ.items() if not _OURS.match(name) and name != "PYTHONPATH"}
    return {**clean, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])} if checkout else clean


class Took(NamedTuple):
    """How long a process took: by the clock, and of the processor, which says more while others work."""

    clock_s: float
    cpu_s: float


def ended(process: "subprocess.Popen[str]") -> float:
    """Wait for a process, and return the CPU time that it and its children took."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def timed(command: list[str], folder: Path, *, checkout: bool = True) -> Took:
    """Return how long a command takes."""
    began = time.perf_counter()
    env = environment(checkout=checkout)
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, text=True)
    cpu_s = ended(process)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Took(time.perf_counter() - began, cpu_s)


def until_ready(command: list[str], folder: Path, *, checkout: bool = True, ask: bool = False) -> Took:
    """Return how long a server takes until it says its address, or with `ask` until it has answered.

    The CPU time is that of its whole short life.
    """
    began = time.perf_counter()
    env = environment(checkout=checkout)
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if (found := _URL.search(line)) is not None:
            if ask:
                body = json.dumps({"message": "hello"}).encode()
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(f"{found[0]}/chat", body, timeout=START_S) as response:
                    assert json.load(response)["response"] == "Hello."
            clock_s = time.perf_counter() - began
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            return Took(clock_s, ended(process))
    raise SystemExit(f"the server did not start:\n{said}")


def serve(python: Path | str) -> list[str]:
    """Return the command that serves the agent."""
    program = "from strandline._cli import main; main()"
    return [str(python), "-c", program, "serve", "agent.py", "--port", "0", "--journal", "sqlite:journal.db"]


def steps(folder: Path, runs: int) -> dict[str, float]:
    """Return the median milliseconds of each step until a server is ready."""
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        command = [sys.executable, "-m", "bench.start", "agent.py", repr(time.time())]
        done = subprocess.run(
            command, cwd=folder, env=environment(checkout=True), capture_output=True, text=True, check=True
        )
        for name, took in json.loads(done.stdout):
            taken[name].append(took * 1000)
    return {name: statistics.median(each) for name, each in taken.items()}


def imports(folder: Path) -> dict[str, float]:
    """Return the import time of each package's own modules in milliseconds, as Python measures it (at a cost)."""
    command = [sys.executable, "-X", "importtime", "-m", "bench.start", "agent.py", repr(time.time())]
    done = subprocess.run(
        command, cwd=folder, env=environment(checkout=True), capture_output=True, text=True, check=True
    )
    found: dict[str, float] = defaultdict(float)
    for micros, module in _IMPORTED.findall(done.stderr):
        top = module.partition(".")[0]
        found["Python's own" if top in sys.stdlib_module_names else top] += int(micros) / 1000
    return found


def install(folder: Path, *what: str, cold: bool) -> tuple[Path, float]:
    """Make an empty environment and install into it; return its Python, and how many seconds the install took."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-cache-dir"] if cold else []
    versions = folder / "versions.txt"
    pins = subprocess.run([python, ROOT / "tools/pins.py", "versions"], capture_output=True, text=True, check=True)
    versions.write_text(pins.stdout)
    command = [*pip, *options, "-c", str(versions), *what]
    return python, timed(command, folder, checkout=False).clock_s


def sizes(environment: Path) -> dict[str, tuple[float, float]]:
    """Return what each installed package takes, in MB: without its compiled modules, and with them."""
    (packages,) = environment.glob("lib/python*/site-packages")
    found = {each.name.lower(): size(each) for each in distributions(path=[str(packages)])}
    return {name: both for name, both in found.items() if name not in ("pip", "setuptools")}


def size(package: Distribution) -> tuple[float, float]:
    """Return the MB that a package's files take, without `.pyc` and with."""
    bare = whole = 0
    for file in package.files or []:
        path = Path(str(package.locate_file(file)))
        if path.is_file():
            whole += path.stat().st_size
            bare += 0 if path.suffix == ".pyc" else path.stat().st_size
    return bare / 1e6, whole / 1e6


def quick_part(console: Console, folder: Path, runs: int) -> None:
    """Measure the command and the start of a server."""
    nothing = [timed([sys.executable, "-c", "pass"], folder) for _ in range(runs)]
    helps = [timed([*serve(sys.executable)[:3], "--help"], folder) for _ in range(runs)]
    starts = [until_ready(serve(sys.executable), folder) for _ in range(runs)]
    table = Table(title=f"At the command line, in ms, {runs} runs", title_justify="left")
    for column in ("", "median", "worst", "median CPU", "goal"):
        table.add_column(column, justify="right" if column else "left")
    rows = [("python -c pass", nothing, ""), ("strandline --help", helps, "150"), ("serve until ready", starts, "1500")]
    for name, took, goal in rows:
        clock = [each.clock_s for each in took]
        figures = (statistics.median(clock), max(clock), statistics.median(each.cpu_s for each in took))
        table.add_row(name, *(f"{1000 * each:.0f}" for each in figures), goal)
    console.print(table)
    table = Table(title="Until ready, by step", title_justify="left")
    table.add_column("")
    table.add_column("ms", justify="right")
    taken = steps(folder, runs)
    for name, ms in taken.items():
        table.add_row(name, f"{ms:.0f}")
    table.add_row("together", f"{sum(taken.values()):.0f}", style="bold")
    console.print(table)
    table = Table(title="Imports, by whose modules they are (measured with an overhead)", title_justify="left")
    table.add_column("")
    table.add_column("ms", justify="right")
    found = sorted(imports(folder).items(), key=lambda item: -item[1])
    for name, ms in found[:14]:
        table.add_row(name, f"{ms:.0f}")
    table.add_row(f"{len(found) - 14} others", f"{sum(ms for _, ms in found[14:]):.0f}")
    console.print(table)


def installed_part(console: Console, folder: Path, *, cold: bool) -> None:
    """Measure an installation into an empty environment."""
    wheels = folder / "wheels"
    timed([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)], folder)
    (wheel,) = wheels.glob("*.whl")
    python, install_s = install(folder / "ours", str(wheel), cold=cold)
    first_s = until_ready(serve(python), folder, checkout=False, ask=True).clock_s
    ours = sizes(folder / "ours")
    install(folder / "theirs", "strands-agents", cold=cold)
    theirs = sizes(folder / "theirs")
    downloads = "downloads included" if cold else "downloads from pip's cache, if it has them"
    table = Table(title=f"From an empty environment ({downloads})", title_justify="left")
    for column in ("", "s", "goal"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(f"install the wheel, with {len(ours) - 1} packages", f"{install_s:.1f}", "")
    table.add_row("first start until the first answer", f"{first_s:.1f}", "")
    table.add_row("together", f"{install_s + first_s:.1f}", "30", style="bold")
    console.print(table)
    added = sorted(ours.keys() - theirs.keys(), key=lambda name: -ours[name][1])
    table = Table(title="What it adds to strands-agents", title_justify="left")
    for column in ("", "MB", "with .pyc", "goal"):
        table.add_column(column, justify="right" if column else "left")
    for name in added:
        table.add_row(name, *(f"{each:.1f}" for each in ours[name]))
    both = [sum(ours[name][place] for name in added) for place in (0, 1)]
    table.add_row("together", *(f"{each:.1f}" for each in both), "15", style="bold")
    alone = [sum(each[place] for each in theirs.values()) for place in (0, 1)]
    table.add_row(f"strands-agents alone, {len(theirs)} packages", *(f"{each:.1f}" for each in alone))
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="from nothing to a first answer")
    parser.add_argument("--quick", action="store_true", help="nothing that installs packages")
    parser.add_argument("--cold", action="store_true", help="without pip's cache")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="how often each command is run")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="strandline-bench-") as name:
        folder = Path(name)
        (folder / "agent.py").write_text(AGENT)
        quick_part(console, folder, options.runs)
        if not options.quick:
            installed_part(console, folder, cold=options.cold)


if __name__ == "__main__":
    main()
