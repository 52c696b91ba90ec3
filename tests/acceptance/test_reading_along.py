"""Others may look into the journal while it is served: a person with `sqlite3`, a backup, a monitor."""

import fcntl
from pathlib import Path

import pytest

from acceptance.checkpoints import checkpoints
from acceptance.server import TARGETS, serving

DEAD_MAN_SWITCH = 128
"""The byte of the `-shm` file that every process has locked that has the journal open (UNIX_SHM_DMS in os_unix.c)."""


def test_a_server_that_took_over_a_crash_keeps_its_locks(tmp_path: Path) -> None:
    """A process that opens the file next to a server that has lost them believes to be alone, and recreates the shared
    memory: the server dies of SIGBUS if it looks there meanwhile, and both may write at once."""
    with (
        checkpoints() as at,
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
    ):
        for label in ("one", "two"):
            assert server.chat(f"{label} a")["response"] == f"{label}: did a"
            with (tmp_path / "journal.db-shm").open("r+b") as file, pytest.raises(BlockingIOError):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, DEAD_MAN_SWITCH)
            if label == "one":
                server.kill()  # the WAL stays, and is looked through by the next one
                server.start()
