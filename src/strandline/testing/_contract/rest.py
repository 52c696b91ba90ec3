"""Sessions at rest: which ones, since when, and that only these are deleted."""

from strandline._journal.port import Busy, Changed, Delete, Pause, RestingQuery, Resume, SessionQuery
from strandline._model import Completion, InputRequest, Keyed, Message, Outcome, Question, RunStatus, SessionKey
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

OPEN: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "ask", "input": {}}}]}


async def resting(desk: Desk, before: float, limit: int = 100) -> list[SessionKey]:
    """Return all sessions at rest since before a time, page by page."""
    found: list[SessionKey] = []
    cursor: int | None = 0
    while cursor is not None:
        page = await desk.journal.read(RestingQuery(before, cursor, limit))
        assert len(page.keys) <= limit
        assert page.after is None or page.after > cursor, "each page gets further"
        found += page.keys
        cursor = page.after
    assert len(set(found)) == len(found)
    return found


async def ends_asking(desk: Desk, run_id: str, at: SessionKey) -> None:
    """End a run with a question."""
    question = Question(requests=[InputRequest(id="i", name="ask", reason="sure?")], message=OPEN, results={}, state={})
    await desk.finish(
        await desk.start(run_id, at),
        Completion(
            outcome=Outcome(status=RunStatus.NEEDS_INPUT),
            messages=[*said("go"), OPEN],
            question=question,
            answer_within_s=5.0,
        ),
    )


class RestContract(Contract):
    """Sessions at rest."""

    @scenario
    async def test_sessions_rest_since_their_last_run_ended_also_after_a_restart(self, desk: Desk) -> None:
        keys = [key(f"s{n}", f"p{n % 2}") for n in range(5)]
        for n, each in enumerate(keys):
            await desk.finish(await desk.start(f"r{n}", each), done("hi", "ho"))
            desk.clock.at += 10
        await desk.finish(await desk.start("again", keys[1]), done("hi", "ho"))
        for _ in range(2):
            assert await resting(desk, 1_000.0) == []
            for limit in (1, 2, 100):
                assert sorted(await resting(desk, 1_031.0, limit)) == sorted([keys[0], keys[2], keys[3]])
            assert await desk.journal.prune(1_031.0, 100) in (4, 0), "runs may be forgotten sooner"
            await desk.restart()
        assert await desk.journal.change(Delete(keys[1], 1_031.0)) == Busy()
        assert await desk.journal.change(Delete(keys[2], 1_031.0)) == Changed(existed=True)
        assert await desk.journal.change(Delete(keys[2], 1_031.0)) == Changed(existed=False)
        assert await desk.journal.read(SessionQuery(keys[2])) is None
        assert sorted(await resting(desk, 1_031.0)) == sorted([keys[0], keys[3]])
        await desk.finish(await desk.start("anew", keys[2]), done("hi", "ho"))
        assert sorted(await resting(desk, 1_031.0)) == sorted([keys[0], keys[3]]), "one of its name begins anew"

    @scenario
    async def test_a_session_that_waits_executes_is_held_paused_or_has_a_question_is_not_at_rest(
        self, desk: Desk
    ) -> None:
        names = ("waits", "executes", "held", "paused", "asks", "answered", "rests", "cancelled")
        at = {name: key(name) for name in names}
        for name in ("waits", "executes", "held", "paused"):
            await desk.finish(await desk.start(f"first {name}", at[name]), done("hi", "ho"))
        await desk.accept("w", at["waits"], claim_next=False)
        await desk.start("e", at["executes"])
        held = await desk.start("h", at["held"])
        await desk.finish(held, done("hi", "ho"), hold=True)
        await desk.journal.change(Pause(at["paused"]))
        await ends_asking(desk, "a", at["asks"])
        await desk.finish(await desk.start("r", at["rests"]), done())
        await desk.accept("c", at["cancelled"], claim_next=False)
        await desk.end("c", at["cancelled"])
        desk.clock.at += 1_000
        before = desk.clock.at
        assert sorted(await resting(desk, before)) == [at["cancelled"], at["rests"]]
        for name in ("waits", "executes", "held", "paused", "asks"):
            assert await desk.journal.change(Delete(at[name], before)) == Busy(), name
            assert await desk.journal.read(SessionQuery(at[name])) is not None
        await desk.release(held.token, counted=True)
        await desk.journal.change(Resume(at["paused"]))
        await desk.cancel("a")
        assert sorted(await resting(desk, before)) == sorted(at[each] for each in ("cancelled", "held", "rests"))
        assert await desk.journal.change(Delete(at["asks"], before)) == Busy(), "its question was open until now"
        assert await desk.journal.change(Delete(at["paused"], before)) == Busy(), "somebody has resumed it just now"
        await desk.journal.change(Resume(at["held"]))
        assert at["held"] in await resting(desk, before), "there was nothing to resume"
        desk.clock.at += 1
        assert at["paused"] in await resting(desk, desk.clock.at)
        for name in ("asks", "paused"):
            assert await desk.journal.change(Delete(at[name], desk.clock.at)) == Changed(existed=True), name

    @scenario
    async def test_one_that_is_busy_again_meanwhile_stays_and_keeps_its_keys(self, desk: Desk) -> None:
        keyed = Keyed("k", b"f" * 32, 0.0)
        await desk.finish(await desk.start("a"), done("hi", "ho"))
        desk.clock.at += 100
        assert await resting(desk, desk.clock.at) == [key()]
        claim = await desk.start("b", keyed=keyed)
        assert await desk.journal.change(Delete(key(), desk.clock.at)) == Busy()
        await desk.finish(claim, done("and", "so"))
        assert await desk.journal.change(Delete(key(), desk.clock.at)) == Busy(), "it has ended just now"
        assert await desk.history() == said("hi", "ho", "and", "so")
        assert await desk.exists("b")

    @scenario
    async def test_many_sessions_that_stay_hide_none_that_rests(self, desk: Desk) -> None:
        for n in range(30):
            await desk.finish(await desk.start(f"r{n}", key(f"s{n:02}")), done())
            if n % 3:
                await desk.journal.change(Pause(key(f"s{n:02}")))
        desk.clock.at += 1
        assert sorted(await resting(desk, desk.clock.at, 4)) == [key(f"s{n:02}") for n in range(0, 30, 3)]

    @scenario
    async def test_a_session_that_ended_by_a_clock_ahead_of_time_keeps_no_other_from_being_forgotten(
        self, desk: Desk
    ) -> None:
        start = desk.clock.at
        desk.clock.at += 10**9
        await desk.finish(await desk.start("ahead", key("ahead")), done())
        desk.clock.at = start
        await desk.finish(await desk.start("right", key("right")), done())
        desk.clock.at += 10
        assert await resting(desk, desk.clock.at) == [key("right")]
