"""The life of a run, drawn from the table of moves. A move or status that is added to the table is drawn too."""

from collections.abc import Iterable
from typing import Final

from strandline._lifecycle import ENDED, MOVES
from strandline._model import RunStatus
from tools.pictures.drawing import Drawing

KINDS: Final = {
    RunStatus.SUCCEEDED: "good",
    RunStatus.FAILED: "bad",
    RunStatus.CANCELLED: "wait",
    RunStatus.NEEDS_INPUT: "ask",
}
TALL, WIDE, GAP = 44, 118, 76
LEFT, MIDDLE, RIGHT = 56, 258, 508


def draw() -> str:
    """Return the picture."""
    first, second = [status for status in RunStatus if status not in ENDED]
    ended = _outside_first([s for s in RunStatus if s in ENDED], _reached_from(first))
    height = 40 + len(ended) * GAP + 20
    picture = Drawing(height, "The life of a run: the statuses, and the moves between them")
    centre = 24 + (len(ended) * GAP) / 2
    rows = {status: 24 + GAP / 2 + row * GAP for row, status in enumerate(ended)}

    picture.path(f"M14 {centre}H{LEFT - 2}")
    for (start, move), end in MOVES.items():
        match (start, end):
            case _ if start is first and end is second:
                picture.path(f"M{LEFT + WIDE} {centre - 9}H{MIDDLE - 2}")
                picture.text((LEFT + WIDE + MIDDLE) / 2, centre - 16, str(move), "small")
            case _ if start is second and end is first:
                picture.path(f"M{MIDDLE} {centre + 9}H{LEFT + WIDE + 2}")
                picture.text((LEFT + WIDE + MIDDLE) / 2, centre + 26, str(move), "small")
            case _ if start is second:
                y = rows[end]
                out = MIDDLE + WIDE
                picture.path(f"M{out} {centre}C{out + 40} {centre} {out + 12} {y} {out + 62} {y}H{RIGHT - 2}")
                picture.label(RIGHT - 44, y + 4, str(move))
            case _:
                y = rows[end]
                edge = y - 12 if y < centre else y + 12
                side = centre - TALL / 2 if y < centre else centre + TALL / 2
                x = LEFT + WIDE / 2
                picture.path(f"M{x} {side}C{x} {edge} {x + 40} {edge} {x + 110} {edge}H{RIGHT - 2}")
                picture.label(x + 150, edge + 4, str(move))
    picture.named_box(LEFT, centre - TALL / 2, WIDE, TALL, str(first), kind="box")
    picture.named_box(MIDDLE, centre - TALL / 2, WIDE, TALL, str(second), kind="own")
    for status, y in rows.items():
        picture.named_box(RIGHT, y - TALL / 2, WIDE, TALL, str(status), kind=KINDS.get(status, "box"))
    picture.text(320, height - 14, "every ended run has exactly one outcome, stored before any client sees it", "small")
    return picture.svg()


def _reached_from(status: RunStatus) -> set[RunStatus]:
    return {end for (start, _), end in MOVES.items() if start is status}


def _outside_first(statuses: Iterable[RunStatus], outside: set[RunStatus]) -> list[RunStatus]:
    """Return the statuses so that those of `outside` are at the two ends, where a line can go round the others."""
    inner: list[RunStatus] = []
    ends: tuple[list[RunStatus], list[RunStatus]] = ([], [])
    for status in statuses:
        if status in outside:
            ends[len(ends[0]) > len(ends[1])].append(status)
        else:
            inner.append(status)
    return [*ends[0], *inner, *reversed(ends[1])]
