"""What is stored of a run: outcome and messages, window and state, checkpoints; and deletion."""

import pytest

from strandline._journal.port import (
    AgentState,
    AgentStateQuery,
    Busy,
    Changed,
    Delete,
    HistoryPage,
    HistoryQuery,
    RunsOfQuery,
)
from strandline._model import (
    ANONYMOUS,
    WHOLE_HISTORY,
    AgentRecord,
    Block,
    Checkpoint,
    Completion,
    ErrorCode,
    Inline,
    Message,
    Outcome,
    Range,
    RoundDone,
    RoundStarted,
    RunError,
    RunId,
    RunStatus,
    ToolDone,
    Window,
)
from strandline.errors import InvariantBroken
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said


class HistoryContract(Contract):
    """Ends, history, windows, checkpoints, deletion and pages."""

    # -- the end of a run ------------------------------------------------------------------------------

    @scenario
    async def test_a_finished_run_keeps_its_outcome(self, desk: Desk) -> None:
        ends = [
            Outcome(status=RunStatus.SUCCEEDED, output="yes", message=said("", "yes")[1], usage={"totalTokens": 7}),
            Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.AGENT_ERROR, "it broke")),
            Outcome(status=RunStatus.CANCELLED),
            Outcome(status=RunStatus.NEEDS_INPUT),
        ]
        for index, outcome in enumerate(ends):
            claim = await desk.start(f"r{index}")
            desk.clock.at += 1
            await desk.finish(claim, Completion(outcome=outcome, messages=[]))
            run = await desk.run(f"r{index}")
            assert (run.status, run.outcome, run.ended_at) == (outcome.status, outcome, desk.clock.at)
            assert (run.position, run.attempt) == (None, 1)

    @scenario
    async def test_where_an_agent_stands_is_read_without_its_messages(self, desk: Desk) -> None:
        assert await desk.journal.read(AgentStateQuery(key())) == AgentState(WHOLE_HISTORY, None)
        window: Window = (Inline(said("", "summary")[1]), Range(2, None))
        await desk.finish(await desk.start("a"), done(*"0123", window=window, state={"blob": b"\x04"}))
        assert await desk.journal.read(AgentStateQuery(key())) == AgentState(window, {"blob": b"\x04"})
        await desk.finish(await desk.start("b"), done(*"45"))
        record = await desk.journal.load(key())
        assert await desk.journal.read(AgentStateQuery(key())) == AgentState(record.window, record.state)

    @scenario
    async def test_a_run_ends_in_an_end_only(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for status in (RunStatus.QUEUED, RunStatus.RUNNING):
            with pytest.raises(InvariantBroken):
                await desk.finish(claim, Completion(outcome=Outcome(status=status), messages=said("a", "b")))
        assert await desk.history() == []
        await desk.finish(claim, done("hi", "ho"))
        assert await desk.history() == said("hi", "ho")

    @scenario
    async def test_history_is_appended_to_and_never_rewritten(self, desk: Desk) -> None:
        expected: list[Message] = []
        for index in range(4):
            claim = await desk.start(f"r{index}")
            texts = [f"{index}.{part}" for part in range(2 * index)]
            expected += said(*texts)
            await desk.finish(claim, done(*texts, window=(Range(0, 0),) if index == 2 else None))
            assert await desk.history() == expected

    @scenario
    async def test_a_finish_without_messages_appends_nothing(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done())
        assert await desk.history() == []
        assert (await desk.journal.load(key())).length == 0

    @scenario
    async def test_messages_come_out_as_they_went_in(self, desk: Desk) -> None:
        """Bytes, further keys, nested values; later changes to the caller's objects have no effect."""
        content: list[Block] = [
            {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}},
            {"toolUse": {"toolUseId": "t", "name": "n", "input": {"x": [1, 2.5, None, True, "ü\n"]}}},
        ]
        message: Message = {"role": "assistant", "content": content, "metadata": {"usage": {"n": 1}}}
        copy: Message = {"role": "assistant", "content": list(content), "metadata": {"usage": {"n": 1}}}
        claim = await desk.start("a", input=[{"document": {"source": {"bytes": b"\x00\x01"}}}])
        assert claim.run.input == [{"document": {"source": {"bytes": b"\x00\x01"}}}]
        checkpoint = ToolDone("t", {"content": [{"image": {"source": {"bytes": b"\x02"}}}]})
        await desk.journal.checkpoint(claim.token, checkpoint)
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == (checkpoint,)
        assert orphan.run.input == claim.run.input
        inline: Message = {"role": "user", "content": [{"image": {"source": {"bytes": b"\x03"}}}]}
        outcome = Outcome(status=RunStatus.SUCCEEDED, message=message)
        window: Window = (Inline(inline), Range(0, None))
        completion = Completion(outcome=outcome, messages=[message], window=window, state={"blob": b"\x04"})
        await desk.finish(orphan, completion)
        message["content"].clear()
        assert await desk.history() == [copy]
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == ([inline, copy], window, {"blob": b"\x04"})
        assert (await desk.run("a")).outcome == Outcome(status=RunStatus.SUCCEEDED, message=copy)
        (await desk.history())[0]["content"].clear()
        assert await desk.history() == [copy]

    # -- window and state ------------------------------------------------------------------------------

    @scenario
    async def test_an_unknown_session_has_the_empty_record(self, desk: Desk) -> None:
        empty = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        assert await desk.journal.load(key()) == empty
        await desk.accept("a", claim_next=False)
        assert await desk.journal.load(key()) == empty

    @scenario
    async def test_the_window_is_the_whole_history_until_it_changes(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done("0", "1"))
        await desk.finish(await desk.start("b"), done("2", "3"))
        assert await desk.journal.load(key()) == AgentRecord(
            messages=said("0", "1", "2", "3"), origins=[0, 1, 2, 3], window=WHOLE_HISTORY, length=4, state=None
        )

    @scenario
    async def test_a_window_is_ranges_of_history_and_inline_messages(self, desk: Desk) -> None:
        """Its open end follows history; a finish without window or state keeps the last ones."""
        summary = said("summary")[0]
        window: Window = (Range(0, 1), Inline(summary), Range(3, 5), Range(6, None))
        await desk.finish(await desk.start("a"), done(*"0123"))
        await desk.finish(await desk.start("b"), done(*"4567", window=window, state={"n": 1}))
        texts = said(*"01234567")
        record = await desk.journal.load(key())
        assert record.messages == [texts[0], summary, texts[3], texts[4], texts[6], texts[7]]
        assert record.origins == [0, None, 3, 4, 6, 7]
        assert (record.window, record.length, record.state) == (window, 8, {"n": 1})
        await desk.finish(await desk.start("c"), done("8", "9"))
        record = await desk.journal.load(key())
        assert record.origins == [0, None, 3, 4, 6, 7, 8, 9]
        assert (record.window, record.state) == (window, {"n": 1})
        await desk.finish(await desk.start("d"), done(state={"n": 2}))
        record = await desk.journal.load(key())
        assert (record.window, record.state) == (window, {"n": 2})
        await desk.finish(await desk.start("e"), done(window=()))
        record = await desk.journal.load(key())
        assert (record.messages, record.origins, record.window, record.state) == ([], [], (), {"n": 2})
        assert await desk.history() == said(*"0123456789")

    @scenario
    async def test_a_range_ends_with_history(self, desk: Desk) -> None:
        window: Window = (Range(1, 100), Range(50, None), Range(1, 1))
        await desk.finish(await desk.start("a"), done(*"0123", window=window))
        assert (await desk.journal.load(key())).origins == [1, 2, 3]

    @scenario
    async def test_a_long_history_is_read_from_anywhere(self, desk: Desk) -> None:
        """Two sessions side by side, runs that leave any number of messages, or none, or many."""
        other = key("other")
        expected: list[str] = []
        for index in range(150):
            texts = [f"{index}.{part}" for part in range(40 if index == 75 else index % 3)]
            expected += texts
            await desk.finish(await desk.start(f"r{index}"), done(*texts))
            await desk.finish(await desk.start(f"o{index}", other), done("other"))
        length = len(expected)
        for before in range(length + 2):
            page = await desk.journal.read(HistoryQuery(key(), before=before, limit=7))
            end = min(before, length)
            assert page.first == max(0, end - 7)
            assert [message["content"][0]["text"] for message in page.messages] == expected[page.first : end]
        window: Window = (Range(0, 1), Range(100, 140), Range(length - 5, None))
        await desk.finish(await desk.start("last"), done("end", window=window))
        for _ in range(2):
            record = await desk.journal.load(key())
            assert record.origins == [0, *range(100, 140), *range(length - 5, length + 1)]
            texts = [message["content"][0]["text"] for message in record.messages]
            assert texts == [[*expected, "end"][origin] for origin in record.origins if origin is not None]
            await desk.restart()
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert not await desk.exists("r0")
        assert not await desk.exists("r149")
        assert await desk.history(other) == [said("other")[0] for _ in range(150)]

    # -- checkpoints -----------------------------------------------------------------------------------

    @scenario
    async def test_the_next_attempt_gets_the_checkpoints_in_order(self, desk: Desk) -> None:
        checkpoints: list[Checkpoint] = [
            RoundStarted(said("a", "b")),
            ToolDone("t1", {"toolUseId": "t1", "content": [{"text": "one"}]}),
            ToolDone("t2", {"toolUseId": "t2", "content": []}),
            RoundDone(said("c"), {"n": 1}),
            RoundStarted(said("d")),
        ]
        claim = await desk.start("a")
        for checkpoint in checkpoints[:3]:
            await desk.journal.checkpoint(claim.token, checkpoint)
        await desk.release(claim.token, counted=True, claim_next=True)
        again = await desk.claim(of="a")
        assert again.checkpoints == tuple(checkpoints[:3])
        for checkpoint in checkpoints[3:]:
            await desk.journal.checkpoint(again.token, checkpoint)
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == tuple(checkpoints)
        await desk.journal.checkpoint(orphan.token, checkpoints[1])
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == (*checkpoints, checkpoints[1])
        await desk.finish(orphan)
        assert (await desk.start("b")).checkpoints == ()

    @scenario
    async def test_checkpoints_of_one_run_are_not_those_of_another(self, desk: Desk) -> None:
        claims = [await desk.start(f"r{index}", key(f"s{index}")) for index in range(3)]
        for index, claim in enumerate(claims):
            await desk.journal.checkpoint(claim.token, RoundStarted(said(f"{index}")))
        await desk.finish(claims[1])
        orphans = await desk.restart()
        assert [orphan.checkpoints for orphan in orphans] == [(RoundStarted(said("0")),), (RoundStarted(said("2")),)]

    # -- delete ----------------------------------------------------------------------------------------

    @scenario
    async def test_a_session_is_deleted_whole(self, desk: Desk) -> None:
        await desk.finish(await desk.start("other", key("other")), done("hi", "ho"))
        for index in range(3):
            completion = done("hi", "ho", window=(Range(1, None),), state={"n": 1})
            await desk.finish(await desk.start(f"r{index}"), completion)
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await desk.journal.change(Delete(key())) == Changed(existed=False)
        assert await desk.history() == []
        assert not await desk.exists("r0")
        empty = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        assert await desk.journal.load(key()) == empty
        assert await desk.history(key("other")) == said("hi", "ho")
        claim = await desk.start("new")
        assert await desk.journal.load(key()) == empty
        await desk.finish(claim, done("again", "yes"))
        assert await desk.history() == said("again", "yes")
        await desk.restart()
        assert await desk.history() == said("again", "yes")
        assert not await desk.exists("r0")

    @scenario
    async def test_a_session_with_work_is_not_deleted(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        assert await desk.journal.change(Delete(key())) == Busy()
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="a")
        assert await desk.journal.change(Delete(key())) == Busy()
        (claim,) = await desk.restart()
        assert await desk.journal.change(Delete(key())) == Busy()
        await desk.finish(claim, done("hi", "ho"))
        assert await desk.history() == said("hi", "ho")
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

    @scenario
    async def test_an_unknown_session_cannot_be_deleted(self, desk: Desk) -> None:
        assert await desk.journal.change(Delete(key("nobody"))) == Changed(existed=False)

    # -- reading ---------------------------------------------------------------------------------------

    @scenario
    async def test_history_is_read_in_pages_from_its_end(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done(*"012"))
        await desk.finish(await desk.start("b"), done(*"34567"))
        texts = [*said(*"012"), *said(*"34567")]
        runs: list[RunId | None] = [RunId(each) for each in "aaabbbbb"]

        async def page(before: int | None, limit: int) -> HistoryPage:
            return await desk.journal.read(HistoryQuery(key(), before=before, limit=limit))

        def of(first: int, end: int) -> HistoryPage:
            return HistoryPage(texts[first:end], first, indices=[*range(first, end)], runs=runs[first:end])

        assert await page(None, 3) == of(5, 8)
        assert await page(5, 3) == of(2, 5)
        assert await page(2, 3) == of(0, 2)
        assert await page(0, 3) == HistoryPage([], 0)
        assert await page(99, 2) == of(6, 8)
        assert await page(None, 99) == of(0, 8)
        assert await desk.journal.read(HistoryQuery(key("nobody"))) == HistoryPage([], 0)

    @scenario
    async def test_each_message_of_history_names_its_run_until_that_is_deleted(self, desk: Desk) -> None:
        for run in ("a", "b"):
            claim = await desk.start(run)
            desk.clock.at += 100.0
            await desk.finish(claim, done("hi", "ho", "hum"))
        await desk.finish(await desk.start("other", key("other")), done("hi"))
        await desk.finish(await desk.start("c"), done("end"))

        async def runs() -> list[tuple[int, str | None]]:
            page = await desk.journal.read(HistoryQuery(key(), before=None, limit=99))
            return list(zip(page.indices, page.runs, strict=True))

        names: list[str | None] = [*"aaabbbc"]
        assert await runs() == [*enumerate(names)]
        assert await desk.journal.prune(desk.clock.at, 1) == 1
        for _ in range(2):
            assert await runs() == [*enumerate([None, None, None, *names[3:]])]
            await desk.restart()

    @scenario
    async def test_waiting_runs_are_read_in_pages_the_last_accepted_first(self, desk: Desk) -> None:
        """Whatever their sessions and priorities: a run is on one page, and what has begun on none."""
        claim = await desk.start("busy", key("s0"))
        for index in range(7):
            await desk.accept(
                f"r{index}", key(f"s{index % 3}"), claim_next=False, priority=5 - index % 5, created_at=index
            )
        read: list[str] = []
        after: str | None = None
        for size in (3, 3, 1):
            page = await desk.journal.read(RunsOfQuery(ANONYMOUS, frozenset({RunStatus.QUEUED}), after, limit=3))
            assert len(page.runs) == size
            after = page.after
            read += [each.run_id for each in page.runs]
            for each in page.runs:
                assert each.created_at == int(each.run_id[1:])
                assert each.key == key(f"s{int(each.run_id[1:]) % 3}")
        assert after is None
        assert read == [f"r{index}" for index in range(6, -1, -1)]
        assert await desk.waiting() == read[::-1]
        await desk.finish(claim, claim_next=True)
        taken = await desk.claim()
        assert await desk.waiting() == [each for each in reversed(read) if each != taken.run.run_id]

    @scenario
    async def test_an_unknown_run_is_none(self, desk: Desk) -> None:
        assert not await desk.exists("nothing")
