"""Deletes runs that ended long ago from the SQLite journal, and counts the bytes that it stores."""

from typing import Final

from strandline._journal.database import Database

WALK: Final = 1000
"""How many runs one step of pruning reads at most: every other operation waits meanwhile (about 1 ms)."""


COUNT_STORED_BYTES: Final = """
SELECT sessions.principal, CAST(coalesce(sum(parts.bytes), 0) AS bigint) FROM sessions LEFT JOIN (
    SELECT session, length(input) + coalesce(length(metadata), 0) AS bytes FROM runs
    UNION ALL SELECT no, coalesce(length(options), 0) FROM sessions
    UNION ALL SELECT session, coalesce(length(messages), 0) FROM history
    UNION ALL SELECT session, coalesce(length("window"), 0) + coalesce(length(state), 0) FROM agents
    UNION ALL SELECT session, coalesce(length("window"), 0) + coalesce(length(state), 0) FROM agents_after
    UNION ALL SELECT session, size + length(record) FROM files
) AS parts ON parts.session = sessions.no GROUP BY sessions.principal
"""
"""Counts the stored bytes of each principal; triggers keep the same figure in the table `stored`."""


def prune(connection: Database, before: float, limit: int, after: int, now: float) -> tuple[int, int | None]:
    """Delete up to `limit` runs after sequence `after` that ended before `before`.

    Return how many, and the sequence to continue after, None if no more are left. There is no index of ends, which
    would cost every run: sequences rise with the time of acceptance, so the walk begins with the oldest run and ends at
    the first one accepted too late. The runs that it skips were accepted before `before` and had not ended then, which
    are no more than can wait, execute and be held at once; or they were accepted after `now`, by a wrong clock, and
    must not protect all later runs. A run with an open question stays, too: an answer or a cancel refers to it, and its
    key must not accept another run meanwhile.
    """
    old: list[int] = []
    looked = 0
    rows = connection.execute(
        "SELECT seq, created_at, fence IS NULL AND ended_at < ? AND status <> 'queued' AND NOT (status = 'needs_input'"
        " AND EXISTS"
        " (SELECT 1 FROM questions WHERE questions.session = runs.session AND questions.run = seq))"
        " FROM runs WHERE seq > ? ORDER BY seq LIMIT ?",
        (before, after, WALK),
    )
    for seq, created_at, is_old in rows:
        if before <= created_at <= now or len(old) == limit:
            break
        looked += 1
        after = seq
        if is_old:
            old.append(seq)
    rows.close()
    if old:
        # Rows of history still name these runs: their sequences are never reused.
        connection.execute("UPDATE meta SET value = ? WHERE name = 'pruned' AND value < ?", (old[-1], old[-1]))
        connection.executemany("DELETE FROM runs WHERE seq = ?", ((seq,) for seq in old))
        connection.executemany("DELETE FROM closed_requests WHERE run = ?", ((seq,) for seq in old))
    return len(old), after if looked == WALK else None
