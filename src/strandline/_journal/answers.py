"""The runs that answer a run's question, and the questions of those in turn, from what is stored of questions.

While a question's round is open its row names the run that answers it. Later that is the next run with messages in
history, since nothing else can come into an open round.
"""

from typing import Final

from strandline._journal import port
from strandline._journal.database import Database
from strandline._model import RunId, RunStatus

_RUN: Final = (
    "SELECT seq, no, status, sessions.last FROM runs JOIN sessions ON no = session WHERE run_id = ? AND principal = ?"
)
_OPEN: Final = "SELECT answer FROM questions WHERE session = ? AND run = ?"
_DISMISSED: Final = "SELECT 1 FROM closed_requests WHERE run = ? AND closed = 'dismissed' LIMIT 1"
_NEXT: Final = (
    "WITH RECURSIVE chain (no, session, count, previous, run, later) AS ("
    "SELECT no, session, count, previous, run, CAST(NULL AS BIGINT) FROM history WHERE no = ? AND session = ?"
    " UNION ALL SELECT history.no, history.session, history.count, history.previous, history.run,"
    " CASE WHEN chain.count > 0 THEN chain.run ELSE chain.later END FROM chain JOIN history"
    " ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.previous < chain.no AND chain.run <> ?)"
    " SELECT later FROM chain WHERE run = ?"
)
"""The next run with messages after a run in its session's history."""
_ANSWER: Final = "SELECT run_id, status FROM runs WHERE seq = ?"


def answers(connection: Database, query: port.AnswersQuery) -> port.Answers:
    """Return the runs that answer a run's question, and so on, in order."""
    found: list[RunId] = []
    run = connection.execute(_RUN, (query.run_id, query.principal)).fetchone()
    if run is None:
        return port.Answers(found)
    seq, session, status, last = run
    while status == RunStatus.NEEDS_INPUT and len(found) < query.most:
        row = connection.execute(_OPEN, (session, seq)).fetchone()
        if row is None:
            if connection.execute(_DISMISSED, (seq,)).fetchone() is not None:
                return port.Answers(found, dismissed=True)
            row = connection.execute(_NEXT, (last, session, seq, seq)).fetchone()
        if row is None or row[0] is None:
            break
        answer = connection.execute(_ANSWER, (row[0],)).fetchone()
        if answer is None:  # (it ended before it left a message, and its round was closed without it)
            return port.Answers(found, dismissed=True)
        seq, status = row[0], answer[1]
        found.append(RunId(answer[0]))
    return port.Answers(found)
