"""One whole run: start all, measure in turns, then try each server. A failure is recorded; the rest continues."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

import uvloop

from bench.peers import trials
from bench.peers.measure import Called, Peer, Plan
from bench.peers.record import Figures
from bench.peers.subjects import LOOP, LOOP_AGENT, NAMES, Place, Subject
from bench.processes import DidNotStart, cores, loop, pinned, server
from tools.postgres import Cluster, why_no_postgres

PHASE_S: Final = 300.0
"""No phase of one subject takes longer, or it is left out."""

Progress = Callable[[str, int], None]
"""Called with the next step, and the number of steps done since."""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed versions. Raises `PackageNotFoundError`."""
    return {name: metadata.version(name) for name in packages}


class Run:
    """A run in a folder of its own. `figures` and `spread` are what it found."""

    def __init__(self, plan: Plan, servers: Sequence[Subject], folder: Path, progress: Progress) -> None:
        self._plan = plan
        self._servers = servers
        self._folder = folder
        self._progress = progress
        self.figures = {LOOP: Figures(LOOP, versions(["strands-agents"]))}
        self.load_during = 0.0
        """The highest load that was seen between two steps."""
        self._installed: set[str] = set()
        self._cluster: Cluster | None = None
        self.spread = [1.0]
        """The loop's answers a second in each repetition, of their median."""

    @property
    def steps(self) -> int:
        """How many steps `progress` hears of, if nothing fails."""
        return (len(self._servers) + 1) * (1 + self._plan.repetitions) + len(self._servers) * 2

    def __enter__(self) -> Self:
        """Start a PostgreSQL, if one is needed and can be had."""
        if any(each.needs_database for each in self._servers) and why_no_postgres() is None:
            with pinned(cores()[1]):
                self._cluster = Cluster(synced=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._cluster is not None:
            self._cluster.remove()

    def measure(self) -> None:
        """Measure all subjects, in turns."""
        with ExitStack() as stack:
            peers = self._start(stack)
            # Subjects inherit the core of their parent, so this process is pinned after them.
            stack.enter_context(pinned(cores()[1]))
            self._each(peers, "memory, context windows", lambda peer: peer.warm(self._plan))
            for number in range(1, self._plan.repetitions + 1):
                self._each(
                    peers, f"measuring, {number} of {self._plan.repetitions}", lambda peer: peer.repeat(self._plan)
                )
        for key, peer in peers.items():
            peer.taken.put(self.figures[key])
        if LOOP in peers:
            limit = [load.per_s for load in peers[LOOP].taken.many]
            self.spread = [each / median(limit) for each in limit]

    def try_each(self) -> None:
        """Give every server its trials."""
        for subject in self._servers:
            if subject.key in self._installed:
                self._try(subject, self.figures[subject.key])

    def _start(self, stack: ExitStack) -> dict[str, Called | Peer]:
        core, _ = cores()
        peers: dict[str, Called | Peer] = {LOOP: Called(stack.enter_context(loop(core, "--agent", LOOP_AGENT)))}
        for subject in self._servers:
            figures = Figures(subject.key, {})
            self.figures[subject.key] = figures
            self._progress(f"starting {subject.key}", 0)
            try:
                figures.versions = versions(subject.packages)
                place = self._place(subject, "measured")
                self._installed.add(subject.key)
                started = stack.enter_context(server(subject.command(place), core, place.folder / "server.log"))
            except metadata.PackageNotFoundError as error:
                figures.failures.append(f"{error.name} is not installed")
            except (DidNotStart, OSError) as error:
                figures.failures.append(f"it did not start: {error}")
            else:
                peers[subject.key] = Peer(started, subject.dialect)
        return peers

    def _each(
        self, peers: dict[str, Called | Peer], what: str, work: Callable[[Called | Peer], Coroutine[Any, Any, None]]
    ) -> None:
        """Do the same to each; one that fails has no further part."""
        for key, peer in list(peers.items()):
            if not self._phase(key, what, work(peer)):
                del peers[key]

    def _place(self, subject: Subject, what: str) -> Place:
        folder = self._folder / f"{subject.key}-{what}"
        folder.mkdir()
        if not subject.needs_database:
            return Place(folder)
        if self._cluster is None:
            raise DidNotStart(why_no_postgres() or "there is no PostgreSQL")
        return Place(folder, self._cluster.new_database())

    def _try(self, subject: Subject, figures: Figures) -> None:
        trial = trials.Trial(subject, self._place(subject, "tried"))

        async def running() -> None:
            with trial.running() as started:
                figures.five = await trials.five(trial, started.url)
                figures.failed = await trials.failed(trial, started.url)

        async def killed() -> None:
            figures.killed = await trials.killed(trial, self._plan.restart_s + subject.takeover_s)

        self._phase(subject.key, "five at once, a failed turn", running())
        self._phase(subject.key, "kill -9", killed())

    def _phase(self, key: str, what: str, work: Coroutine[Any, Any, None]) -> bool:
        self._progress(f"{NAMES[key].replace('*', '').replace('`', '')}: {what}", 0)
        try:
            uvloop.run(asyncio.wait_for(work, PHASE_S))
        except (DidNotStart, LookupError, OSError) as error:
            self.figures[key].failures.append(f"{what}: {error or type(error).__name__}")
            return False
        finally:
            self.load_during = max(self.load_during, os.getloadavg()[0])
            self._progress("", 1)
        return True
