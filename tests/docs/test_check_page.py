"""`docs/check.md` is true: what it shows is printed, its files work, and every promise and adapter stands there."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.server import Server, serving
from docs.pages import DOCS, blocks, pattern, printed, typed_and_shown
from strandline._check.adapters import BUILT_IN
from strandline._check.suite import PROMISES

PAGE = "check.md"
TEXT = (DOCS / PAGE).read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    (command,) = blocks(PAGE, "sh")
    with serving(command.split()[2], folder=tmp_path_factory.mktemp("check")) as server:
        yield server


def test_every_command_prints_what_is_shown(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(next(text for text in blocks(PAGE, "python") if "mine.py" in text))
    shown = typed_and_shown(PAGE)
    assert len(shown) == 2
    for command, output in shown:
        said = printed(command, folder=tmp_path, url=server.url)
        assert re.fullmatch(pattern(output), said), f"{command}:\n{said}"


def test_the_probe_answers_for_another_framework() -> None:
    names: dict[str, Any] = {}
    exec(next(text for text in blocks(PAGE, "python") if "other.py" in text), names)
    question = 'probe {"session": "s", "label": "one"}'
    reply = asyncio.run(names["reply"]([{"role": "user", "content": question}]))
    assert '"probe": "one"' in reply
    assert '"sound": true' in reply


def test_every_promise_and_every_adapter_stands_there() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", TEXT, re.MULTILINE))
    assert {name: rows[name] for name in PROMISES} == PROMISES
    assert rows.keys() == PROMISES.keys() | BUILT_IN.keys()
