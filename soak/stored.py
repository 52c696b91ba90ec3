"""The list of accepted runs, read from the journal's file: for runs whose ids no client received.

The only place of the soak that knows the file: which runs there are, in the order of acceptance, and nothing else.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from soak.records import Stored

PATIENCE_S: Final = 0.05


def stored(journal: Path, *, after: int = -1) -> list[Stored]:
    """Return the runs with a sequence above `after`. Raises `sqlite3.Error` while the file is being opened."""
    with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)) as file:
        rows = file.execute(
            "SELECT seq, run_id, session_id, status, attempt FROM runs JOIN sessions ON no = session"
            " WHERE seq > ? ORDER BY seq",
            (after,),
        ).fetchall()
    return [
        Stored(sequence=sequence, run_id=run_id, session=session, status=status, attempt=attempt)
        for sequence, run_id, session, status, attempt in rows
    ]
