"""What the memory journal lists: the sessions of a principal or of all, the runs and the history of a session."""

from collections.abc import Callable
from typing import Final

from strandline.journal.kept import KeptRun
from strandline.journal.memory_store import MemoryStore
from strandline.journal.port import (
    HistoryPage,
    HistoryQuery,
    RestingPage,
    RestingQuery,
    RunsOfQuery,
    RunsPage,
    RunsQuery,
    SessionQuery,
    SessionsPage,
    SessionsQuery,
)
from strandline.journal.rules import Room, place_of, sequence_of
from strandline.model import RunId, SessionKey, SessionView

WALK: Final = 5_000
"""How many sessions one page of those at rest looks at, at most."""


class MemoryLists:
    """Pages of lists. Whoever asks holds the lock. `position` tells where a waiting run stands."""

    def __init__(self, store: MemoryStore, position: Callable[[RunId], int | None]) -> None:
        self._store = store
        self._position = position

    def history(self, query: HistoryQuery) -> HistoryPage:
        """Return a page of a session's messages."""
        session = self._store.sessions.get(query.key)
        if session is None:
            return HistoryPage([], 0)
        end = len(session.history) if query.before is None else min(query.before, len(session.history))
        first, start, room = end, max(0, end - query.limit), Room(query.most_bytes)
        while first > start and room.takes(len(session.history[first - 1])):
            first -= 1
        indices = session.indices(first, end, discarded=query.discarded)
        hidden = [place for place, index in enumerate(indices) if index in session.discarded]
        messages = session.messages(first, end, discarded=query.discarded)
        pending = session.question is not None and end == len(session.history) and bool(messages)
        return HistoryPage(messages, first, hidden, pending)

    def sessions(self, query: SessionsQuery) -> SessionsPage:
        """Return a page of the sessions of a principal, or of all."""
        later = [
            key
            for key in sorted(self._store.sessions)
            if query.principal in (None, key.principal) and (query.after is None or key > query.after)
        ]
        return SessionsPage(*self._that_fit(later, query))

    def _that_fit(self, keys: list[SessionKey], query: SessionsQuery) -> tuple[list[SessionView], SessionKey | None]:
        """Return the first of some sessions, and the one after which the next page begins."""
        room, shown = Room(query.most_bytes), list[SessionView]()
        for key in keys:
            asked = self._store.sessions[key].open_question
            if len(shown) == query.limit or not room.takes(0 if asked is None else len(asked.encoded)):
                return shown, shown[-1].key
            view = self.session(SessionQuery(key))
            assert view is not None
            shown.append(view)
        return shown, None

    def resting(self, query: RestingQuery, now: float) -> RestingPage:
        """Return a page of the sessions at rest, for longest first. A cursor is the number of an end."""
        keys: list[SessionKey] = []
        last, looked = query.cursor, 0
        for key, number in self._store.by_end.items():
            if number <= query.cursor:
                continue
            if len(keys) == query.limit or looked == WALK:
                return RestingPage(keys, last)
            session = self._store.sessions[key]
            if session.rests_since is not None and query.before <= session.rests_since <= now:
                break  # (all that follow have ended later still)
            last, looked = number, looked + 1
            if session.rests_since_before(query.before):
                keys.append(key)
        return RestingPage(keys, None)

    def session(self, query: SessionQuery) -> SessionView | None:
        """Return one session."""
        session = self._store.sessions.get(query.key)
        if session is None:
            return None
        claimed, asked = session.claimed, session.open_question
        return SessionView(
            key=query.key,
            messages=len(session.history),
            waiting=len(session.waiting),
            claimed=None if claimed is None else claimed.run_id,
            held=claimed is not None and claimed.held,
            paused=session.paused,
            input_requests=[] if asked is None else asked.decoded().requests,
            input_until=None if asked is None else asked.until,
        )

    def runs(self, query: RunsQuery) -> RunsPage:
        """Return a page of the runs of a session."""
        kind, place = place_of(query.cursor)
        session = self._store.sessions.get(query.key)
        if session is None:
            return RunsPage([], None)
        room, shown = Room(query.most_bytes), list[KeptRun]()

        def has_room(run: KeptRun) -> bool:
            return len(shown) < query.limit and room.takes(run.listed_bytes)

        if kind == "w":
            for run in session.in_order()[::-1]:
                if query.cursor is not None and run.rank >= place:
                    continue
                if not has_room(run):
                    return self._page(shown, "w" + ".".join(map(str, shown[-1].rank)))
                shown.append(run)
        executes = session.claimed
        if kind in "wr" and executes is not None and not executes.held:
            if not has_room(executes):
                return self._page(shown, "r")
            shown.append(executes)
        left = min(place, len(session.ended)) if kind == "h" else len(session.ended)
        while left > 0:
            ended = session.runs.get(session.ended[left - 1])
            if ended is not None:  # else it was forgotten
                if not has_room(ended):
                    return self._page(shown, f"h{left}")
                shown.append(ended)
            left -= 1
        return self._page(shown, None)

    def runs_of(self, query: RunsOfQuery) -> RunsPage:
        """Return a page of the runs of a principal."""
        before = sequence_of(query.cursor)
        room, shown = Room(query.most_bytes), list[KeptRun]()
        for run in reversed(self._store.runs.values()):
            if run.session.key.principal != query.principal or (before is not None and run.seq >= before):
                continue
            if query.statuses and run.status not in query.statuses:
                continue
            if len(shown) == query.limit or not room.takes(run.listed_bytes):
                return self._page(shown, str(shown[-1].seq))
            shown.append(run)
        return self._page(shown, None)

    def _page(self, runs: list[KeptRun], after: str | None) -> RunsPage:
        return RunsPage([run.summary(self._position(run.run_id)) for run in runs], after)
