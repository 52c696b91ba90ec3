"""Rows for people: on a terminal the last column is cut at the edge, in a pipe every row is one whole line."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from strandline._cli import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS: Final = {
    "running": "green",
    "failed": "bold red",
    "cancelled": "yellow",
    "needs_input": "bold cyan",
    "holds": "green",
    "breaks": "bold red",
    "cannot": "yellow",
}
"""Colours only repeat what the words say."""
BARE: Final = "-"
_GAP: Final = "  "
_LEAST: Final = 12
_WIDEST: Final = 40


def show(head: Sequence[str], rows: Sequence[Sequence[str]], *, whole: bool = False) -> None:
    """Print rows under their heads; a word of `COLOURS` has its colour. With `whole` nothing is cut."""
    console = say.out()
    for line in lines(head, rows, console, whole=whole):
        console.print(line, soft_wrap=True)


def lines(
    head: Sequence[str], rows: Sequence[Sequence[str]], console: "Console", *, whole: bool = False
) -> "Iterator[Text]":
    """Yield the head and the rows, as that console has room for them."""
    from rich.cells import cell_len
    from rich.text import Text

    shown = [[clean(cell) for cell in row] for row in rows]
    widths = [max(cell_len(row[at]) for row in [list(head), *shown]) for at in range(len(head) - 1)]
    if console.is_terminal:  # a name that is longer moves its own row only
        widths = [min(width, _WIDEST) for width in widths]
    for number, row in enumerate([list(head), *shown]):
        line = Text()
        for cell, width in zip(row, widths, strict=False):
            style = COLOURS.get(cell.split(" ")[0], "") if number else ""
            line.append(cell, style)
            line.append(" " * (width - cell_len(cell)) + _GAP)
        last = Text(row[-1])
        if console.is_terminal and not whole:
            last.truncate(max(_LEAST, console.width - line.cell_len), overflow="ellipsis")
        line.append_text(last)
        line.rstrip()
        if number == 0:
            line.stylize("bold")
        yield line


def clean(text: str) -> str:
    """Return a text on one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def clock_time(text: str | None) -> str:
    """Return a time of the wire as local time, with the date unless it is today."""
    if text is None:
        return BARE
    at = datetime.fromisoformat(text).astimezone()
    today = datetime.now().astimezone().date()
    return f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"


def took(run: dict[str, Any]) -> str:
    """Return how long a run has executed."""
    if run["started_at"] is None:
        return BARE
    begun = datetime.fromisoformat(run["started_at"])
    end = datetime.fromisoformat(run["ended_at"]) if run["ended_at"] else datetime.now(begun.tzinfo)
    return seconds(max(0.0, (end - begun).total_seconds()))


def age_s(text: str) -> float:
    """Return how many seconds ago a time of the wire was."""
    at = datetime.fromisoformat(text)
    return max(0.0, (datetime.now(at.tzinfo) - at).total_seconds())


def seconds(duration_s: float) -> str:
    """Return a duration in few characters."""
    if duration_s < 10:
        return f"{duration_s:.1f} s"
    if duration_s < 120:
        return f"{duration_s:.0f} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 7200 else f"{duration_s / 3600:.0f} h"
