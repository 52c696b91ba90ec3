"""The page's part that a run writes: the conditions, the table and its notes, all from one record."""

from collections.abc import Callable
from typing import Final

from bench.peers.measure import HOT, MANY
from bench.peers.record import Figures, Record
from bench.peers.subjects import NAMES, NOTES
from bench.peers.verdicts import verdicts

BEGIN: Final = "<!-- measured: written by `make bench-peers` -->"
END: Final = "<!-- /measured -->"
DASH: Final = "–"
OWN_LOAD: Final = 2
"""What the server and its load generator make of a machine's load."""

Cell = Callable[[Figures], str | None]


def _number(figure: Callable[[Figures], float | None], form: str) -> Cell:
    def cell(each: Figures) -> str | None:
        value = figure(each)
        return None if value is None else format(value, form)

    return cell


def _words(trial: int) -> Cell:
    def cell(each: Figures) -> str | None:
        verdict = verdicts(each)[trial]
        return None if verdict is None else verdict.words

    return cell


def _health(each: Figures) -> str | None:
    if each.health_p50_ms is None or each.health_max_ms is None:
        return None
    return f"{each.health_p50_ms:.1f} / {each.health_max_ms:.0f}"


def _hot(each: Figures) -> str | None:
    if each.hot_per_s is None or each.hot_refused is None:
        return None
    refused = f", {each.hot_refused:.0%} refused" if each.hot_refused >= 0.005 else ""
    return f"{each.hot_per_s:,.0f}{refused}"


ROWS: Final[tuple[tuple[str, Cell], ...]] = (
    ("One client: median, ms", _number(lambda each: each.one_p50_ms, ".2f")),
    ("One client: p95, ms", _number(lambda each: each.one_p95_ms, ".2f")),
    (f"{MANY} sessions: answers/s", _number(lambda each: each.many_per_s, ",.0f")),
    (f"{MANY} sessions: processor time of an answer, us", _number(lambda each: each.many_cpu_us, ",.0f")),
    ("Health meanwhile: median / slowest, ms", _health),
    (f"One session, {HOT} clients: answers/s", _hot),
    ("First text of a stream: median, ms", _number(lambda each: each.first_text_p50_ms, ".2f")),
    ("Memory, idle: MB", _number(lambda each: each.idle_mb, ".0f")),
    ("Memory of a live session: KB", _number(lambda each: each.session_kb, ".0f")),
    ("Five requests to a session at once", _words(0)),
    ("A turn fails in the model", _words(1)),
    ("`kill -9` while the first of five executes", _words(2)),
)


def table(record: Record) -> str:
    """Return the table, a column for each subject; what there is no figure of is a dash."""
    names = [f"{NAMES[each.key]} ({number})" for number, each in enumerate(record.figures, 1)]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for label, cell in ROWS:
        lines.append(f"| {label} | {' | '.join(cell(each) or DASH for each in record.figures)} |")
    return "\n".join(lines)


def notes(record: Record) -> str:
    """Return what must be known of each subject, with its versions and what failed."""
    lines = []
    for number, each in enumerate(record.figures, 1):
        versions = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        name = NAMES[each.key].replace("**", "")
        said = [NOTES[each.key], *(f"Failed in this run: {failure.splitlines()[-1]}." for failure in each.failures)]
        lines.append(f"{number}. {name}: {versions or 'left out'}. {' '.join(filter(None, said))}".rstrip())
    return "\n".join(lines)


def conditions(record: Record) -> str:
    """Return one paragraph: when, where, and how quiet it was."""
    machine = record.machine
    load = f"load {machine.load_before:.1f} before, up to {machine.load_during:.1f} during"
    busy = max(machine.load_before, machine.load_during - OWN_LOAD) > machine.cores
    quiet = f"The loop's own answers went from {min(record.spread):.2f} to {max(record.spread):.2f} of their median."
    where = f"{machine.processor}, {machine.cores} cores, {machine.system}, Python {machine.python}"
    sentences = [f"{machine.date}; {where}; {record.took_s / 60:.0f} minutes, {load}. {quiet}"]
    if busy:
        sentences.append(
            "**Other work kept this machine busy**: compare the times roughly, and only with each other."
            " The last three rows do not depend on it."
        )
    if record.quick:
        sentences.append("A `--quick` run: one repetition of everything, so its times are only a first look.")
    return " ".join(sentences)


def written(record: Record) -> str:
    """Return the part of the page, between its marks."""
    return "\n\n".join([BEGIN, conditions(record), table(record), notes(record), END])


def put(page: str, record: Record) -> str:
    """Return the page with its part written anew. Raises `ValueError` if its marks are gone."""
    start, end = page.index(BEGIN), page.index(END) + len(END)
    return page[:start] + written(record) + page[end:]
