"""`Screen` draws answers, history and status. It knows no HTTP and reads no input.

On a terminal it renders Markdown, with a status line at the bottom; in a pipe the standard output has the plain text of
the answer, and nothing else.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.padding import Padding
from rich.text import Text

from strandline._chat.progress import Note, Said, ToolUsed
from strandline._chat.turns import ToolCall, Turn, brief
from strandline._printable import clean

SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_SPINNER: Final = "|/-\\"
BRIEF_LINES: Final = 8
SILENT_S: Final = 0.4
"""Faster answers get no status line."""
MOST_LIVE_LINES: Final = 12
"""How many lines of an unfinished message are shown."""


class _Heading(Heading):
    """A left-aligned heading; Rich centres them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _Markdown(Markdown):
    """Markdown with left-aligned headings and visible link addresses, which many terminals would hide."""

    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, markup: str) -> None:
        super().__init__(markup, hyperlinks=False)


class Screen:
    """The output for people. `plain`: answers go unchanged to the standard output, all else to the standard error."""

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)
        self._console = self._err if plain else self._out
        self._drawn = 0
        self._ticks = 0

    # -- one run -----------------------------------------------------------------------------------

    def show(self, what: Said | ToolUsed | Note) -> None:
        """Draw an event. A `plain` screen shows only notes; its answer comes at the end."""
        match what:
            case Note(text=text):
                self.note(text)
            case Said(text=text) if not self.plain:
                self.clear_line()
                self._out.print(Padding(_Markdown(clean(text)), (0, 0, 1, 2)))
            case ToolUsed(call=call, took_s=took_s) if not self.plain:
                self.clear_line()
                self.tool(call, took_s)

    def live(self, text: str, status: str, elapsed_s: float) -> None:
        """Draw the changing part: the tail of the model's text, and the status line below."""
        if elapsed_s >= SILENT_S or (text and not self.plain):
            self._draw([] if self.plain else self._tail(text), status)

    def status(self, text: str) -> None:
        """Draw the status line alone."""
        self._draw([], text)

    def answer(self, text: str) -> None:
        """Write an answer unchanged, but on a terminal without control characters. Raises `BrokenPipeError`."""
        self.clear_line()
        self.write(clean(text) if self._out.is_terminal else text)

    def write(self, text: str) -> None:
        """Write a result to the standard output. Raises `BrokenPipeError`."""
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    # -- a conversation ----------------------------------------------------------------------------

    def welcome(self, url: str, health: dict[str, Any], session: str) -> None:
        """Show which server answers."""
        version = f", Strandline {health['version']}" if "version" in health else ""
        name = clean(str(health["agent_id"]))
        self._out.print(Text.assemble((name, "bold"), clean(f" answers at {url}{version}")), soft_wrap=True)
        self._out.print(Text("/help lists the commands, Ctrl-D exits", "dim"))
        if health.get("ready") is False:
            self.note("It accepts no messages at the moment: it is starting, stopping, or cannot store them")

    def turns(self, turns: Sequence[Turn], session: str, *, whole: bool) -> None:
        """Draw past turns; unless `whole`, long texts are cut."""
        if not turns:
            self._out.print(Text(f"Session {session} has no messages yet", "dim"))
        else:
            how_many = "The last turn" if len(turns) == 1 else f"The last {len(turns)} turns"
            self._out.print(Text(f"{how_many} of session {session}:", "dim"))
        for turn in turns:
            sender = (f"{clean(turn.sender)}: " if turn.sender else "", "cyan")
            self._out.print(Text.assemble((f"{session}> ", "bold cyan"), sender, _cut(clean(turn.question), whole)))
            for said in turn.said:
                if isinstance(said, ToolCall):
                    self.tool(said)
                else:
                    self._out.print(Padding(_Markdown(_cut(clean(said), whole)), (0, 0, 0, 2)))
            self._out.print()

    def tool(self, call: ToolCall, took_s: float | None = None) -> None:
        """Draw a tool call on one line: arguments, result and duration."""
        took = "" if took_s is None else f" · {duration(took_s)}"
        line = Text(f"  * {clean(brief(call))}", "red" if call.failed else "dim")
        line.truncate(self._out.width - len(took), overflow="ellipsis")
        line.append(took)
        self._out.print(line, no_wrap=True, crop=True)

    def table(self, values: dict[str, Any]) -> None:
        """Draw names and values."""
        width = max(map(len, values), default=0)
        for name, value in values.items():
            shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
            self._out.print(Text.assemble((f"  {name:<{width}}  ", "dim"), clean(str(shown))))

    def text(self, text: str) -> None:
        """Write lines as they are."""
        self._out.print(Text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a notice."""
        self.clear_line()
        self._console.print(Text(clean(text), "yellow"))

    def error(self, text: str) -> None:
        """Show an error."""
        self.clear_line()
        console = self._err if self.plain else self._out
        console.print(Text.assemble(("strandline: ", "bold red"), clean(text)), soft_wrap=self.plain)

    # -- what changes, at the bottom ---------------------------------------------------------------

    def _tail(self, text: str) -> list[str]:
        """Return as many last lines of a text as fit."""
        room = max(1, min(MOST_LIVE_LINES, self._console.height - 3))
        shown = Text(clean(text[-room * self._console.width :]), tab_size=4)
        if not text.strip():
            return []
        return [f"  {line.plain}" for line in list(shown.wrap(self._console, self._console.width - 3))[-room:]]

    def _draw(self, lines: list[str], status: str) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        self._ticks += 1
        wheel = SPINNER if self._console.encoding.startswith("utf") else ASCII_SPINNER
        line = f"{wheel[self._ticks % len(wheel)]} {' '.join(clean(status).split())}"
        width = self._console.width - 1
        if cell_len(line) > width:
            line = set_cell_size(line, width)
        start, end = ("", "") if self._console.no_color else ("\x1b[2m", "\x1b[0m")
        self._console.file.write(self._erased() + "\n".join([*lines, f"{start}{line}{end}"]))
        self._console.file.flush()
        self._drawn = len(lines) + 1

    def clear_line(self) -> None:
        """Erase the changing part."""
        if self._drawn:
            self._console.file.write(self._erased())
            self._console.file.flush()
            self._drawn = 0

    def _erased(self) -> str:
        """Return the control sequence that erases the changing part, and moves the cursor to its start."""
        return "\r" + (f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else "") + "\x1b[J"

    @contextmanager
    def quiet_keys(self) -> Iterator[None]:
        """Turn off echo in the block; text typed meanwhile appears at the next prompt."""
        try:
            import termios

            descriptor = sys.stdin.fileno()
            before = termios.tcgetattr(descriptor)
        except (ImportError, OSError, ValueError):
            yield
            return
        except Exception as error:  # (termios.error is no OSError)
            if type(error).__name__ != "error":
                raise
            yield
            return
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        try:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
            self.clear_line()

    def prompt(self, session: str) -> str:
        """Return the prompt, with the markers that readline needs to measure it."""
        if self._out.no_color or self._out.is_dumb_terminal or os.environ.get("TERM") is None:
            return f"{session}> "
        return f"\x01\x1b[1;36m\x02{session}>\x01\x1b[0m\x02 "


def duration(seconds: float) -> str:
    """Return a duration as people read it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"


def _cut(text: str, whole: bool) -> str:
    lines = text.splitlines()
    if whole or len(lines) <= BRIEF_LINES:
        return text
    return "\n".join([*lines[:BRIEF_LINES], "", f"... ({len(lines) - BRIEF_LINES} more lines)"])
