"""Runs a whole race in a temporary folder, and ends every process that it started."""

import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final, Protocol

from strandline import __version__
from strandline._demo.race.play import LiveTrial
from strandline._demo.race.processes import Contestant
from strandline._demo.race.record import Race, Scenario, Server, Trial

FRAME_S: Final = 0.1


class Watcher(Protocol):
    """An observer of the race."""

    def starting(self) -> None:
        """The servers are starting."""
        ...

    def progress(self, scenario: Scenario, plays: Sequence[Trial], now: float) -> None:
        """A scenario is being played, `now` seconds after its start; called every tenth of a second."""
        ...

    def over(self, scenario: Scenario, plays: Sequence[Trial]) -> None:
        """A scenario is over."""
        ...


def run(watcher: Watcher, interrupted: Event) -> Race:
    """Play all scenarios on all servers, side by side, and return the record.

    Raises `NotPlayed` if a server does not start or answer, and `KeyboardInterrupt` soon after `interrupted` is set. No
    process and no file is left, however it ends.
    """
    began = time.monotonic()
    plays: list[Trial] = []
    with (
        tempfile.TemporaryDirectory(prefix="strandline-race-") as folder,
        ThreadPoolExecutor(len(Server), thread_name_prefix="race") as threads,
        # Closed before the threads are waited for, so that none of them waits for a server any more.
        _contestants(Path(folder)) as contestants,
    ):
        _watch([threads.submit(each.start) for each in contestants], watcher.starting, interrupted)
        for scenario in Scenario:
            playing = [LiveTrial(each, scenario) for each in contestants]
            played = [threads.submit(each.play) for each in playing]
            _watch(played, partial(_look, watcher, scenario, playing), interrupted)
            plays += [each.result() for each in played]
            watcher.over(scenario, plays[-len(contestants) :])
    return Race(
        strandline=__version__,
        strands=importlib.metadata.version("strands-agents"),
        python=platform.python_version(),
        seconds=round(time.monotonic() - began, 1),
        plays=plays,
    )


@contextmanager
def _contestants(folder: Path) -> Iterator[list[Contestant]]:
    contestants = []
    for server in Server:
        own_folder = folder / server.value
        own_folder.mkdir()
        contestants.append(Contestant(server, own_folder))
    try:
        yield contestants
    finally:
        for each in contestants:
            each.close()


def _watch(tasks: Iterable["Future[Any]"], look: Callable[[], None], interrupted: Event) -> None:
    """Call `look` every tenth of a second until all tasks are done; raise the first error."""
    pending = set(tasks)
    while pending:
        if interrupted.is_set():
            raise KeyboardInterrupt
        look()
        done, pending = wait(pending, FRAME_S, FIRST_EXCEPTION)
        for each in done:
            each.result()


def _look(watcher: Watcher, scenario: Scenario, playing: Sequence[LiveTrial]) -> None:
    watcher.progress(scenario, [each.seen() for each in playing], max(each.now() for each in playing))
