"""`docs/several-servers.md`: a server with its journal in PostgreSQL, as the page starts it."""

import tomllib
from pathlib import Path

from acceptance.server import ran, serving
from docs.page_run import init
from docs.page_table import claimed
from docs.pages import ROOT, block


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
