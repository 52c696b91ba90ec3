"""Lists: the runs of a session, the sessions of a principal, page by page."""

import pytest

from strandline._journal.port import Changed, Delete, HistoryQuery, RunsOfQuery, RunsQuery, SessionQuery, SessionsQuery
from strandline._model import Principal, RunStatus, RunSummary, SessionKey, SessionView
from strandline.errors import Invalid
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said


class ListsContract(Contract):
    """Pages."""

    async def _listed(self, desk: Desk, limit: int, at: SessionKey | None = None) -> list[RunSummary]:
        """Return all runs of a session, page by page."""
        found: list[RunSummary] = []
        cursor: str | None = None
        while True:
            page = await desk.journal.read(RunsQuery(at or key(), cursor, limit))
            assert len(page.runs) <= limit
            assert len(page.runs) == limit or page.after is None, "a page is full, but for the last one"
            found += page.runs
            if page.after is None:
                return found
            cursor = page.after

    @scenario
    async def test_the_runs_of_a_session_the_last_in_line_first(self, desk: Desk) -> None:
        """Then the executing run, then ended ones, the latest end first; each without its input."""
        for run_id in ("e1", "e2", "e3"):
            await desk.finish(await desk.start(run_id), done("hi", "ho"))
        claim = await desk.start("x", metadata={"k": 1})
        await desk.accept("other", key("t"), claim_next=False)
        for run_id in ("w1", "w2", "w3"):
            await desk.accept(run_id)
        await desk.accept("urgent", priority=1)
        await desk.accept("gone")
        await desk.cancel("gone")
        expected = ["w3", "w2", "w1", "urgent", "x", "gone", "e3", "e2", "e1"]
        for limit in range(1, 12):
            listed = [run.run_id for run in await self._listed(desk, limit)]
            assert listed == expected, f"in pages of {limit}"
        runs = await self._listed(desk, 100)
        assert runs == [(await desk.run(run_id)).summary() for run_id in expected]
        assert [run.position for run in runs] == [4, 3, 2, 1, None, None, None, None, None]
        await desk.finish(claim, hold=True)
        assert [run.run_id for run in await self._listed(desk, 2)] == [
            "w3", "w2", "w1", "urgent", "x", "gone", "e3", "e2", "e1"
        ]  # fmt: skip
        await desk.restart()
        assert [run.run_id for run in await self._listed(desk, 4)] == [
            "w3", "w2", "w1", "urgent", "x", "gone", "e3", "e2", "e1"
        ]  # fmt: skip

    @scenario
    async def test_runs_that_were_forgotten_are_left_out(self, desk: Desk) -> None:
        for number in range(6):
            await desk.finish(await desk.start(f"r{number}"), done("hi", "ho"))
            desk.clock.at += 1
        assert await desk.journal.prune(1_003.0, 10) == 3
        for limit in range(1, 8):
            assert [run.run_id for run in await self._listed(desk, limit)] == ["r5", "r4", "r3"]
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._listed(desk, 3) == []

    @scenario
    async def test_pages_are_full_wherever_runs_were_forgotten(self, desk: Desk) -> None:
        ends = [1_000.0, 9_000.0, 2_000.0, 2_000.0, 2_000.0, 9_000.0, 1_000.0, 9_000.0, 1_000.0]
        for number, at in enumerate(ends):
            desk.clock.at = at
            await desk.finish(await desk.start(f"r{number}"), done("hi", "ho"))
        assert await desk.journal.prune(5_000.0, 10) == 6
        await desk.accept("w", claim_next=False)
        for limit in range(1, 8):
            assert [run.run_id for run in await self._listed(desk, limit)] == ["w", "r7", "r5", "r1"]

    @scenario
    async def test_a_page_goes_on_where_the_one_before_ended(self, desk: Desk) -> None:
        """Although the queue has moved meanwhile."""
        claim = await desk.start("a")
        for run_id in ("b", "c", "d"):
            await desk.accept(run_id)
        page = await desk.journal.read(RunsQuery(key(), None, 2))
        assert [run.run_id for run in page.runs] == ["d", "c"]
        order = await desk.drain(claim)
        assert order == ["a", "b", "c", "d"]
        page = await desk.journal.read(RunsQuery(key(), page.after, 4))
        assert [run.run_id for run in page.runs] == ["d", "c", "b", "a"]
        assert page.after is None

    @scenario
    async def test_nothing_is_listed_of_others(self, desk: Desk) -> None:
        await desk.start("a", key("s", "other"))
        page = await desk.journal.read(RunsQuery(key()))
        assert (page.runs, page.after) == ([], None)
        assert await desk.journal.read(SessionQuery(key())) is None
        sessions = await desk.journal.read(SessionsQuery(Principal("anonymous")))
        assert (sessions.sessions, sessions.after) == ([], None)

    @scenario
    async def test_a_cursor_that_is_none_is_refused(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        for cursor in (
            "",
            "x",
            "w",
            "w1",
            "w1.2",
            "w1.2.x",
            "w1.2.3.4",
            "r1",
            "h",
            "h1.2",
            "hx",
            "h-1",
            "h" + "9" * 30,
        ):
            for session in (key(), key("never there")):
                with pytest.raises(Invalid):
                    await desk.journal.read(RunsQuery(session, cursor))

    @scenario
    async def test_a_cursor_of_another_session_shows_nothing_of_it(self, desk: Desk) -> None:
        for number in range(4):
            await desk.finish(await desk.start(f"o{number}", key("s", "other")))
        page = await desk.journal.read(RunsQuery(key("s", "other"), None, 1))
        assert page.after is not None
        await desk.finish(await desk.start("mine"))
        mine = await desk.journal.read(RunsQuery(key(), page.after))
        assert {run.run_id for run in mine.runs} <= {"mine"}

    # -- the runs of a principal ------------------------------------------------------------------------

    async def _of(
        self, desk: Desk, limit: int, *statuses: RunStatus, most_bytes: int | None = None
    ) -> list[RunSummary]:
        """Return all runs of the default principal with these statuses, page by page."""
        found: list[RunSummary] = []
        cursor: str | None = None
        while True:
            query = RunsOfQuery(key().principal, frozenset(statuses), cursor, limit, most_bytes)
            page = await desk.journal.read(query)
            assert len(page.runs) <= limit
            found += page.runs
            if page.after is None:
                return found
            assert page.after != cursor
            cursor = page.after

    @scenario
    async def test_the_runs_of_a_principal_are_listed_over_all_its_sessions_the_last_accepted_first(
        self, desk: Desk
    ) -> None:
        await desk.finish(await desk.start("ended"), done("hi", "ho"))
        await desk.start("foreign", key("s", "other"))
        executing = await desk.start("executes", key("t"))
        for number in range(3):
            await desk.accept(f"w{number}", key("t"))
        await desk.accept("foreign-waits", key("s", "other"), claim_next=False)
        await desk.accept("first", key("t"), priority=1)
        await desk.accept("gone", key("u"), claim_next=False)
        await desk.cancel("gone")
        held = await desk.start("held", key("v"))
        await desk.finish(held, done("hi", "ho"), hold=True)
        expected = {
            (): ["held", "gone", "first", "w2", "w1", "w0", "executes", "ended"],
            (RunStatus.QUEUED,): ["first", "w2", "w1", "w0"],
            (RunStatus.RUNNING,): ["executes"],
            (RunStatus.QUEUED, RunStatus.RUNNING): ["first", "w2", "w1", "w0", "executes"],
            (RunStatus.SUCCEEDED,): ["held", "ended"],
            (RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.QUEUED): [
                "held", "gone", "first", "w2", "w1", "w0", "ended",
            ],
            (RunStatus.FAILED,): [],
        }  # fmt: skip
        for limit in (1, 2, 3, 100):
            for statuses, names in expected.items():
                listed = await self._of(desk, limit, *statuses)
                assert [run.run_id for run in listed] == names, f"{statuses} in pages of {limit}"
        listed = await self._of(desk, 100)
        assert listed == [(await desk.run(run.run_id)).summary() for run in listed], "as each is by itself"
        assert [run.position for run in listed] == [None, None, 1, 4, 3, 2, None, None]
        for most_bytes in (0, 100, 1_000):
            assert await self._of(desk, 100, most_bytes=most_bytes) == listed
        await desk.finish(executing)

    @scenario
    async def test_a_page_of_a_principals_runs_goes_on_where_the_one_before_ended(self, desk: Desk) -> None:
        """Although runs have been accepted and ended meanwhile."""
        for name in ("a", "b", "c"):
            await desk.finish(await desk.start(name))
        page = await desk.journal.read(RunsOfQuery(key().principal, limit=1))
        assert [run.run_id for run in page.runs] == ["c"]
        await desk.finish(await desk.start("d"))
        page = await desk.journal.read(RunsOfQuery(key().principal, cursor=page.after))
        assert [run.run_id for run in page.runs] == ["b", "a"]
        for cursor in ("", "x", "-1", "1.2", "9" * 30):
            with pytest.raises(Invalid):
                await desk.journal.read(RunsOfQuery(key().principal, cursor=cursor))

    # -- sessions -------------------------------------------------------------------------------------

    @scenario
    async def test_the_sessions_of_a_principal_in_the_order_of_their_ids(self, desk: Desk) -> None:
        names = ["b", "a", "C", "ab", "a.b", "z"]
        for name in names:
            await desk.finish(await desk.start(f"r{name}", key(name)))
        await desk.finish(await desk.start("x", key("a", "other")))
        for limit in range(1, 8):
            found: list[str] = []
            after = None
            while True:
                page = await desk.journal.read(SessionsQuery(Principal("anonymous"), after, limit))
                assert len(page.sessions) <= limit
                found += [each.key.session_id for each in page.sessions]
                if page.after is None:
                    break
                after = page.after
            assert found == sorted(names)

    @scenario
    async def test_a_session_is_shown_as_it_stands(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        seen = SessionView(key=key(), messages=0, waiting=1, claimed=claim.run.run_id, held=False)
        assert await desk.journal.read(SessionQuery(key())) == seen
        await desk.finish(claim, done("hi", "ho"), hold=True)
        seen = SessionView(key=key(), messages=2, waiting=1, claimed=claim.run.run_id, held=True)
        assert await desk.journal.read(SessionQuery(key())) == seen
        assert (await desk.journal.read(SessionsQuery(Principal("anonymous")))).sessions == [seen]
        await desk.release(claim.token, counted=True)
        await desk.cancel("b")
        seen = SessionView(key=key(), messages=2, waiting=0, claimed=None, held=False)
        assert await desk.journal.read(SessionQuery(key())) == seen

    @scenario
    async def test_history_marks_discarded_messages(self, desk: Desk) -> None:
        for number, discarded in enumerate((False, True, False)):
            await desk.finish(await desk.start(f"r{number}"), done("hi", "ho", discarded=discarded))
        page = await desk.journal.read(HistoryQuery(key(), discarded=True))
        assert (page.messages, page.discarded) == (said("hi", "ho") * 3, [2, 3])
        page = await desk.journal.read(HistoryQuery(key(), before=5, limit=3, discarded=True))
        assert (len(page.messages), page.first, page.discarded) == (3, 2, [0, 1])
        page = await desk.journal.read(HistoryQuery(key()))
        assert (page.messages, page.discarded) == (said("hi", "ho") * 2, [])
