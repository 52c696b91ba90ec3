"""Sessions that begin with the history of another one."""

import asyncio
from typing import Any

import pytest

from strandline._history import open_tool_uses
from strandline._journal.port import (
    Accepted,
    Changed,
    Delete,
    Fork,
    Forked,
    HistoryPage,
    HistoryQuery,
    Pause,
    Refused,
    RestingQuery,
    Reused,
    SessionQuery,
    SessionTree,
    SetOptions,
    StoredQuery,
    SupersededQuery,
    Taken,
    TreeBranch,
    TreeFork,
    TreeQuery,
    Unreachable,
)
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Completion,
    ForkedFrom,
    GoBack,
    IfBusy,
    Inline,
    InputRequest,
    Message,
    Outcome,
    Principal,
    Question,
    Range,
    RunDefaults,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
    responses,
)
from strandline.testing._contract.going_back import turn, turns
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

_COPY = key("copy")


async def fork(desk: Desk, after: str | int | None = None, at: SessionKey = _COPY, of: str = "s", **fields: Any) -> Any:
    """Fork a session."""
    place = after if after is None or isinstance(after, int) else RunId(after)
    return await desk.journal.change(Fork(at, SessionId(of), place, **fields))


def forked(run_id: str | None, messages: int, at: SessionKey = _COPY, of: str = "s", **fields: Any) -> Forked:
    """Return the answer to a fork that was made."""
    run = None if run_id is None else RunId(run_id)
    return Forked(at, ForkedFrom(session_id=SessionId(of), run_id=run), messages, **fields)


async def whole(desk: Desk, at: SessionKey = _COPY) -> HistoryPage:
    """Return all of a history."""
    return await desk.journal.read(HistoryQuery(at, limit=1000, discarded=True, superseded=True))


async def ask(desk: Desk, run_id: str, **fields: Any) -> Question:
    """Have a run end with a question."""
    message: Message = {
        "role": "assistant",
        "content": [{"toolUse": {"toolUseId": "t1", "name": "approve", "input": {}}}],
    }
    question = Question(requests=[InputRequest("q1", "approve")], message=message, results={}, state={})
    claim = await desk.start_any(run_id, **fields)
    outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=question.requests)
    ended = Completion(
        outcome=outcome, messages=[*said(f"ask {run_id}"), message], question=question, answer_within_s=600.0
    )
    await desk.finish(claim, ended)
    return question


class ForksContract(Contract):
    """Sessions that are forked: all of it, or up to a run."""

    @scenario
    async def test_a_fork_begins_with_the_history_of_its_source(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        before = await desk.seen(["a", "b", "c"])
        assert await fork(desk) == forked("c", 6)
        assert await desk.seen(["a", "b", "c"]) == before
        assert await desk.history(_COPY) == turns("a", "b", "c")
        assert (await desk.journal.load(_COPY)).messages == turns("a", "b", "c")
        await turn(desk, "d", _COPY)
        await turn(desk, "e")
        await desk.restart()
        assert await desk.history(_COPY) == turns("a", "b", "c", "d")
        assert await desk.history() == turns("a", "b", "c", "e")
        page = await whole(desk)
        assert page.runs == ["a", "a", "b", "b", "c", "c", "d", "d"]
        assert page.indices == list(range(8))
        view = await desk.journal.read(SessionQuery(_COPY))
        assert view is not None
        assert view.forked_from == ForkedFrom(session_id=SessionId("s"), run_id=RunId("c"))
        source = await desk.journal.read(SessionQuery(key()))
        assert source is not None
        assert source.forked_from is None

    @scenario
    async def test_a_fork_ends_after_a_run_or_the_run_with_a_message(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        assert await fork(desk, "b") == forked("b", 4)
        for number, at in enumerate(("x", "y", "z", "w")):
            ends = 2 + number // 2 * 2
            assert await fork(desk, number, key(at)) == forked("ab"[number // 2], ends, key(at))
        assert await desk.history(_COPY) == turns("a", "b")
        assert await desk.history(key("x")) == turns("a")
        assert await fork(desk, 6, key("other")) == Unreachable("unknown")
        assert await desk.journal.read(SessionQuery(key("other"))) is None

    @scenario
    async def test_what_cannot_end_a_fork_makes_none(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "gone", completion=done("ask", "answer", discarded=True))
        await turn(desk, "silent", completion=done())
        await turn(desk, "foreign", key("s", "somebody"))
        executing = await desk.start_any("executing")
        await desk.accept("waiting")
        assert await fork(desk, "gone") == Unreachable("discarded")
        assert await fork(desk, "silent") == Unreachable("left_nothing")
        assert await fork(desk, "executing") == Unreachable("not_ended")
        assert await fork(desk, "waiting") == Unreachable("not_ended")
        assert await fork(desk, "foreign") == Unreachable("unknown")
        assert await fork(desk, "nothing") == Unreachable("unknown")
        assert await fork(desk, of="nothing") == Changed(existed=False)
        assert await fork(desk, at=key("copy", "somebody else")) == Changed(existed=False)
        assert await desk.journal.read(SessionQuery(_COPY)) is None
        assert await fork(desk) == forked("gone", 4)
        assert await desk.history(_COPY) == turns("a")
        await desk.finish(executing)
        await desk.end("waiting")

    @scenario
    async def test_an_id_that_is_taken_is_not_forked_to_but_by_the_same_request(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b", _COPY)
        assert await fork(desk) == Taken()
        assert await fork(desk, named="k", fingerprint=b"1") == Taken()
        other = key("other")
        made = await fork(desk, at=other, named="k", fingerprint=b"1")
        assert made == forked("a", 2, other)
        await turn(desk, "c")
        await desk.restart()
        again = await fork(desk, at=other, named="k", fingerprint=b"1")
        assert again == forked("a", 2, other, replayed=True)
        assert await fork(desk, at=other, named="k", fingerprint=b"2") == Reused()
        assert await fork(desk, at=other, named="other", fingerprint=b"1") == Taken()
        assert await fork(desk, at=other) == Taken()
        assert await desk.history(other) == turns("a")

    @scenario
    async def test_window_and_state_are_those_of_the_place(self, desk: Desk) -> None:
        summary: Message = {"role": "user", "content": [{"text": "summary"}]}
        window = (Inline(summary), Range(2, None))
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        await turn(desk, "b", completion=done("ask b", "answer b", window=window, state={"n": 2}))
        await turn(desk, "c", completion=done("ask c", "answer c", state={"n": 3}))
        assert await fork(desk, "b") == forked("b", 4)
        loaded = await desk.journal.load(_COPY)
        assert loaded == AgentRecord(
            messages=[summary, *turns("b")], origins=[None, 2, 3], window=window, length=4, state={"n": 2}
        )
        first, now = key("first"), key("now")
        await fork(desk, "a", first)
        record = await desk.journal.load(first)
        assert (record.window, record.state) == (WHOLE_HISTORY, {"n": 1})
        await fork(desk, at=now)
        assert (await desk.journal.load(now)).state == {"n": 3}
        await turn(desk, "d", now, completion=done("ask d", "answer d", state={"n": 4}))
        await desk.restart()
        assert (await desk.journal.load(now)).state == {"n": 4}
        await desk.accept("e", now, back=GoBack(after=RunId("c")))
        await desk.claim(of="e")
        record = await desk.journal.load(now)
        assert (record.state, record.length) == ({"n": 3}, 8)

    @scenario
    async def test_where_nothing_has_changed_the_agent_since_a_fork_goes_back_with_what_it_has(
        self, desk: Desk
    ) -> None:
        await turn(desk, "a")
        await turn(desk, "b", completion=done("ask b", "answer b", state={"n": 1}))
        await turn(desk, "c")
        await fork(desk)
        for run_id, after, state, forgotten in (
            ("d", "b", {"n": 1}, False),
            ("e", "a", None, False),
            ("f", "c", {"n": 1}, False),
        ):
            await desk.accept(run_id, _COPY, back=GoBack(after=RunId(after)))
            claim = await desk.claim(of=run_id)
            assert (await desk.journal.load(_COPY)).state == state
            gone = await desk.journal.read(SupersededQuery(_COPY, run_id=RunId(run_id)))
            assert gone.forgotten is forgotten
            await desk.finish(claim, done("ask", "answer", state={"n": run_id}))
        await turn(desk, "g", completion=done("ask g", "answer g", state={"n": 2}))
        await fork(desk, at=key("late"))
        await desk.accept("h", key("late"), back=GoBack(after=RunId("c")))
        claim = await desk.claim(of="h")
        assert (await desk.journal.load(key("late"))).state is None
        gone = await desk.journal.read(SupersededQuery(key("late"), run_id=RunId("h")))
        assert gone.forgotten
        await desk.finish(claim)

    @scenario
    async def test_what_is_kept_no_more_is_forgotten(self, desk: Desk) -> None:
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        desk.clock.at += 1000
        await turn(desk, "b", completion=done("ask b", "answer b", state={"n": 2}))
        await desk.journal.prune(desk.clock.at - 1, 10)
        assert await fork(desk, 0) == forked(None, 2, forgotten=True)
        record = await desk.journal.load(_COPY)
        assert (record.messages, record.window, record.state) == (turns("a"), WHOLE_HISTORY, None)
        assert await fork(desk, "a", key("other")) == Unreachable("unknown")

    @pytest.mark.parametrize("begins", ["a fork", "pruning"])
    @pytest.mark.parametrize("together", [1, 3])
    def test_a_fork_is_whole_while_the_runs_of_its_source_are_pruned(
        self, begins: str, together: int, tmp_path: Any
    ) -> None:
        """Each step of pruning falls before, after or into a fork: it has the agent of its place, or says that this is
        forgotten, and all that was said by then."""

        @scenario
        async def play(_: Any, desk: Desk) -> None:
            names = [chr(ord("a") + number) for number in range(12)]
            for number, each in enumerate(names):
                await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"n": number}))
            await desk.accept("later", not_before=desk.clock.at + 1e6)
            desk.clock.at += 1000.0
            before = desk.clock.at - 1
            forks, steps = list[Any](), list[Any]()
            for number in range(len(names)):
                copies = [fork(desk, 2 * each + 1, key(f"{number}.{each}")) for each in range(0, len(names), 5)]
                prunes = [desk.journal.prune(before, 1) for _ in range(together)]
                both = [*copies, *prunes] if begins == "a fork" else [*prunes, *copies]
                answers = await asyncio.gather(*both)
                forks += [each for each in answers if isinstance(each, Forked)]
                steps += [each for each in answers if isinstance(each, int)]
            assert sum(steps) == len(names)
            assert len(forks) == 3 * len(names)
            assert {each.forgotten for each in forks} == {True, False}
            for _ in range(2):
                for made in forks:
                    upto = int(made.key.session_id.split(".")[1]) + 1
                    page, record = await whole(desk, made.key), await desk.journal.load(made.key)
                    assert page.messages == record.messages == turns(*names[:upto])
                    assert record.length == made.messages == 2 * upto
                    assert page.indices == list(range(2 * upto))
                    assert record.state == (None if made.forgotten else {"n": upto - 1})
                    named = [names.index(each) for each in page.runs if each is not None]
                    assert named == [each // 2 for each in range(2 * upto)][2 * upto - len(named) :], (
                        "the oldest go first"
                    )
                await desk.restart()
            for made in forks[::7]:
                await turn(desk, f"on {made.key.session_id}", made.key)
                assert len(await desk.history(made.key)) == made.messages + 2

        play(self, tmp_path)

    @scenario
    async def test_an_open_question_is_closed_in_the_copy_alone(self, desk: Desk) -> None:
        await turn(desk, "a")
        question = await ask(desk, "b")
        made = await fork(desk)
        assert made == forked("b", 6)
        assert await fork(desk, "b", key("other")) == forked("b", 6, key("other"))
        copied = await desk.history(_COPY)
        assert copied == await desk.history(key("other"))
        assert not open_tool_uses(copied)
        assert copied[3:4] == [question.message]
        assert "toolResult" in copied[4]["content"][0]
        assert (await desk.history())[3:] == [question.message]
        await turn(desk, "c", _COPY)
        answer = responses({"q1": "yes"})
        claim = await desk.start_any("d", input=answer, lane=1)
        assert claim.question == question
        await desk.finish(claim, done("ask d", "answer d"))
        assert await fork(desk, "b", key("late")) == Unreachable("answered", RunId("d"))
        assert await fork(desk, 3, key("late")) == Unreachable("answered", RunId("d"))
        assert await fork(desk, at=key("all")) == forked("d", 6, key("all"))
        answered = Unreachable("answered", RunId("d"))
        assert await desk.accept("e", key("all"), back=GoBack(after=RunId("b"))) == answered
        assert await fork(desk, "b", key("copied"), "all") == answered

    @scenario
    async def test_a_dismissed_question_stays_closed(self, desk: Desk) -> None:
        await ask(desk, "a")
        await desk.cancel("a")
        await turn(desk, "b")
        length = len(await desk.history())
        assert await fork(desk, "a") == forked(None, length - 2)
        assert not open_tool_uses(await desk.history(_COPY))

    @scenario
    async def test_a_fork_goes_back_to_copied_turns(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        await fork(desk)
        await turn(desk, "d", _COPY)
        await desk.accept("e", _COPY, back=GoBack(after=RunId("a")))
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        assert await desk.history(_COPY) == turns("a", "e")
        assert await desk.accept("f", _COPY, back=GoBack(again=RunId("a"))) == Unreachable("unknown")
        assert await desk.history() == turns("a", "b", "c")
        assert await fork(desk, "b", key("second"), "copy") == forked("b", 4, key("second"), "copy")
        assert await desk.history(key("second")) == turns("a", "b")
        assert await fork(desk, at=key("third"), of="copy") == forked("e", 10, key("third"), "copy")
        assert await desk.history(key("third")) == turns("a", "e")

    @scenario
    async def test_a_run_that_had_joined_names_the_turn_in_a_copy_as_in_its_source(self, desk: Desk) -> None:
        await turn(desk, "a")
        host = await desk.start("b")
        await desk.accept("c", if_busy=IfBusy.STEER)
        await desk.journal.apply_joins(host.token, said("ask b"))
        outcome = Outcome(status=RunStatus.SUCCEEDED)
        both = said("ask b and c", "answer both")
        await desk.finish(host, Completion(outcome=outcome, messages=both, joined=(RunId("c"),)))
        await turn(desk, "silent", completion=done())
        await turn(desk, "d")
        await turn(desk, "foreign", key("s", "somebody"))
        ends, whole_of_it = key("ends there"), key("whole")
        assert await fork(desk, "c", ends) == forked("b", 4, ends), "naming one is naming all"
        assert await fork(desk, at=whole_of_it) == forked("d", 6, whole_of_it)
        for at in (ends, whole_of_it):
            again = key(f"again {at.session_id}")
            assert await fork(desk, "c", again, at.session_id) == forked("b", 4, again, at.session_id)
            assert await desk.history(again) == [*turns("a"), *both]
        for run_id, at in (("e", key()), ("f", ends), ("g", whole_of_it)):
            assert await desk.accept(run_id, at, back=GoBack(after=RunId("c"))) == Accepted(0)
            await desk.finish(await desk.claim(of=run_id), done(f"ask {run_id}", f"answer {run_id}"))
            assert await desk.history(at) == [*turns("a"), *both, *turns(run_id)]
        for named, refused in (("silent", Unreachable("left_nothing")), ("foreign", Unreachable("unknown"))):
            assert await desk.accept("h", whole_of_it, back=GoBack(after=RunId(named))) == refused

    @scenario
    async def test_branches_are_copied(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await desk.accept("c", back=GoBack(after=RunId("a")))
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await fork(desk) == forked("c", 6)
        assert await desk.history(_COPY) == turns("a", "c")
        page = await whole(desk)
        assert (page.messages, page.superseded) == (turns("a", "b", "c"), [2, 3])
        assert await fork(desk, "b", key("other")) == forked("b", 4, key("other"))
        assert await desk.history(key("other")) == turns("a", "b")
        await desk.accept("d", back=GoBack(after=RunId("a")))
        claim = await desk.claim(of="d")
        assert await fork(desk, at=key("begun")) == forked("c", 6, key("begun"))
        assert await desk.history(key("begun")) == turns("a")
        await desk.finish(claim)

    @scenario
    async def test_a_copy_outlives_its_source_and_both_count(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"n": each}))
        one = (await desk.journal.read(StoredQuery())).total
        assert await fork(desk, stored_bytes=one) == Refused("storage_full", 0)
        await fork(desk)
        both = (await desk.journal.read(StoredQuery())).total
        assert one < both < 2 * one
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        await desk.restart()
        assert await desk.history(_COPY) == turns("a", "b")
        assert (await whole(desk)).runs == ["a", "a", "b", "b"]
        assert (await desk.journal.load(_COPY)).state == {"n": "b"}
        await desk.accept("c", _COPY, back=GoBack(after=RunId("a")))
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await desk.history(_COPY) == turns("a", "c")
        assert await desk.journal.change(Delete(_COPY)) == Changed(existed=True)
        assert (await desk.journal.read(StoredQuery())).total == 0
        assert await desk.journal.read(SessionQuery(_COPY)) is None

    @scenario
    async def test_options_are_copied_and_a_pause_is_not(self, desk: Desk) -> None:
        await turn(desk, "a")
        await desk.journal.change(SetOptions(key(), {"priority": 2}))
        await desk.journal.change(Pause(key()))
        await fork(desk)
        view = await desk.journal.read(SessionQuery(_COPY))
        assert view is not None
        assert (view.options, view.paused) == (RunDefaults(priority=2), False)
        await turn(desk, "b", _COPY)
        await desk.restart()
        assert (await desk.run("b")).priority == 2

    @scenario
    async def test_an_empty_session_is_forked(self, desk: Desk) -> None:
        claim = await desk.start("a")
        assert await fork(desk) == forked(None, 0)
        await desk.finish(claim, done("ask a", "answer a"))
        assert await desk.history(_COPY) == []
        await turn(desk, "b", _COPY)
        assert await desk.history(_COPY) == turns("b")

    @scenario
    async def test_a_fork_rests_from_the_moment_it_was_made(self, desk: Desk) -> None:
        await turn(desk, "a")
        desk.clock.at += 100
        await fork(desk)
        page = await desk.journal.read(RestingQuery(desk.clock.at))
        assert page.keys == [key()]
        page = await desk.journal.read(RestingQuery(desk.clock.at + 1))
        assert page.keys == [key(), SessionKey(Principal("anonymous"), SessionId("copy"))]

    @scenario
    async def test_a_tree_has_branches_and_forks_without_messages(self, desk: Desk) -> None:
        for each in "abc":
            desk.clock.at += 1
            await turn(desk, each)
        await fork(desk, "b", key("first"))
        began = desk.clock.at = desk.clock.at + 1
        await desk.accept("d", back=GoBack(after=RunId("a")))
        claim = await desk.claim(of="d")
        desk.clock.at += 2
        await desk.finish(claim, done("ask d", "answer d"))
        await turn(desk, "e")
        await fork(desk, at=key("second"))
        await desk.accept("f", back=GoBack())
        executing = await desk.claim(of="f")
        tree = await desk.journal.read(TreeQuery(key()))
        first, second, third = (
            TreeBranch(
                start=0,
                messages=6,
                parent=None,
                after=None,
                after_run=None,
                first_run=RunId("a"),
                last_run=RunId("c"),
                began_at=began - 3,
                ended_at=began - 1,
                superseded_from=0,
            ),
            TreeBranch(
                start=6,
                messages=4,
                parent=0,
                after=1,
                after_run=RunId("a"),
                first_run=RunId("d"),
                last_run=RunId("e"),
                began_at=began,
                ended_at=began + 2,
                superseded_from=6,
            ),
            TreeBranch(
                start=10,
                messages=0,
                parent=0,
                after=None,
                after_run=None,
                first_run=None,
                last_run=None,
                began_at=None,
                ended_at=None,
                superseded_from=None,
            ),
        )
        forks = [
            TreeFork(SessionId("first"), RunId("b"), 4, 0),
            TreeFork(SessionId("second"), RunId("e"), 10, 6),
        ]
        assert tree == SessionTree(key=key(), messages=10, branches=[first, second, third], forks=forks)
        last = await desk.journal.read(TreeQuery(key(), most=1))
        assert last == SessionTree(key=key(), messages=10, branches=[third], forks=forks[1:], is_whole=False)
        await desk.finish(executing, done("ask f", "answer f"))
        copied = await desk.journal.read(TreeQuery(key("second")))
        assert copied is not None
        assert copied.forked_from == ForkedFrom(session_id=SessionId("s"), run_id=RunId("e"))
        assert [(each.start, each.first_run, each.began_at, each.superseded_from) for each in copied.branches] == [
            (0, "a", None, 2),
            (6, "d", None, None),
        ]
        assert copied.forks == []
        assert await desk.journal.read(TreeQuery(key("nothing"))) is None
        await desk.journal.change(Delete(key("first")))
        after = await desk.journal.read(TreeQuery(key()))
        assert after is not None
        assert [each.session_id for each in after.forks] == ["second"]

    @scenario
    async def test_a_tree_of_a_long_history_names_the_runs_at_its_ends(self, desk: Desk) -> None:
        for number in range(140):
            await turn(desk, f"r{number}")
        await desk.accept("back", back=GoBack(after=RunId("r70")))
        await desk.finish(await desk.claim(of="back"), done("ask", "answer"))
        tree = await desk.journal.read(TreeQuery(key()))
        assert tree is not None
        assert [(each.first_run, each.last_run, each.after_run) for each in tree.branches] == [
            ("r0", "r139", None),
            ("back", "back", "r70"),
        ]
        assert tree.branches[0].superseded_from == 142
