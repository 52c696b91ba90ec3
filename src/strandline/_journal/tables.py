"""The tables of a journal, the same in a file and in a database, and how a whole one is read with bounded memory.

PostgreSQL has one column more in `sessions`, which follows from the others, and tables of its own for owners.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from strandline._journal.checksums import damaged_record
from strandline._journal.database import Database

PAGE_BYTES: Final = 1 << 21
"""About how many bytes of rows are in memory at once."""
ROW_BYTES: Final = 500
"""About how much a row takes besides its values that are bytes."""
FIRST_ROWS: Final = 64
MOST_ROWS: Final = 2_000
"""How many rows the first page and a page of small rows have."""


class Table(NamedTuple):
    """A table, or a part of one: its columns, of which the first few are its key, in their order."""

    name: str
    columns: tuple[str, ...]
    key: int = 1
    read_as: tuple[str, ...] = ()
    """What is read of the columns, if that is not the columns themselves."""

    @property
    def key_columns(self) -> str:
        """The columns of its key, for SQL."""
        return ", ".join(self.columns[: self.key])

    @property
    def listed(self) -> str:
        """All its columns, for SQL."""
        return ", ".join(self.columns)

    @property
    def read(self) -> str:
        """What is read of a row, for SQL."""
        return ", ".join(self.read_as or self.columns)


_RUN: Final = (
    "seq", "run_id", "session", "lane", "urgency", "priority", "status", "attempt", "fence", "last", "opaque", "input",
    "metadata", "created_at", "started_at", "ended_at", "outcome", "timeout_s", "queue_deadline", "discarded",
    "cancel_requested", "discard", "key", "fingerprint", "if_busy", "moved", "trace", "not_before", "sender", "joins",
    "host", "back", "webhook", "collect",
)  # fmt: skip
OLDEST_FENCE: Final = 1
RUNS: Final = Table(
    "runs",
    _RUN,
    read_as=tuple(
        f"CASE WHEN fence IS NOT NULL THEN {OLDEST_FENCE} END" if column == "fence" else column for column in _RUN
    ),
)
"""Whether a run is claimed, but not by whom: fences are older than those of any owner to come, wherever that is."""
TABLES: Final = (
    Table(
        "sessions",
        (
            "no",
            "last",
            "principal",
            "session_id",
            "paused",
            "closed_since",
            "rests_since",
            "options",
            "branch",
            "unresolved",
        ),
    ),
    RUNS,
    Table("staged", ("run", "no", "fact"), key=2),
    Table(
        "history",
        (
            "no",
            "session",
            "nth",
            "first",
            "count",
            "previous",
            "run",
            "discarded",
            "messages",
            "agent",
            "origin",
            "copied_run",
        ),
    ),
    Table("agents", ("session", '"window"', "state")),
    Table("questions", ("session", "run", "until", "answer", "question")),
    Table("closed_requests", ("session", "id", "run", "closed"), key=2),
    Table("schedules", ("id", "session", "principal", "next_at", "spec", "state")),
    Table("files", ("session", "id", "principal", "size", "at", "named", "record"), key=2),
    Table(
        "deliveries",
        ("id", "session", "principal", "session_id", "host", "created_at", "next_at", "attempts", "error", "body"),
    ),
    Table("branches", ("session", "start", "parent", "upto", "run", "was_parent", "was_upto", "forgotten"), key=2),
    Table("agents_after", ("session", "run", '"window"', "state"), key=2),
    Table("forks", ("session", "source", "record")),
)
"""All rows of a journal, but how many bytes are stored for each principal, which follows from the others. Of `meta` it
has two numbers more: its epoch, and the highest sequence that was deleted."""


def pages(
    connection: Database,
    table: Table,
    after: tuple[Any, ...] | None = None,
    where: str = "",
    values: Sequence[Any] = (),
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows behind a key in the order of their keys, some at a time: about `PAGE_BYTES`, but at least one.

    Each page is found by the index of the key. Raises `JournalUnavailable` where a key is damaged, so that no page
    could begin after it.
    """
    limit = FIRST_ROWS
    while True:
        beyond = "" if after is None else f"({table.key_columns}) > ({', '.join('?' * table.key)})"
        conditions = " AND ".join(each for each in (where, beyond) if each)
        rows = connection.execute(
            f"SELECT {table.read} FROM {table.name}{' WHERE ' if conditions else ''}{conditions}"
            f" ORDER BY {table.key_columns} LIMIT ?",
            (*values, *(after or ()), limit),
        ).fetchall()
        if not rows:
            return
        last = tuple(rows[-1][: table.key])
        if after is not None and last <= after:
            raise damaged_record(f"a key in the table {table.name}")
        yield rows
        if len(rows) < limit:
            return
        after = last
        size = sum(len(value) for row in rows for value in row if value.__class__ is bytes)
        limit = max(1, min(MOST_ROWS, 2 * limit, PAGE_BYTES // (ROW_BYTES + size // len(rows))))
