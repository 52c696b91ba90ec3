"""How a page's blocks are tested where nothing is particular about them: in order, as a reader would type them.

| block | is |
|---|---|
| `console` | commands after `$ `, each of which prints what is shown below it |
| `sh` | commands that succeed and print something, if there is a `json` or `text` block below then that |
| `sh` that ends with `strandline serve` | the server that answers from then on; it logs the `text` block below |
| `python` with `# name.py` above | a file that is written; with a `text` block below, a program that prints it |
| `python` with a `text` block below | a program that prints it |

All other blocks need an entry in `page_table.py` that names their test.
"""

import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from acceptance.server import Server, ran, serving, texts, until
from docs.pages import Block, all_blocks, documents, pattern, shell, shows, shows_text, typed_and_shown
from ports import reserved_port

Prepare = Callable[[Path], list[str]]
"""Puts an agent into a folder, and returns the arguments of `strandline serve` for it."""

CLIENTS: Final = re.compile(
    r"strandline (chat|sessions|runs|history|cancel|move|edit|pause|resume|answer|schedules|files|again|restore|fork"
    r"|tree|export|webhooks)\b"
)
NO_PROVIDER: Final = dict.fromkeys(("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST", "AWS_PROFILE"), "")


def init(folder: Path) -> list[str]:
    """Write the agent that `strandline init` writes."""
    assert ran("init", ".", folder=folder).returncode == 0
    return ["agent.py"]


def agent(code: str) -> Prepare:
    """Write an agent that a page does not show."""

    def prepare(folder: Path) -> list[str]:
        (folder / "agent.py").write_text(code)
        return ["agent.py"]

    return prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is particular about a page."""

    served: Mapping[str, Prepare] = field(default_factory=lambda: {"": init})
    """The server from the first block on that contains a text; for a page that starts its own, none."""
    outside: bool = False
    """Whether its servers write nothing into the folder in which commands are typed."""
    asks: Collection[tuple[str, str, str]] = ()
    """What is asked of the targets that it serves: the beginning of a target, a message, and a part of the answer."""
    by: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The tests of blocks that are not tested in this way, with texts in these blocks or their fences."""
    drawn: Collection[str] = ()
    """Texts in blocks that nothing can test."""
    parts: bool = False
    """Whether its documents leave out keys."""
    loose: Collection[str] = ()
    """What is shown, and is another here."""
    says: Iterable[str] = ()
    """What the page has to say since the code says so."""
    lists: Mapping[str, Iterable[object]] = field(default_factory=dict)
    """By pattern: what all places that match it name, no more and no less."""

    def test_of(self, block: Block) -> str | None:
        """Return the first test that a block is given to."""
        return next((test for test, marks in self.by.items() if any(mark in block.fenced for mark in marks)), None)


@dataclass(frozen=True, slots=True)
class Step:
    """A block that is tested here, and the output that is shown below it."""

    block: Block
    output: str | None = None


def steps(name: str, page: Page) -> tuple[list[Step], list[Block]]:
    """Return what to do with a page's blocks, and those of which nobody knows that."""
    free = [
        None if page.test_of(each) or any(mark in each.fenced for mark in page.drawn) else each
        for each in all_blocks(name)
    ]
    found, unknown, is_output = [], [], False
    for block, after in pairwise([*free, None]):
        if block is None or is_output:
            is_output = False
            continue
        outputs = {"sh": ("json", "text"), "python": ("text",)}.get(block.language, ())
        is_output = after is not None and after.language in outputs
        if block.language in ("console", "sh") or (block.language == "python" and (is_output or block.file)):
            found.append(Step(block, after.text if after is not None and is_output else None))
        else:
            unknown.append(block)
    return found, unknown


class PageRun:
    """Executes the steps of one page in a folder."""

    def __init__(self, page: Page, folder: Path, stack: ExitStack) -> None:
        self._page = page
        self._folder = folder / "typed"
        self._folder.mkdir()
        self._outside = folder / "outside"
        self._outside.mkdir()
        self._serving = stack.enter_context(ExitStack())
        self._server: Server | None = None
        self._started = 0
        self._waiting = dict(page.served)
        self._run_id = "RUN_ID"

    def execute(self, step: Step) -> None:
        """Do what a block says; fails if something else comes of it."""
        block = step.block
        for mark in [each for each in self._waiting if each in block.text]:
            self._prepare(self._waiting.pop(mark))
        match block.language:
            case "python":
                self._program(step)
            case "console":
                assert block.text.startswith("$ "), f"{block.place} begins with no command"
                for command, shown in typed_and_shown(block.text):
                    self._compare(step, command, self._typed(step, command, both=True), shown)
            case _ if "strandline serve" in block.text.splitlines()[-1]:
                self._serve(step)
            case _:
                self._compare(step, block.text, self._typed(step, block.text, both=False), step.output)

    def _prepare(self, prepare: Prepare) -> None:
        folder = self._folder / f"served-{len(self._waiting)}"
        folder.mkdir()
        self._start(prepare(folder), folder)

    def _start(self, arguments: list[str], folder: Path) -> None:
        target = [arguments.pop(0)] if arguments and not arguments[0].startswith("-") else [None]
        self._folder = folder
        variables = {"STRANDLINE_DEMO_PACE": "0"}
        self._started += 1
        journal = None if self._started == 1 else f"sqlite:journal-{self._started}.db"
        if self._page.outside:
            variables["STRANDLINE_WORKSPACE"], journal = str(self._outside), f"sqlite:{self._outside / 'journal.db'}"
        self._serving.close()
        self._server = self._serving.enter_context(
            serving(*target, *arguments, folder=folder, journal=journal, variables=variables)
        )

    def _serve(self, step: Step) -> None:
        for line in step.block.text.splitlines():
            if line.startswith("cd "):
                self._folder /= line.removeprefix("cd ")
                continue
            assert line.startswith("strandline serve"), f"{step.block.place}: name a test of this block: {line}"
            arguments = shlex.split(line)[2:]
            self._start(list(arguments), self._folder)
            self._ask(step, arguments)
        if step.output is not None:
            server, shown = self._server, pattern(step.output)
            assert server is not None
            until(lambda: re.search(shown, server.stderr), f"{step.block.place} logs\n{step.output}\n{server.stderr}")

    def _ask(self, step: Step, arguments: list[str]) -> None:
        """Ask what the page's entry has for this target, in one session; another one hears nothing of it."""
        asked = [each for each in self._page.asks if " ".join(arguments).startswith(each[0])]
        assert asked or not self._page.asks, f"{step.block.place}: say in tests/docs/page_table.py what it answers"
        for _, message, answer in asked:
            assert self._server is not None
            got = self._server.chat(message, "ada")["response"]
            assert answer in got, (
                f"{step.block.place}: {message}\nanswered:\n{got}\nin tests/docs/page_table.py:\n{answer}"
            )
            if "--history" not in arguments:
                assert texts(self._server.history("ada"), "user")[-1] == message
            assert self._server.history("bob") == []

    def _program(self, step: Step) -> None:
        """Write a file, or run a program at the server: its address is in the program, or its argument."""
        block = step.block
        name = block.file or "program.py"
        (self._folder / name).write_text(block.text)
        if step.output is not None:
            url = "" if self._server is None else self._server.url
            here = block.text.replace("http://127.0.0.1:8080", url) if block.file is None else block.text
            (self._folder / name).write_text(here)
            self._compare(step, name, self._typed(step, f"{sys.executable} {name} {url}", both=False), step.output)

    def _typed(self, step: Step, command: str, *, both: bool) -> str:
        """Type commands; return what they print: as a terminal shows it, or on stdout if all succeed."""
        command = command.replace("RUN_ID", self._run_id)
        url = None if self._server is None else self._server.url
        variables = {**NO_PROVIDER, "HOME": str(self._folder), "AWS_EC2_METADATA_DISABLED": "true"}
        if url is not None and CLIENTS.match(command):
            variables["STRANDLINE_PORT"] = url.rpartition(":")[2]
        if command.startswith("strandline doctor"):  # the usual port may be taken on this machine
            variables["STRANDLINE_PORT"] = str(reserved_port())
        done = shell(f"exec 2>&1\n{command}" if both else command, folder=self._folder, url=url, **variables)
        failed = not both and (done.returncode, done.stderr) != (0, "")
        assert not failed, f"{step.block.place}: {command}\nexit code {done.returncode}\n{done.stderr}"
        self._run_id = next(iter(re.findall(r"run_[0-9a-f]{8,}", done.stdout)), self._run_id)
        return done.stdout.removeprefix(": alive\n\n")  # (a stream says so first if its run is slow to start)

    def _compare(self, step: Step, command: str, got: str, shown: str | None) -> None:
        if shown is None:
            assert got.strip(), f"{step.block.place}: {command}\nprinted nothing"
            return
        for each in self._page.loose:
            shown = shown.replace(each, "...")
        try:
            same = shows(documents(got), documents(shown), whole=not self._page.parts)
        except ValueError:  # not JSON
            same = shows_text(got, shown)
        assert same, f"{step.block.place}: {command}\nprinted:\n{got}\nshown:\n{shown}"
