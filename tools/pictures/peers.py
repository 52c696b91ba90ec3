"""Servers side by side: the processor time of an answer, and what became of a session. Drawn from one run's record."""

from pathlib import Path
from typing import Final

from bench.peers.record import Record, load
from bench.peers.subjects import NAMES
from bench.peers.verdicts import verdicts
from tools.pictures.drawing import Drawing

MEASURED: Final = Path(__file__).parents[2] / "docs" / "benchmarks.json"
NAME, BARS, BAR, PILLS, PILL = 176, 188, 112, 352, 90
TOP, ROW = 74, 34
COLUMNS: Final = ("five at once", "after a failure", "kill -9")


def draw(record: Record | None = None) -> str:
    """Return the picture, of the record that is kept unless another one is given."""
    record = record or load(MEASURED.read_text())
    title = "The processor time of an answer, and what becomes of a session, for each server"
    picture = Drawing(TOP + len(record.figures) * ROW + 34, title)
    most = max((each.many_cpu_us or 0.0) for each in record.figures) or 1.0

    picture.text(BARS, 32, "processor time", "small", "start")
    picture.text(BARS, 50, "of an answer, ms", "small", "start")
    for place, words in enumerate(COLUMNS):
        picture.text(PILLS + place * (PILL + 4) + PILL / 2, 50, words, "small")
    for number, each in enumerate(record.figures):
        y = TOP + number * ROW
        own = each.key in ("memory", "sqlite", "postgresql")
        name = NAMES[each.key].replace("**", "").replace("`", "").replace("BedrockAgentCoreApp", "AgentCore app")
        picture.text(NAME, y + 15, name, "strong" if own else "", "end")
        if each.many_cpu_us is not None:
            width = max(each.many_cpu_us / most * BAR, 2)
            picture.box(BARS, y, width, 22, "work" if own else "wait", 3)
            inside = width > 60
            kind = "small on" if own and inside else "small"
            x, anchor = (BARS + width - 6, "end") if inside else (BARS + width + 5, "start")
            picture.text(x, y + 15, f"{each.many_cpu_us / 1000:.1f}", kind, anchor)
        for place, verdict in enumerate(verdicts(each)):
            x = PILLS + place * (PILL + 4)
            if verdict is None:
                picture.text(x + PILL / 2, y + 15, "–", "small")
            else:
                picture.box(x, y, PILL, 22, "good" if verdict.good else "bad", 6)
                picture.text(x + PILL / 2, y + 15, verdict.short, "small")
    machine = record.machine
    note = f"{machine.date}, {machine.cores} cores, load up to {machine.load_during:.0f}"
    picture.text(16, TOP + len(record.figures) * ROW + 16, f"{note}. Measured by: make bench-peers", "small", "start")
    return picture.svg()
