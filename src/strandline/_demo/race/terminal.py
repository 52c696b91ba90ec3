"""Draws a race in a terminal, 80 columns wide: a timeline for each request, and the findings about each server.

It is readable without colours. The drawing comes from the record, the sentences from the judgement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from strandline._demo.race.judge import judge
from strandline._demo.race.record import ClientResult, Invocation, Race, Scenario, Server, Trial
from strandline._demo.race.text import MEANINGS, NAMES, SCENARIOS, fate, findings

WIDTH: Final = 80
BAR: Final = 50
SCALE_S: Final = 3.2
"""The length of the timeline while a scenario is being played."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The characters of a drawing."""

    waits: str
    works: str
    fails: str
    cut: str
    yes: str
    no: str
    rule: str


FINE: Final = Marks(waits="·", works="█", fails="▒", cut="╳", yes="✓", no="✗", rule="─")
PLAIN: Final = Marks(waits=".", works="#", fails="%", cut="X", yes="ok", no="NO", rule="-")


def marks_for(console: Console) -> Marks:
    """Return the marks that the console's encoding can show."""
    return FINE if console.encoding.lower().replace("-", "").startswith("utf") else PLAIN


class Screen:
    """A watcher that draws on a console: live on a terminal, elsewhere each scenario when it is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._marks = marks_for(console)
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._console.print(introduction(self._marks, saved=False))
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def starting(self) -> None:
        """Show that the servers are starting."""
        self._show(Text("Four servers start ...", "dim"))

    def progress(self, scenario: Scenario, plays: Sequence[Trial], now: float) -> None:
        """Draw a scenario so far."""
        self._show(draw_scenario(scenario, plays, self._marks, now))

    def over(self, scenario: Scenario, plays: Sequence[Trial]) -> None:
        """Draw a finished scenario with its findings, permanently."""
        self._show(Text())
        self._console.print(draw_scenario(scenario, plays, self._marks))

    def _show(self, what: RenderableType) -> None:
        if self._live is not None:
            self._live.update(what, refresh=True)


def introduction(marks: Marks, *, saved: bool) -> Text:
    """Return the introduction of a race that is run now, or was `saved`."""
    text = Text().append("One session, five requests at once, four servers, one agent\n", "bold")
    text.append(
        "Each server is a real process. The agent books seats with a tool that takes a\n"
        "moment; its model is a script that refuses a conversation as Amazon Bedrock\n"
        "does. As it comes, Strands refuses a call while another one executes; it can\n"
        "also let all calls in (UNSAFE_REENTRANT).\n"
    )
    if not saved:
        text.append("It takes about 15 seconds; everything shown is measured in them.\n")
    text.append("\n")
    text.append(f"{marks.waits * 3}", "dim").append(" waits  ")
    text.append(f"{marks.works * 3}", "green").append(" in the agent  ")
    text.append(f"{marks.fails * 3}", "red").append(" in the agent, and fails  ")
    return text.append(marks.cut, "bold red").append(" killed\n")


def draw_scenario(scenario: Scenario, plays: Sequence[Trial], marks: Marks, now: float | None = None) -> Group:
    """Draw a scenario on all servers, on one scale; with `now`, while it is being played."""
    number = list(Scenario).index(scenario) + 1
    title = Text().append(f"{marks.rule * 2} {number}. {SCENARIOS[scenario]} ", "bold")
    title.append(marks.rule * (WIDTH - len(title)), "dim")
    lines = [title, Text(f"{MEANINGS[scenario]}", "dim")]
    ends = [_end(play) for play in plays]
    scale_s = max(ends) if now is None else max(SCALE_S, now)
    for play in plays:
        lines += _draw_play(play, marks, scale_s, now)
    return Group(*lines)


def _end(play: Trial) -> float:
    moments = [request.ended_at or 0.0 for request in play.requests] + [
        invocation.ended_at or 0.0 for invocation in play.invocations
    ]
    return max(*moments, play.killed_at or 0.0, play.ready_at or 0.0, 0.1)


def _draw_play(play: Trial, marks: Marks, scale_s: float, now: float | None) -> list[Text]:
    judgement = judge(play) if now is None else None
    head = Text().append(NAMES[play.server], "bold")
    if play.killed_at is not None and play.ready_at is not None:
        head.append(f"  killed at {play.killed_at:.1f} s, up at {play.ready_at:.1f} s", "dim")
    if judgement is not None:
        word, style = (f"{marks.yes} holds", "bold green") if judgement.holds else (f"{marks.no} breaks", "bold red")
        head.append(" " * (WIDTH - len(head) - len(word))).append(word, style)
    elif play.note and play.ready_at is None:
        head.append(f"  {play.note}", "dim")
    lines = [head]
    for request in play.requests:
        row = Text(f"  {request.seat} ").append(_bar(play, request.seat, marks, scale_s, now))
        row.append(f"  {fate(play, request, judgement)}", "" if request.got is ClientResult.ANSWER else "dim")
        lines.append(row)
    if judgement is not None:
        said = Text("  ")
        for index, (good, text) in enumerate(findings(play, judgement)):
            said.append("; " if index else "").append(text, "" if good else "red")
        lines += _wrapped(said.append("."))
        lines.append(Text())
    return lines


def _wrapped(text: Text) -> list[Text]:
    lines = text.wrap(Console(width=WIDTH - 2), WIDTH - 2)
    for line in lines:
        line.rstrip()
    return [line if number == 0 else Text("  ").append(line) for number, line in enumerate(lines)]


def _bar(play: Trial, seat: int, marks: Marks, scale_s: float, now: float | None) -> Text:
    """Return the line of time of one request."""
    request = next(each for each in play.requests if each.seat == seat)
    invocations = [invocation for invocation in play.invocations if invocation.seat == seat]
    bar = Text()
    step = scale_s / BAR
    killed = None if play.killed_at is None else min(int(play.killed_at / step), BAR - 1)
    was_there = request.got is ClientResult.NOTHING
    for cell in range(BAR):
        begin, end = cell * step, (cell + 1) * step
        invocation = next(
            (each for each in invocations if each.begun_at < end and _until(each, play, now) > begin), None
        )
        if killed == cell and was_there:
            bar.append(marks.cut, "bold red")
        elif invocation is not None and invocation.failed:
            bar.append(marks.fails, "red")
        elif invocation is not None:
            bar.append(marks.works, "red" if _is_cut(invocation, play) else "green")
        elif request.sent_at < end and begin < _waits_until(play, seat, invocations, request.ended_at, now):
            bar.append(marks.waits, "dim")
        else:
            bar.append(" ")
    return bar


def _until(invocation: Invocation, play: Trial, now: float | None) -> float:
    if invocation.ended_at is not None:
        return invocation.ended_at
    if _is_cut(invocation, play):
        return play.killed_at or 0.0
    return now or 0.0


def _is_cut(invocation: Invocation, play: Trial) -> bool:
    return invocation.ended_at is None and play.killed_at is not None and invocation.begun_at <= play.killed_at


def _waits_until(
    play: Trial, seat: int, invocations: Sequence[Invocation], ended_at: float | None, now: float | None
) -> float:
    """Return when a request has stopped to wait: when its last spell began, else when its client got something."""
    if invocations:
        return invocations[-1].begun_at
    if ended_at is not None:
        return ended_at
    return now or 0.0


def summary(race: Race, marks: Marks) -> Text:
    """Return what stands below the acts: who held in which act."""
    widest = max(map(len, NAMES.values()))
    text = Text()
    heads = ("five at once", "one fails", "kill -9")
    text.append(" " * (widest + 2)).append("".join(f"{head:<16}" for head in heads).rstrip() + "\n", "bold")
    for server in Server:
        text.append(f"{NAMES[server]:<{widest + 2}}", "bold" if server is Server.STRANDLINE else "")
        for scenario in Scenario:
            holds = judge(race.play(server, scenario)).holds
            word = f"{marks.yes} holds" if holds else f"{marks.no} breaks"
            text.append(f"{word:<16}", "green" if holds else "red")
        text.rstrip()
        text.append("\n")
    text.append(
        f"\nMeasured in {race.seconds:g} s with Strandline {race.strandline}, Strands {race.strands}, Python "
        f"{race.python}.\n",
        "dim",
    )
    return text
