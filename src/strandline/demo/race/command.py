"""What `strandline demo race` does, once its flags are read."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console

from strandline.demo.race.judge import judge
from strandline.demo.race.record import Act, Race
from strandline.demo.race.run import run
from strandline.demo.race.terminal import Screen, draw_act, introduction, marks_for, summary


class Silent:
    """A watcher who says nothing, for output that programs read."""

    def starting(self) -> None:
        """See that the servers start."""

    def goes_on(self, *_: object) -> None:
        """See an act."""

    def over(self, *_: object) -> None:
        """See an act that is over."""


def show(console: Console, *, kept: Path | None, as_json: bool) -> Race:
    """Run a race, or take one that was kept, and show it on the standard output. Raises `NotPlayed`."""
    if kept is not None:
        race = from_json(kept.read_bytes())
        if not as_json:
            marks = marks_for(console)
            console.print(introduction(marks, kept=True))
            for act in Act:
                console.print(draw_act(act, [play for play in race.plays if play.act is act], marks))
    elif as_json:
        # Seen on a terminal only.
        with _interrupted_once(), Console(stderr=True).status("Four servers, three acts: about 15 seconds ..."):
            race = run(Silent())
    else:
        with _interrupted_once(), Screen(console) as screen:
            race = run(screen)
    if as_json:
        sys.stdout.write(to_json(race))
    else:
        console.print(summary(race, marks_for(console)), end="")
    return race


def to_json(race: Race) -> str:
    """Return a race as JSON, with what is judged of each play."""
    told = msgspec.to_builtins(race)
    for play, seen in zip(told["plays"], race.plays, strict=True):
        judgement = judge(seen)
        play["judgement"] = {"holds": judgement.holds, **msgspec.to_builtins(judgement)}
    return json.dumps(told, indent=1) + "\n"


def from_json(text: bytes) -> Race:
    """Return the race that `to_json` wrote; it is judged again. Raises `msgspec.MsgspecError` for anything else."""
    return msgspec.json.decode(text, type=Race)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Make SIGTERM and a closed terminal end the race as Ctrl-C does; nobody interrupts the tidying up after that."""
    asked = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
