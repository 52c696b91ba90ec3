"""What the statements of the journal are executed on: a connection to a database, whichever it is.

Statements have `?` or `:name` for their values and are in the SQL that both SQLite and PostgreSQL understand. The few
that PostgreSQL has to be asked in other words are constants, which `postgres/dialect.py` translates.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """What a statement has found."""

    @property
    def rowcount(self) -> int:
        """How many rows it has changed."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, None if there is none."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows that are left."""
        ...

    def close(self) -> None:
        """Let go of what was not fetched."""
        ...


class Database(Protocol):
    """A connection."""

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = (), /) -> Rows:
        """Execute a statement."""
        ...

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> Any:
        """Execute a statement once for each of these values."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...
