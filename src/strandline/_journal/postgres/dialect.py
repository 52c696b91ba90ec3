"""What PostgreSQL has to be asked in other words than SQLite: each statement with the same values, in the same order.

Several servers count what is stored, each in rows of its own.

In the file each row of history names the one before it, and a chain is followed. Here an index has the rows of each
session in their order: a chain is a part of it.
"""

from typing import Final

from strandline._journal import conversation, forks, lists, reader

_STORED: Final = (
    "(SELECT principal, CAST(sum(bytes) AS BIGINT) AS bytes FROM (SELECT principal, bytes FROM stored UNION ALL"
    " SELECT principal, bytes FROM stored_by) AS parts {where} GROUP BY principal) AS stored"
)
"""The table `stored`, with what servers have added since they came."""
_UP_TO: Final = "session = ?2 AND nth <= (SELECT nth FROM history WHERE no = ?1 AND session = ?2)"
_BACK: Final = (
    f"SELECT first, count, discarded, messages, origin{{run}} FROM history WHERE {_UP_TO} AND first < ?4"
    f" AND nth >= coalesce((SELECT max(nth) FROM history WHERE {_UP_TO} AND first <= ?3), 0) ORDER BY nth DESC"
)

TRANSLATED: Final = {
    reader.STORED_OF: f"SELECT bytes FROM {_STORED.format(where='WHERE principal = ?')}",
    "SELECT principal, bytes FROM stored": f"SELECT principal, bytes FROM {_STORED.format(where='')}",
    lists.DELETED: "SELECT 1 FROM deletions WHERE principal = ? AND session_id = ? AND at > ?",
    lists.STORED: lists.STORED.replace("FROM stored", f"FROM {_STORED.format(where='')}"),
    # From a row back to the one that has message `?3`.
    reader.BACK: _BACK.format(run="").replace("?", "$"),
    reader.BACK_WITH_RUNS: _BACK.format(
        run=", coalesce(copied_run, (SELECT run_id FROM runs WHERE seq = run))"
    ).replace("?", "$"),
    forks.SIZE: (
        f"SELECT CAST(coalesce(sum(length(messages)), 0) AS BIGINT) FROM history WHERE {_UP_TO} AND first > ?3"
    ).replace("?", "$"),
    lists.LEFT: (
        "SELECT no, previous, run, EXISTS (SELECT 1 FROM runs WHERE seq = history.run) FROM history"
        f" WHERE {_UP_TO} AND first > ?3 ORDER BY nth DESC LIMIT ?4"
    ).replace("?", "$"),
    conversation.TURNS: (
        f"SELECT {conversation.COLUMNS} FROM history LEFT JOIN runs ON runs.seq = history.run"
        f" WHERE history.{_UP_TO} AND first > ?3 ORDER BY nth DESC LIMIT ?4"
    ).replace("?", "$"),
}
