"""`docs/workers.md`: what it shows is so in a server with workers, and its figures are those of the code."""

import os
import re
import shlex
import signal
from collections.abc import Iterator
from typing import Final

import pytest

from acceptance.server import Server, until
from docs.pages import below, block, documents, printed, shows, text, write_files
from strandline._config import descriptions

PAGE: Final = "workers.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the page's server, in whose folder its file is."""
    folder = tmp_path_factory.mktemp("workers")
    write_files(PAGE, folder)
    _, _, target, *flags = shlex.split(block(PAGE, "sh", "serve"))
    server = Server(target, *flags, folder=folder)
    try:
        server.start()
        yield server
    finally:
        server.close()


def without_pids(text: str) -> str:
    return re.sub(r"(Process |\"pid\":)\d+", r"\g<1>0", text)


def test_two_sessions_are_in_two_workers_and_one_continues_after_its_worker_died(server: Server) -> None:
    command, shown = block(PAGE, "sh", "curl"), below(PAGE, "curl")
    output = printed(command, folder=server.folder, url=server.url)
    assert shows(documents(without_pids(output)), documents(without_pids(shown)))

    def pids(text: str) -> list[str]:
        return re.findall(r"Process (\d+)", text) + re.findall(r'"pid":(\d+)', text)

    for each in (output, shown):
        ada, bob, *workers = pids(each)
        assert ada != bob
        assert {ada, bob} == set(workers)

    ada, bob = pids(output)[:2]
    os.kill(int(ada), signal.SIGKILL)
    until(lambda: f"worker 0 (process {ada}) has died" in server.stderr, "its death")
    assert ada not in server.chat("and now?", "ada")["response"]
    assert f"Process {bob} " in server.chat("and now?", "bob")["response"]
    assert len(server.history("ada")) == 4


def test_the_settings_of_the_page_are_there() -> None:
    named = set(re.findall(r"`((?:max|executor|hold|cancel|agent|log|unknown|idempotent)_\w+)`", text(PAGE)))
    assert len(named) > 8
    assert named <= set(descriptions())
