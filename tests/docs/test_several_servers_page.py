"""`docs/several-servers.md`: a server with its journal in PostgreSQL, as the page starts it."""

import tomllib
from pathlib import Path

from acceptance.server import serving
from docs.page_run import init
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
