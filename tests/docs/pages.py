"""Pages of the documentation, for tests: their blocks, what commands print, and whether a page shows the same."""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from acceptance.server import COMMAND, DEADLINE_S, environment

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
MYPY_S: Final = 300.0


# -- what a page has -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for the message of a failing test."""
        return f"{self.page}:{self.line}"

    @property
    def fenced(self) -> str:
        """Its text below its first fence."""
        return f"```{self.language}\n{self.text}"

    @property
    def file(self) -> str | None:
        """The name of the file that it shows, from its first line."""
        found = re.match(r"# (\w+\.py)\n", self.text)
        return found and found[1]


def text(page: str) -> str:
    """Return a page, which is in `docs/` or at the top of the checkout."""
    file = DOCS / page
    return (file if file.exists() else ROOT / page).read_text()


def all_blocks(page: str) -> list[Block]:
    """Return the blocks of a page in order, those in lists without their indent."""
    whole = text(page)
    return [
        Block(page, whole.count("\n", 0, found.start()) + 1, found[2], textwrap.dedent(found[3]))
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", whole, re.MULTILINE | re.DOTALL)
    ]


def blocks(page: str, language: str) -> list[str]:
    """Return the text of all blocks of a language, in order."""
    return [each.text for each in all_blocks(page) if each.language == language]


def block(page: str, language: str, containing: str = "") -> str:
    """Return the first block of a language that contains a text."""
    return next(each for each in blocks(page, language) if containing in each)


def files(page: str) -> dict[str, str]:
    """Return the files that a page shows, by name, without the line that names them."""
    return {each.file: each.text.partition("\n")[2] for each in all_blocks(page) if each.file is not None}


def write_files(page: str, folder: Path) -> Path:
    """Write the files that a page shows into a folder, and return the folder."""
    for name, code in files(page).items():
        (folder / name).write_text(code)
    return folder


def below(page: str, command: str) -> str:
    """Return the block below the one that contains a text."""
    found = all_blocks(page)
    return next(after.text for before, after in pairwise(found) if command in before.text)


def typed_and_shown(console: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a `console` block, and the output that is shown below it."""
    yield from re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)


# -- what is printed -----------------------------------------------------------------------------------


def shell(
    command: str, *, folder: Path, url: str | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run commands of a page in a shell, with a server's address in place of the page's."""
    for there in ("http://localhost:8080", "http://127.0.0.1:8080", "localhost:8080", "127.0.0.1:8080"):
        if url is not None:
            command = command.replace(there, url)
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-ec", command],  # (each of the commands has to succeed)
        cwd=folder,
        env=environment({"PATH": path, "NO_COLOR": "1", **variables}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def printed(command: str, *, folder: Path, url: str | None = None, **variables: str) -> str:
    """Run commands of a page, which must succeed; return what they print."""
    done = shell(command, folder=folder, url=url, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def type_checked(*files: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Have mypy check files of a page as strictly as those of this project, and with what it knows since `make check`.

    To look at all packages that they import takes it half a minute.
    """
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-pretty"),
            *("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"), *files),
        ],
        cwd=folder,
        env=environment({"MYPYPATH": str(ROOT / "src")}),
        capture_output=True,
        text=True,
        timeout=MYPY_S,
        check=False,
    )


# -- whether it is what is shown -----------------------------------------------------------------------


def pattern(shown: str) -> str:
    """Return what shown text matches: `...` is anything, alone on a line any lines; 8080 is any port; spaces differ."""
    lines = []
    for line in shown.strip("\n").splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        words = [r".*?".join(re.escape(part) for part in word.split("...")) for word in re.split(r" +", line.rstrip())]
        lines.append(r" +".join(words).replace("8080", r"\d+") + r"\n")
    return "".join(lines)


def shows_text(got: str, shown: str) -> bool:
    """Return whether a text is what a page shows, but for spaces at the ends of lines and empty lines around."""
    lines = "\n".join(line.rstrip() for line in got.splitlines()).strip("\n")
    return re.fullmatch(pattern(shown), f"{lines}\n" if lines else "") is not None


def documents(text: str) -> list[Any]:
    """Return the JSON documents of a text, one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def shows(got: Any, shown: Any, *, whole: bool = True) -> bool:
    """Return whether a document is what a page shows; unless `whole`, a page may leave out keys.

    `...` in a string is anything. Durations differ each time.
    """
    match shown:
        case "...":
            return got not in (None, "")
        case str():
            return isinstance(got, str) and re.fullmatch(".*".join(map(re.escape, shown.split("..."))), got) is not None
        case dict():
            known = isinstance(got, dict) and (list(got) == list(shown) if whole else shown.keys() <= got.keys())
            return known and all(
                key.endswith("_s") or shows(got[key], value, whole=whole) for key, value in shown.items()
            )
        case list():
            return (
                isinstance(got, list)
                and len(got) == len(shown)
                and all(shows(one, other, whole=whole) for one, other in zip(got, shown, strict=True))
            )
        case _:
            return bool(got == shown)
