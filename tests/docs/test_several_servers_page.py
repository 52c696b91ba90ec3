"""`docs/several-servers.md`: a server with its journal in PostgreSQL, as the page starts it."""

import re
import tomllib
from pathlib import Path

from acceptance.server import ran, serving, until
from docs.page_run import init
from docs.page_table import claimed
from docs.pages import ROOT, block, printed, typed_and_shown
from strandline._journal.partitions import partition_of
from strandline._model import session_key


def test_a_server_keeps_its_journal_in_the_database_that_is_named(database: str, tmp_path: Path) -> None:
    install, export, serve = block("several-servers.md", "sh").splitlines()
    assert install == "pip install 'strandline[postgres]'"
    assert "postgres" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert export == "export STRANDLINE_JOURNAL=postgresql://ada@db.example/strandline"
    variables = {"STRANDLINE_JOURNAL": database}
    assert init(tmp_path) == serve.split()[2:]
    with serving(*serve.split()[2:], folder=tmp_path, journal=None, variables=variables) as server:
        assert server.chat("hello")["status"] == "success"
        server.kill()
        server.start()
        assert len(server.history()) == 2
    assert not list(tmp_path.rglob("*.db"))


def test_its_command_moves_a_journal_from_sqlite(database: str, tmp_path: Path) -> None:
    (copy,) = (
        each.text for each in claimed("several-servers.md", test_its_command_moves_a_journal_from_sqlite.__name__)
    )
    (target,) = init(tmp_path)[:1]
    with serving(target, folder=tmp_path, journal="sqlite:.strandline/journal.db") as server:
        server.chat("hello")
        server.terminate()
        assert server.ended() == 0
    name, *arguments = copy.replace("postgresql://ada@db.example/strandline", database).split()
    assert name == "strandline"
    done = ran(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with serving(target, folder=tmp_path, journal=database) as server:
        assert len(server.history()) == 2
        assert server.chat("hello")["status"] == "success"


def test_two_servers_are_seen_and_one_is_drained_as_shown(database: str, tmp_path: Path) -> None:
    (see, table), (drain, answer) = typed_and_shown(block("several-servers.md", "console", "strandline cluster"))

    def typed(command: str) -> str:
        return printed(command, folder=tmp_path, STRANDLINE_JOURNAL=database)

    def columns(text: str) -> list[list[str]]:
        return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]

    (target,) = init(tmp_path)[:1]
    with (
        serving(target, folder=tmp_path, journal=database),
        serving(target, folder=tmp_path, journal=database),
    ):
        until(lambda: len(re.findall(r"[1-9]\d* of 256", typed(see))) == 2, "each has a share")
        (header, *rows), (header_shown, *rows_shown) = columns(typed(see)), columns(table)
        assert header == header_shown
        assert [len(row) for row in rows] == [len(row) for row in rows_shown]
        ((look, owner),) = typed_and_shown(block("several-servers.md", "console", "cluster owner"))
        (header, row), (header_shown, row_shown) = columns(typed(look)), columns(owner)
        assert header == header_shown
        assert row[:2] == row_shown[:2] == ["ada", str(partition_of(session_key("ada", principal="web")))]
        assert row[-2:] in [each[-2:] for each in rows]
        second = rows[1][0]
        assert typed(drain.replace(" 2", f" {second}")) == answer.replace("Server 2", f"Server {second}")
