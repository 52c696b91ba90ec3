"""`Screen` draws: answers, history, what one waits for. It knows no HTTP and reads no input.

On a terminal Markdown is rendered and one line at the bottom says how it stands; in a pipe there is the plain text of
the answer on the standard output, and nothing else.
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

from strandline.chat.events import Answer, Event, InLine, Kept, Lost, Refused, Waiting
from strandline.chat.turns import ToolCall, Turn, brief
from strandline.printable import clean

SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
ASCII_SPINNER: Final = "|/-\\"
BRIEF_LINES: Final = 8
SILENT_S: Final = 0.4
"""An answer that comes within this time is not worth a line that says that one waits."""


class _Heading(Heading):
    """A heading at the left, as it was written; Rich centres them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _Markdown(Markdown):
    """Markdown with such headings, and with the addresses of its links: many terminals would not show them."""

    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading}

    def __init__(self, markup: str) -> None:
        super().__init__(markup, hyperlinks=False)


class Screen:
    """What people see. `plain`: answers go to the standard output as they are, all else to the other one."""

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)
        self._told = self._err if plain else self._out
        self._drawn = False
        self._ticks = 0

    # -- one question ------------------------------------------------------------------------------

    def show(self, event: Event) -> None:
        """Draw what happens."""
        match event:
            case Waiting() | InLine():
                if event.elapsed_s >= SILENT_S:
                    self._draw_line(_standing(event))
            case Kept(run_id=run_id):
                self.note(f"The server stops or reloads; it keeps this run ({run_id}), which goes on when it is back")
            case Refused(reason=reason, wait_s=wait_s, again=True):
                self._draw_line(f"{reason}; trying again in {wait_s:g} s")
            case Refused(reason=reason, wait_s=wait_s):
                self.note(f"Not now: {reason}. Nothing was accepted; trying again in {wait_s:g} s (Ctrl-C gives up)")
            case Lost():
                self.note("The connection broke; looking for the answer in the history")
            case Answer():
                self._answer(event)

    def _answer(self, answer: Answer) -> None:
        self.clear_line()
        if not answer.ok:
            self.error(f"the agent failed ({answer.body.get('error_code', 'error')}): {answer.text}")
        elif self.plain:
            self.write(clean(answer.text) if self._out.is_terminal else answer.text)
        else:
            if answer.found:
                self.note("Found in the history:")
            self._out.print(Padding(_Markdown(clean(answer.text)), (0, 0, 1, 2)))

    def write(self, text: str) -> None:
        """Write a result to the standard output, as it is. Raises `BrokenPipeError`."""
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()

    # -- a conversation ----------------------------------------------------------------------------

    def welcome(self, url: str, health: dict[str, Any], session: str) -> None:
        """Say who answers."""
        version = f", Strandline {health['version']}" if "version" in health else ""
        name = clean(str(health["agent_id"]))
        self._out.print(Text.assemble((name, "bold"), clean(f" answers at {url}{version}")), soft_wrap=True)
        self._out.print(Text("/help tells what else you can type, Ctrl-D leaves", "dim"))
        if health.get("ready") is False:
            self.note("It is starting or stopping at the moment: questions are not taken yet")

    def turns(self, turns: Sequence[Turn], session: str, *, whole: bool) -> None:
        """Draw turns of the past; unless `whole`, long texts are cut."""
        if not turns:
            self._out.print(Text(f"Nothing has been said in session {session} yet", "dim"))
        else:
            how_many = "The last turn" if len(turns) == 1 else f"The last {len(turns)} turns"
            self._out.print(Text(f"{how_many} of session {session}:", "dim"))
        for turn in turns:
            self._out.print(Text.assemble((f"{session}> ", "bold cyan"), _cut(clean(turn.question), whole)))
            for said in turn.said:
                if isinstance(said, ToolCall):
                    self.tool(said)
                else:
                    self._out.print(Padding(_Markdown(_cut(clean(said), whole)), (0, 0, 0, 2)))
            self._out.print()

    def tools(self, turn: Turn) -> None:
        """Draw which tools a turn used."""
        for call in turn.tools:
            self.tool(call)

    def tool(self, call: ToolCall) -> None:
        """Draw a tool's call, on one line."""
        line = Text(f"  * {clean(brief(call))}", "red" if call.failed else "dim")
        line.truncate(self._out.width, overflow="ellipsis")
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
        """Say something that is no answer."""
        self.clear_line()
        self._told.print(Text(clean(text), "yellow"))

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self.clear_line()
        console = self._err if self.plain else self._out
        console.print(Text.assemble(("strandline: ", "bold red"), clean(text)), soft_wrap=self.plain)

    # -- the line at the bottom --------------------------------------------------------------------

    def _draw_line(self, text: str) -> None:
        if not self._told.is_terminal or self._told.is_dumb_terminal:
            return
        self._ticks += 1
        wheel = SPINNER if self._told.encoding.startswith("utf") else ASCII_SPINNER
        line = f"{wheel[self._ticks % len(wheel)]} {' '.join(clean(text).split())}"
        width = self._told.width - 1
        if cell_len(line) > width:
            line = set_cell_size(line, width)
        start, end = ("", "") if self._told.no_color else ("\x1b[2m", "\x1b[0m")
        self._told.file.write(f"\r\x1b[2K{start}{line}{end}")
        self._told.file.flush()
        self._drawn = True

    def clear_line(self) -> None:
        """Take the line away."""
        if self._drawn:
            self._told.file.write("\r\x1b[2K")
            self._told.file.flush()
            self._drawn = False

    @contextmanager
    def quiet_keys(self) -> Iterator[None]:
        """Let what is typed meanwhile not be drawn into the line; it is there at the next prompt."""
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
        """Return the prompt, with what readline needs to know of its width."""
        if self._out.no_color or self._out.is_dumb_terminal or os.environ.get("TERM") is None:
            return f"{session}> "
        return f"\x01\x1b[1;36m\x02{session}>\x01\x1b[0m\x02 "


def _standing(event: Waiting | InLine) -> str:
    seconds = f"{event.elapsed_s:.0f} s"
    match event:
        case InLine(position=None, phase=phase):
            return f"{seconds} · it executes: {phase}"
        case InLine(position=position, estimated_wait_s=estimate):
            before = (position or 1) - 1
            runs = {0: "next in its line", 1: "1 run before it"}.get(before, f"{before} runs before it")
            return f"{seconds} · {runs}" + (f", about {estimate:.0f} s" if estimate else "")
        case Waiting(running=None):
            return seconds if event.elapsed_s < 1 else f"{seconds} · the server says nothing at the moment"
        case Waiting(running=running, queued=queued):
            executes = "1 run executes" if running == 1 else f"{running} runs execute"
            return f"{seconds} · on the server {executes}, {queued} {'waits' if queued == 1 else 'wait'}"


def _cut(text: str, whole: bool) -> str:
    lines = text.splitlines()
    if whole or len(lines) <= BRIEF_LINES:
        return text
    return "\n".join([*lines[:BRIEF_LINES], "", f"... ({len(lines) - BRIEF_LINES} more lines)"])
