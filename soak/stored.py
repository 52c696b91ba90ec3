"""The list of accepted runs, read from the journal's file: for runs whose ids no client received.

The only place of the soak that knows the file: which runs there are, in the order of acceptance, and nothing else.
(`soak.database` reads the same from PostgreSQL.)
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Protocol

from soak.records import Stored

PATIENCE_S: Final = 0.05


class Unreadable(Exception):
    """The journal cannot be read just now."""


class Listing(Protocol):
    """The list of accepted runs."""

    def stored(self) -> list[Stored]:
        """Return all runs. Raises `Unreadable`."""
        ...

    def newest(self, session: str) -> str | None:
        """Return the id of the run that was accepted last in a session, as far as can be read just now."""
        ...


class FileListing:
    """The list in a file."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._newest_of: dict[str, str] = {}
        self._sequence = -1

    def stored(self) -> list[Stored]:
        """Return all runs. Raises `Unreadable` while the file is being opened."""
        return self._after(-1)

    def newest(self, session: str) -> str | None:
        """Return the id of the run that was accepted last in a session, as far as can be read just now."""
        with suppress(Unreadable):  # the file is just being opened: it is asked again
            for run in self._after(self._sequence):
                self._newest_of[run.session] = run.run_id
                self._sequence = run.sequence
        return self._newest_of.get(session)

    def _after(self, sequence: int) -> list[Stored]:
        try:
            with closing(sqlite3.connect(f"{self._journal.as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)) as file:
                rows = file.execute(
                    "SELECT seq, run_id, session_id, status, attempt FROM runs JOIN sessions ON no = session"
                    " WHERE seq > ? ORDER BY seq",
                    (sequence,),
                ).fetchall()
        except sqlite3.Error as error:
            raise Unreadable(str(error)) from error
        return [
            Stored(sequence=sequence, run_id=run_id, session=session, status=status, attempt=attempt)
            for sequence, run_id, session, status, attempt in rows
        ]
