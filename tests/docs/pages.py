"""Pages of the documentation, for tests that do what stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from acceptance.server import COMMAND, environment

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
MYPY_S: Final = 300.0


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a language, in order."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def block(page: str, language: str, containing: str) -> str:
    """Return the first code block of a language that contains a text."""
    return next(text for text in blocks(page, language) if containing in text)


def commands_and_output(page: str) -> list[tuple[str, str]]:
    """Return each block of commands that is followed by what it prints as JSON, with only prose between them."""
    text = (DOCS / page).read_text()
    found = re.findall(r"^```sh\n((?:(?!^```).)*?)^```\n((?:(?!^```).)*)^```json\n(.*?)^```", text, re.M | re.S)
    return [(command, shown) for command, _, shown in found]


def printed(command: str, *, folder: Path, url: str | None = None, **variables: str) -> str:
    """Run commands of a page in a shell, with a server's address in place of the page's; return what they print."""
    for there in ("http://localhost:8080", "http://127.0.0.1:8080", "localhost:8080", "127.0.0.1:8080"):
        if url is not None:
            command = command.replace(there, url)
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-ec", command],  # (each of the commands has to succeed)
        cwd=folder,
        env=environment({"PATH": path, "NO_COLOR": "1", **variables}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
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


def documents(text: str) -> list[Any]:
    """Return the JSON documents that stand one after the other, without what differs each time."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(_plain(document))
        text = text[end:]
    return found


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(each) if not _differs(key) else "..." for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case _:
            return value


def _differs(key: str) -> bool:
    return key in {"run_id", "toolUseId", "version"} or key.endswith(("_s", "_at"))


def typed_and_shown(page: str) -> list[tuple[str, str]]:
    """Return each command of a page's `console` blocks, and the output that is shown below it."""
    return [
        (command, output)
        for text in blocks(page, "console")
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    ]


def pattern(shown: str) -> str:
    """Return what the shown output matches: `...` is anything, alone on a line any lines, and spaces may differ."""
    lines = []
    for line in shown.splitlines():
        if line == "...":
            lines.append(r"(?:.*\n)*?")
            continue
        words = [r".*?".join(re.escape(part) for part in word.split("...")) for word in re.split(r" +", line)]
        lines.append(r" +".join(words) + r"\n")
    return "".join(lines)


def api_variables(command: str, url: str) -> dict[str, str]:
    """Return the setting by which a command of a page finds the server that is there."""
    is_client = re.match(r"strandline (chat|sessions|runs|history|cancel|move|pause|resume|answer)\b", command)
    return {"STRANDLINE_PORT": url.rpartition(":")[2]} if is_client else {}
