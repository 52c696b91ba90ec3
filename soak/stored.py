"""The list of accepted runs, read from the journal's file: for runs whose ids no client received.

The only place of the soak that knows the file: which runs there are, in the order of acceptance, and nothing else.
(`soak.database` reads the same from PostgreSQL.)
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Protocol

from soak.message import LABEL
from soak.records import Stored

PATIENCE_S: Final = 0.05


class Unreadable(Exception):
    """The journal cannot be read just now."""


class Listing(Protocol):
    """The list of accepted runs."""

    def stored(self) -> list[Stored]:
        """Return all runs. Raises `Unreadable`."""
        ...

    def accepted(self, session: str, label: str) -> str | None:
        """Return the id of the run that was accepted last in a session, if it has this label and can be read now."""
        ...


class FileListing:
    """The list in a file."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal

    def stored(self) -> list[Stored]:
        """Return all runs. Raises `Unreadable` while the file is being opened."""
        return [
            Stored(sequence=sequence, run_id=run_id, session=session, status=status, attempt=attempt)
            for sequence, run_id, session, status, attempt in self._read(
                "SELECT seq, run_id, session_id, status, attempt FROM runs JOIN sessions ON no = session ORDER BY seq"
            )
        ]

    def accepted(self, session: str, label: str) -> str | None:
        """Return the id of the run that was accepted last in a session, if it has this label and can be read now."""
        with suppress(Unreadable):  # the file is just being opened: it is asked again
            for run_id, said in self._read(
                "SELECT run_id, input FROM runs WHERE session = (SELECT no FROM sessions WHERE session_id = ?)"
                " ORDER BY seq DESC LIMIT 1",
                session,
            ):
                return run_id if has_label(said, label) else None
        return None

    def _read(self, statement: str, *values: str) -> list[Any]:
        try:
            with closing(sqlite3.connect(f"{self._journal.as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)) as file:
                return file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise Unreadable(str(error)) from error


def has_label(said: bytes, label: str) -> bool:
    """Return whether an input, as it is stored, says what was sent with a label."""
    found = LABEL.search(said.decode(errors="replace"))
    return found is not None and found[0] == label
