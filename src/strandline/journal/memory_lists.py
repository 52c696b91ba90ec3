"""What the memory journal lists: the sessions of a principal or of all, the runs and the history of a session."""

from typing import Final

from strandline.journal.kept import KeptRun, KeptSession
from strandline.journal.port import (
    AllSessionsPage,
    AllSessionsQuery,
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
from strandline.journal.steps import Steps
from strandline.model import SessionKey, SessionView

WALK: Final = 5_000
"""How many sessions one page of those at rest looks at, at most."""


class MemoryLists(Steps):
    """Pages of lists. Whoever asks holds the lock."""

    def _show_history(self, query: HistoryQuery) -> HistoryPage:
        session = self._sessions.get(query.key) or KeptSession(query.key)
        end = len(session.history) if query.before is None else min(query.before, len(session.history))
        first, start, room = end, max(0, end - query.limit), Room(query.most_bytes)
        while first > start and room.takes(len(session.history[first - 1])):
            first -= 1
        indices = session.indices(first, end, discarded=query.discarded)
        hidden = [place for place, index in enumerate(indices) if index in session.discarded]
        messages = session.messages(first, end, discarded=query.discarded)
        pending = session.question is not None and end == len(session.history) and bool(messages)
        return HistoryPage(messages, first, hidden, pending)

    def _list_sessions(self, query: SessionsQuery) -> SessionsPage:
        keys = sorted(key for key in self._sessions if key.principal == query.principal)
        shown, after = self._that_fit([key for key in keys if key.session_id > (query.after or "")], query)
        return SessionsPage(shown, None if after is None else after.session_id)

    def _list_all_sessions(self, query: AllSessionsQuery) -> AllSessionsPage:
        later = [key for key in sorted(self._sessions) if query.after is None or key > query.after]
        return AllSessionsPage(*self._that_fit(later, query))

    def _that_fit(
        self, keys: list[SessionKey], query: SessionsQuery | AllSessionsQuery
    ) -> tuple[list[SessionView], SessionKey | None]:
        """Return the first of some sessions, and the one after which the next page begins."""
        room, shown = Room(query.most_bytes), list[SessionView]()
        for key in keys:
            asked = self._sessions[key].open_question
            if len(shown) == query.limit or not room.takes(0 if asked is None else len(asked.encoded)):
                return shown, shown[-1].key
            view = self._show_session(SessionQuery(key))
            assert view is not None
            shown.append(view)
        return shown, None

    def _list_resting(self, query: RestingQuery) -> RestingPage:
        """Those that rest for longest come first. A cursor is the number of an end."""
        keys: list[SessionKey] = []
        last, looked, now = query.cursor, 0, self._clock.now()
        for key, number in self._by_end.items():
            if number <= query.cursor:
                continue
            if len(keys) == query.limit or looked == WALK:
                return RestingPage(keys, last)
            session = self._sessions[key]
            if session.ended_at is not None and query.before <= session.ended_at <= now:
                break  # (all that follow have ended later still)
            last, looked = number, looked + 1
            if session.rests_since(query.before):
                keys.append(key)
        return RestingPage(keys, None)

    def _show_session(self, query: SessionQuery) -> SessionView | None:
        session = self._sessions.get(query.key)
        if session is None:
            return None
        claimed, asked = session.claimed, session.open_question
        return SessionView(
            key=query.key,
            messages=len(session.history),
            waiting=len(session.line),
            claimed=None if claimed is None else claimed.new.run_id,
            held=claimed is not None and claimed.held,
            paused=session.paused,
            input_requests=[] if asked is None else asked.decoded().requests,
            input_until=None if asked is None else asked.until,
        )

    def _list_runs(self, query: RunsQuery) -> RunsPage:
        kind, place = place_of(query.cursor)
        session = self._sessions.get(query.key)
        if session is None:
            return RunsPage([], None)
        room, shown = Room(query.most_bytes), list[KeptRun]()

        def has_room(run: KeptRun) -> bool:
            return len(shown) < query.limit and room.takes(run.listed_bytes)

        if kind == "w":
            for run in session.line.in_order()[::-1]:
                if query.cursor is not None and run.rank() >= place:
                    continue
                if not has_room(run):
                    return self._page(shown, "w" + ".".join(map(str, shown[-1].rank())))
                shown.append(run)
        executes = session.claimed
        if kind in "wr" and executes is not None and not executes.held:
            if not has_room(executes):
                return self._page(shown, "r")
            shown.append(executes)
        left = min(place, len(session.ended)) if kind == "h" else len(session.ended)
        while left > 0:
            ended = self._runs.get(session.ended[left - 1])
            if ended is not None:  # else it was forgotten
                if not has_room(ended):
                    return self._page(shown, f"h{left}")
                shown.append(ended)
            left -= 1
        return self._page(shown, None)

    def _list_runs_of(self, query: RunsOfQuery) -> RunsPage:
        before = sequence_of(query.cursor)
        room, shown = Room(query.most_bytes), list[KeptRun]()
        for run in sorted(self._runs.values(), key=lambda run: -run.sequence):
            if run.new.key.principal != query.principal or (before is not None and run.sequence >= before):
                continue
            if query.statuses and run.status not in query.statuses:
                continue
            if len(shown) == query.limit or not room.takes(run.listed_bytes):
                return self._page(shown, str(shown[-1].sequence))
            shown.append(run)
        return self._page(shown, None)

    def _page(self, runs: list[KeptRun], after: str | None) -> RunsPage:
        return RunsPage([run.summary(self._position(run)) for run in runs], after)
