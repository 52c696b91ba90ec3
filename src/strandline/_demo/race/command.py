"""The implementation of `strandline demo race`."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType

import msgspec
from rich.console import Console

from strandline._demo.race.judge import judge
from strandline._demo.race.record import Race, Scenario
from strandline._demo.race.run import run
from strandline._demo.race.terminal import Screen, draw_scenario, introduction, marks_for, summary


class Silent:
    """A watcher without output, for `--json`."""

    def starting(self) -> None:
        """The servers are starting."""

    def progress(self, *_: object) -> None:
        """A scenario is being played."""

    def over(self, *_: object) -> None:
        """A scenario is over."""


def show(console: Console, *, saved: Path | None, as_json: bool) -> Race:
    """Run a race, or load a saved one, and show it on the standard output. Raises `NotPlayed`."""
    if saved is not None:
        race = from_json(saved.read_bytes())
        if not as_json:
            marks = marks_for(console)
            console.print(introduction(marks, saved=True))
            for scenario in Scenario:
                console.print(
                    draw_scenario(scenario, [play for play in race.plays if play.scenario is scenario], marks)
                )
    elif as_json:
        # Visible on a terminal only.
        status = Console(stderr=True).status("Four servers, three scenarios: about 15 seconds ...")
        with _interrupts() as interrupted, status:
            race = run(Silent(), interrupted)
    else:
        with _interrupts() as interrupted, Screen(console) as screen:
            race = run(screen, interrupted)
    if as_json:
        sys.stdout.write(to_json(race))
    else:
        console.print(summary(race, marks_for(console)), end="")
    return race


def to_json(race: Race) -> str:
    """Return a race as JSON, with the judgement of each trial."""
    data = msgspec.to_builtins(race)
    for play, seen in zip(data["plays"], race.plays, strict=True):
        judgement = judge(seen)
        play["judgement"] = {"holds": judgement.holds, **msgspec.to_builtins(judgement)}
    return json.dumps(data, indent=1) + "\n"


def from_json(text: bytes) -> Race:
    """Return the race that `to_json` wrote; it is judged again. Raises `msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(text, type=Race)


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Let Ctrl-C, SIGTERM and a closed terminal only set the yielded event.

    An exception could be raised anywhere: where it is swallowed, or where it leaves a lock held.
    """
    interrupted = Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
