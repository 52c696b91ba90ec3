"""The turns of a session, compared with the messages that a client lists."""

from typing import Any

from strandline._journal.port import BY_LIST, Conversation, ConversationQuery, ConversationTurn, Turned
from strandline._model import Completion, IfBusy, Lane, Outcome, RunId, RunStatus, responses
from strandline.testing._contract.going_back import asking, go_back, restore, turn
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said


async def conversation(desk: Desk, *listed: str) -> Conversation:
    """Compare a session with a list."""
    return await desk.journal.read(ConversationQuery(key(), listed))


def turned(run_id: str | None, *like: int, **fields: Any) -> Turned:
    """Return what a run said, and the listed messages that are equal to it."""
    return Turned(None if run_id is None else RunId(run_id), like, **fields)


def one(run_id: str, before: int | None, *like: int, **fields: Any) -> ConversationTurn:
    """Return a turn of one run."""
    return ConversationTurn((turned(run_id, *like, **fields),), before)


class ConversationsContract(Contract):
    """Turns are shown with what they continue, on every branch."""

    @scenario
    async def test_an_unknown_session_has_no_turns(self, desk: Desk) -> None:
        assert await conversation(desk, "ask a") == Conversation()

    @scenario
    async def test_turns_are_shown_in_order_with_what_a_list_has_of_them(self, desk: Desk) -> None:
        for run_id in ("a", "b", "c"):
            await turn(desk, run_id)
        listed = ("ask b", "ask x", "ask a", "ask b")
        assert await conversation(desk, *listed) == Conversation(
            [one("a", None, 2), one("b", 0, 0, 3), one("c", 1)], end=2
        )

    @scenario
    async def test_superseded_turns_are_shown_with_their_branch(self, desk: Desk) -> None:
        for run_id in ("a", "b", "c"):
            await turn(desk, run_id)
        await go_back(desk, "d", "a")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        await go_back(desk, "e", "b")
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        await turn(desk, "f")
        first = [one("a", None), one("b", 0), one("c", 1), one("d", 0), one("e", 1), one("f", 4)]
        assert await conversation(desk) == Conversation(first, end=5)
        await go_back(desk, "g")
        await desk.finish(await desk.claim(of="g"), done("ask g", "answer g"))
        assert await conversation(desk) == Conversation([*first, one("g", None)], end=6)
        await desk.restart()
        assert await conversation(desk) == Conversation([*first, one("g", None)], end=6)

    @scenario
    async def test_a_restored_branch_is_continued(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b")
        await go_back(desk, "c", "a")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        await restore(desk, "b")
        assert (await conversation(desk)).end == 1
        await turn(desk, "d")
        assert await conversation(desk) == Conversation([one("a", None), one("b", 0), one("c", 0), one("d", 1)], end=3)

    @scenario
    async def test_all_that_joined_a_run_is_one_turn(self, desk: Desk) -> None:
        host = await desk.start("b")
        await desk.accept("c", if_busy=IfBusy.STEER)
        await desk.accept("d", if_busy=IfBusy.STEER)
        await desk.journal.apply_joins(host.token, said("ask b"))
        coming = [turned("b"), turned("c"), turned("d", 0)]
        assert await conversation(desk, "ask d") == Conversation(coming=coming)
        both = Completion(
            outcome=Outcome(status=RunStatus.SUCCEEDED),
            messages=said("ask b, c and d", "answer all"),
            joined=(RunId("c"), RunId("d")),
        )
        await desk.finish(host, both)
        whole = ConversationTurn((turned("b"), turned("c"), turned("d", 0)), None)
        assert await conversation(desk, "ask d") == Conversation([whole], end=0)

    @scenario
    async def test_what_has_not_ended_is_shown_apart(self, desk: Desk) -> None:
        await turn(desk, "a")
        claim = await desk.start("b")
        await desk.accept("c", priority=1)
        await desk.accept("d", if_busy=IfBusy.STEER)
        await desk.accept("e", lane=Lane.NORMAL, not_before=desk.clock.at + 1000)
        now = await conversation(desk, "ask c")
        assert now.turns == [one("a", None)]
        assert now.coming == [turned("b"), turned("c", 0), turned("d"), turned("e")]
        await desk.finish(claim, done("ask b", "answer b"), claim_next=True)
        await desk.finish(await desk.claim(), done("ask", "answer"), claim_next=True)
        await desk.finish(await desk.claim(), done("ask", "answer"), claim_next=False)
        assert (await conversation(desk)).coming == [turned("e")]

    @scenario
    async def test_a_run_that_came_with_a_list_says_so(self, desk: Desk) -> None:
        await turn(desk, "a", metadata={BY_LIST: "follow", "x": 1})
        await turn(desk, "b", metadata={"x": 1})
        assert await conversation(desk) == Conversation([one("a", None, by_list=True), one("b", 0)], end=1)

    @scenario
    async def test_what_left_no_messages_or_was_discarded_is_no_turn(self, desk: Desk) -> None:
        await turn(desk, "a")
        await desk.finish(await desk.start("b"), done())
        claim = await desk.start("c")
        await desk.accept("d", if_busy=IfBusy.ROLLBACK, lane=Lane.FRONT)
        outcome = Outcome(status=RunStatus.CANCELLED)
        discarded = Completion(outcome=outcome, messages=said("ask c", "answer c"), discarded=True)
        await desk.finish(claim, discarded, claim_next=True)
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await conversation(desk) == Conversation([one("a", None), one("d", 0)], end=1)

    @scenario
    async def test_an_answer_is_listed_if_it_is_one_text(self, desk: Desk) -> None:
        for asker, answer, given in (("a", "b", "yes"), ("c", "d", {"ok": True})):
            await desk.finish(await desk.start(asker), asking(asker))
            claim = await desk.start_any(answer, input=responses({asker: given}), lane=Lane.ANSWER)
            await desk.finish(claim, done("result", "answer"))
        assert await conversation(desk, "yes") == Conversation(
            [one("a", None), one("b", 0, 0), one("c", 1), one("d", 2, is_listed=False)], end=3
        )

    @scenario
    async def test_of_a_deleted_run_the_messages_are_compared(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b")
        assert await desk.journal.prune(desk.clock.at + 1, 100) == 2
        deleted = [ConversationTurn((turned(None, *like),), before) for like, before in (((1,), None), ((), 0))]
        assert await conversation(desk, "x", "ask a") == Conversation(deleted, end=1)
