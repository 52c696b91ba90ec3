"""The processes under load, each pinned to one core that the load generator leaves to them."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.load import Load, drive

ROOT = Path(__file__).parents[1]
START_S = 30.0
STRANDLINE = [sys.executable, "-c", "from strandline._cli import main; main()", "serve"]
LOCK = [sys.executable, "-m", "alternatives.lock", "--agent"]

_URL = re.compile(r"http://127\.0\.0\.1:\d+")


class DidNotStart(Exception):
    """A process ended, or printed no URL in time; the message is the end of what it said."""


def cores() -> tuple[set[int], set[int]]:
    """Return the core of the process under load and that of the load generator; empty where that is unknown."""
    if not hasattr(os, "sched_getaffinity"):
        return set(), set()
    free = sorted(os.sched_getaffinity(0))
    return {free[0]}, {free[-1]}


@contextmanager
def pinned(where: set[int]) -> Iterator[None]:
    """Keep this thread, and every process that it starts, on these cores."""
    if not where:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment(settings: dict[str, str] | None = None) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(settings or {})}


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server:
    """A server that speaks the original contract."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.pid = process.pid

    async def warm(self, sessions: int, turns: int) -> None:
        """Let every session have its turns."""
        load = await drive(self.url, sessions, turns=turns)
        if load.failures:
            raise DidNotStart(load.failures[0])

    async def load(self, sessions: int, seconds: float, *, probe_s: float | None = None) -> Load:
        """Load it and measure."""
        before = cpu_s(self.pid)
        load = await drive(self.url, sessions, seconds=seconds, probe_s=probe_s)
        load.cpu_s = cpu_s(self.pid) - before
        return load


class Loop:
    """The agent called in a loop; it does the same as a server, without one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def _report(self, **command: float) -> Load:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Load(**json.loads(self._process.stdout.readline()))

    async def warm(self, sessions: int, turns: int) -> None:
        """Let every session have its turns."""
        self._report(sessions=sessions, turns=turns)

    async def load(self, sessions: int, seconds: float, *, probe_s: float | None = None) -> Load:
        """Load it and measure; there is nothing to probe."""
        before = cpu_s(self.pid)
        load = self._report(sessions=sessions, seconds=seconds)
        load.cpu_s = cpu_s(self.pid) - before
        return load


Subject = Server | Loop


@contextmanager
def server(
    arguments: Sequence[str], core: set[int], log: Path, settings: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a server that prints its URL; what it prints goes to `log`. Raises `DidNotStart`.

    `settings` are environment variables of its own.
    """
    with log.open("w") as out, pinned(core):
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            text=True,
        )
    try:
        end = time.monotonic() + START_S
        while (found := _URL.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise DidNotStart(log.read_text()[-2000:] or "it said nothing")
            time.sleep(0.05)
        yield Server(found.group(), process)
    finally:
        _stop(process)


@contextmanager
def loop(core: set[int], *options: str) -> Iterator[Loop]:
    """Start the process that calls the agents in a loop."""
    with pinned(core):
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.loop", *options],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        yield Loop(process)
    finally:
        _stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def cpu_s(pid: int, *, ended_children: bool = False) -> float:
    """Return the CPU time that a process has used, and its children that have ended; 0 where that cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    ticks = sum(map(int, fields[11 : 15 if ended_children else 13]))
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def rss_bytes(pid: int) -> int:
    """Return the memory that a process holds; 0 where that cannot be seen."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
