"""Input requests: a question that a run leaves open, its one answer, and its dismissal."""

import asyncio
from typing import Any

from msgspec.structs import replace

from strandline._history import DISMISSED, NOT_ANSWERED, UNKNOWN_OUTCOME, history_faults
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Answers,
    AnswersQuery,
    Attached,
    Bounds,
    CancelSession,
    Changed,
    ClaimResult,
    Delete,
    DismissedQuery,
    Ended,
    HistoryPage,
    HistoryQuery,
    Move,
    Pause,
    Refused,
    Resume,
    Reused,
    SessionQuery,
    Stopped,
    Unanswerable,
)
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    IfBusy,
    InputRequest,
    Keyed,
    Lane,
    Message,
    OnQuestion,
    Outcome,
    Principal,
    Question,
    RoundStarted,
    RunId,
    RunStatus,
    SessionView,
    ToolDone,
    responses,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

REQUESTS = [InputRequest("i1", "approval", {"sure": None}), InputRequest("i2", "amount")]
BOTH = {"i1": "yes", "i2": 3}
ONE = REQUESTS[:1]
OPEN: Message = {
    "role": "assistant",
    "content": [{"toolUse": {"toolUseId": each, "name": "pay", "input": {}}} for each in ("t1", "t2", "t3")],
}
SIBLING = {"toolUseId": "t2", "status": "success", "content": [{"text": "did t2"}]}
TIMEOUT_S = 900.0


def results(*texts: str) -> Message:
    """Return the results of the open round, an error for all but the sibling that had ended."""
    return {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": each, "status": "success" if each == "t2" else "error", "content": [text]}}
            for each, text in zip(("t1", "t2", "t3"), ({"text": text} for text in texts), strict=True)
        ],
    }


def left(text: str, why: str = DISMISSED) -> list[Message]:
    """Return the messages that close the open round if its question is dismissed."""
    return [results(why, "did t2", why), {"role": "assistant", "content": [{"text": text}]}]


def ended(status: RunStatus, *texts: str, discarded: bool = False) -> Completion:
    """Return the completion of a run that answers: results, and what it said then."""
    messages = [results("done", "did t2", "done"), *said("-", *texts)[1:]]
    return Completion(outcome=Outcome(status=status), messages=messages, discarded=discarded)


class InputsContract(Contract):
    """Input requests."""

    async def _ask_question(self, desk: Desk, run_id: str = "a", requests: list[InputRequest] = REQUESTS) -> Question:
        """End a run with a question."""
        claim = await desk.start(run_id)
        return await self._ends_asking(desk, claim, [*said("go"), OPEN], requests)

    async def _ends_asking(
        self, desk: Desk, claim: Claim, messages: list[Message], requests: list[InputRequest] = REQUESTS
    ) -> Question:
        question = Question(requests=requests, message=OPEN, results={"t2": SIBLING}, state={"kept": True})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        completion = Completion(outcome=outcome, messages=messages, question=question, answer_within_s=TIMEOUT_S)
        assert await desk.finish(claim, completion, claim_next=True) is ClaimResult.NOTHING
        return question

    async def _answer(
        self, desk: Desk, run_id: str, answers: dict[str, Any] | None = None, **more: Any
    ) -> AcceptAnswer:
        return await desk.accept(run_id, input=responses(answers or BOTH), lane=Lane.ANSWER, **more)

    async def _dismissed(self, desk: Desk, *run_ids: str) -> list[bool]:
        """Return of each run whether its input requests were dismissed."""
        return [await desk.journal.read(DismissedQuery(ANONYMOUS, RunId(each))) for each in run_ids]

    async def _page(self, desk: Desk) -> HistoryPage:
        return await desk.journal.read(HistoryQuery(key(), limit=100))

    async def _until(self, desk: Desk) -> float:
        """Return until when the session waits for an answer."""
        until = (await self._session(desk)).input_until
        assert until is not None
        return until

    def _waits_until(self, desk: Desk) -> float | None:
        """Return until when the session's runs wait for an answer, as decided; None if they do not."""
        return desk.journal.sessions.input_until(key(), desk.clock.at)

    async def _session(self, desk: Desk) -> SessionView:
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        return session

    # -- asked ----------------------------------------------------------------------------------------

    @scenario
    async def test_a_question_leaves_its_round_open_and_closes_its_session(self, desk: Desk) -> None:
        await self._ask_question(desk)
        until = desk.clock.at + TIMEOUT_S
        for _ in range(2):
            run = await desk.run("a")
            assert (run.status, run.outcome) == (
                RunStatus.NEEDS_INPUT,
                Outcome(status=RunStatus.NEEDS_INPUT, input_requests=REQUESTS),
            )
            session = await self._session(desk)
            assert (session.input_requests, session.input_until) == (REQUESTS, until)
            page = await self._page(desk)
            assert (page.messages, page.pending) == ([*said("go"), OPEN], True)
            assert (await desk.journal.load(key())).messages == page.messages
            await desk.restart()
        assert not (await desk.journal.read(HistoryQuery(key(), before=1))).pending
        assert await desk.accept("b", priority=1) == Accepted(1)
        assert self._waits_until(desk) == until
        assert await desk.accept("c", if_busy=IfBusy.REJECT) == Refused("session_busy", 2)
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        assert await desk.accept("d", key("other")) == Accepted(0), "another session continues"
        await desk.finish(await desk.claim(of="d"))

    @scenario
    async def test_an_answer_goes_first_and_has_the_question(self, desk: Desk) -> None:
        question = await self._ask_question(desk)
        await desk.accept("b", priority=1)
        assert self._waits_until(desk) == await self._until(desk)
        assert await self._answer(desk, "x", bounds=Bounds(0, 0), claim_next=False) == Accepted(1), "no bound holds it"
        assert (await self._session(desk)).input_until is None
        assert self._waits_until(desk) is None
        assert await desk.journal.change(Move(ANONYMOUS, RunId("x"), 5)) == Changed(existed=True)
        assert (await desk.run("x")).position == 1, "it goes first, wherever it is moved"
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="x")
        assert (claim.question, claim.run.input) == (question, responses(BOTH))
        assert (await self._page(desk)).pending, "its round is not closed before the answer has ended"
        assert await desk.finish(claim, ended(RunStatus.SUCCEEDED, "paid"), claim_next=True) is ClaimResult.CLAIMED
        page = await self._page(desk)
        assert (len(page.messages), page.pending, history_faults(page.messages)) == (4, False, [])
        assert (await desk.claim(of="b")).question is None

    @scenario
    async def test_an_answer_to_an_idle_session_is_taken_at_once(self, desk: Desk) -> None:
        question = await self._ask_question(desk)
        assert await self._answer(desk, "x") == Accepted(0)
        claim = await desk.claim(of="x")
        assert claim.question == question
        await desk.finish(claim, ended(RunStatus.SUCCEEDED, "paid"))

    @scenario
    async def test_requests_whose_ids_differ_only_after_a_control_character_are_different_ones(
        self, desk: Desk
    ) -> None:
        ids = ["i", "i\0a", "i\0b", "i\x01"]
        await self._ask_question(desk, requests=[InputRequest(each, "approval") for each in ids])
        given = {each: f"yes {each}" for each in ids}
        assert await self._answer(desk, "x", given) == Accepted(0)
        await desk.finish(await desk.claim(of="x"), ended(RunStatus.SUCCEEDED, "paid"))
        for _ in range(2):
            for each in ids:
                assert await self._answer(desk, "y", {each: 1}) == Unanswerable("answered", [each])
            assert await self._answer(desk, "y", {"i\0": 1}) == Unanswerable("unknown", ["i\0"])
            await desk.restart()

    @scenario
    async def test_the_runs_that_answer_a_question_are_found_again(self, desk: Desk) -> None:
        """While they wait, execute or have ended; also if another run has come between."""

        async def found(*run_ids: str, dismissed: bool = False, of: str = "a") -> None:
            answers = await desk.journal.read(AnswersQuery(ANONYMOUS, RunId(of)))
            assert answers == Answers([RunId(each) for each in run_ids], dismissed)

        await found()
        await self._ask_question(desk)
        await found()
        await self._answer(desk, "x", claim_next=False)
        await found("x")
        await desk.accept("between")
        await desk.cancel("between")
        await desk.journal.claim_next(key())
        await found("x")
        again = [InputRequest("i3", "more")]
        await self._ends_asking(desk, await desk.claim(of="x"), [results("done", "did t2", "done"), OPEN], again)
        await found("x")
        await found(of="x")
        await self._answer(desk, "y", {"i3": 1})
        await found("x", "y")
        await desk.finish(await desk.claim(of="y"), ended(RunStatus.SUCCEEDED, "paid"))
        await desk.finish(await desk.start("later"))
        for _ in range(2):
            await found("x", "y")
            await found("y", of="x")
            await found(of="y")
            assert await desk.journal.read(AnswersQuery(Principal("other"), RunId("a"))) == Answers([])
            await desk.restart()
        assert await desk.journal.read(AnswersQuery(ANONYMOUS, RunId("a"), most=1)) == Answers([RunId("x")])

    @scenario
    async def test_a_question_that_was_dismissed_has_no_answer(self, desk: Desk) -> None:
        await self._ask_question(desk)
        await desk.cancel("a")
        query = AnswersQuery(ANONYMOUS, RunId("a"))
        assert await desk.journal.read(query) == Answers([], dismissed=True)
        again = [InputRequest("i4", "more")]
        await self._ask_question(desk, "b", again)
        await self._answer(desk, "x", {"i4": 1}, claim_next=False)
        await desk.cancel("x")
        assert await desk.journal.read(AnswersQuery(ANONYMOUS, RunId("b"))) == Answers([RunId("x")])

    @scenario
    async def test_of_many_answers_at_once_exactly_one_is_accepted(self, desk: Desk) -> None:
        await self._ask_question(desk)
        given = await asyncio.gather(*(self._answer(desk, f"x{n}", claim_next=bool(n % 2)) for n in range(10)))
        accepted = [answer for answer in given if isinstance(answer, Accepted)]
        assert len(accepted) == 1
        assert [each for each in given if each not in accepted] == [Unanswerable("answered", ["i1"])] * 9
        if accepted[0].position:
            await desk.journal.claim_next(key())
        await desk.finish(await desk.claim(), ended(RunStatus.SUCCEEDED, "paid"))

    @scenario
    async def test_what_cannot_be_answered_is_refused_with_the_reason_also_later(self, desk: Desk) -> None:
        assert await self._answer(desk, "x") == Unanswerable("unknown", ["i1"])
        await self._ask_question(desk)
        assert await self._answer(desk, "x", {"i1": "yes"}) == Unanswerable("incomplete", ["i2"])
        assert await self._answer(desk, "x", {**BOTH, "i3": 1}) == Unanswerable("unknown", ["i3"])
        assert not await desk.exists("x")
        keyed = Keyed("k", b"f" * 32, 0.0)
        assert isinstance(await self._answer(desk, "x", keyed=keyed), Accepted)
        assert await self._answer(desk, "y", keyed=keyed) == Attached(RunId("x"))
        await desk.finish(await desk.claim(of="x"), ended(RunStatus.SUCCEEDED, "paid"))
        for _ in range(2):
            assert await self._answer(desk, "y") == Unanswerable("answered", ["i1"])
            await desk.restart()
        desk.clock.at += 1
        while await desk.journal.prune(desk.clock.at, 100):
            pass
        assert await self._answer(desk, "y") == Unanswerable("unknown", ["i1"]), "it goes with the run that asked"

    @scenario
    async def test_what_an_open_question_rests_on_is_not_pruned_before_it_is_closed(self, desk: Desk) -> None:
        """The run with the question can be read and cancelled, and its key stands for it; others are pruned
        meanwhile."""
        await desk.accept("old", key("other"))
        await desk.finish(await desk.claim(of="old"), ended(RunStatus.SUCCEEDED, "old"))
        keyed = Keyed("k", b"f" * 32, 0.0)
        await desk.accept("a", keyed=keyed)
        await self._ends_asking(desk, await desk.claim(of="a"), [*said("go"), OPEN])
        await desk.accept("new", key("other"))
        await desk.finish(await desk.claim(of="new"), ended(RunStatus.SUCCEEDED, "new"))
        for _ in range(2):
            desk.clock.at += 10_000
            while await desk.journal.prune(desk.clock.at - 1, 1):
                pass
            assert not await desk.exists("old")
            assert not await desk.exists("new"), "what was accepted later is not kept by it"
            assert (await desk.run("a")).status is RunStatus.NEEDS_INPUT
            later = Keyed("k", keyed.fingerprint, desk.clock.at - 1)
            assert await desk.accept("b", keyed=later) == Attached(RunId("a")), "its key lives as long as it does"
            await desk.restart()
        await self._answer(desk, "x")
        claim = await desk.claim(of="x")
        while await desk.journal.prune(desk.clock.at, 1):
            pass
        assert await desk.exists("a"), "its round is open as long as the answer executes"
        await desk.finish(claim, ended(RunStatus.SUCCEEDED, "paid"))
        desk.clock.at += 1
        while await desk.journal.prune(desk.clock.at, 1):
            pass
        assert not await desk.exists("a")
        assert not await desk.exists("x")

    @scenario
    async def test_an_answer_can_end_with_the_next_question(self, desk: Desk) -> None:
        """Of the same round, or of a later one."""
        await self._ask_question(desk)
        await self._answer(desk, "x")
        again = await self._ends_asking(desk, await desk.claim(of="x"), [])
        assert (await self._page(desk)).messages == [*said("go"), OPEN]
        await self._answer(desk, "y")
        claim = await desk.claim(of="y")
        assert claim.question == again
        await self._ends_asking(desk, claim, [results("done", "did t2", "done"), OPEN])
        assert (await self._page(desk)).pending
        await self._answer(desk, "z")
        await desk.finish(await desk.claim(of="z"), ended(RunStatus.SUCCEEDED, "paid"))
        page = await self._page(desk)
        assert (len(page.messages), history_faults(page.messages)) == (6, [])

    # -- plain messages that answer, or dismiss -------------------------------------------------------

    async def _text(self, desk: Desk, run_id: str, **more: Any) -> AcceptAnswer:
        return await desk.accept(run_id, input="yes", on_question=OnQuestion.ANSWER, **more)

    @scenario
    async def test_a_text_answers_the_only_request_and_the_next_one_waits(self, desk: Desk) -> None:
        """As the run that its responses would have made: first, and without a place in any bound of a queue."""
        question = await self._ask_question(desk, requests=ONE)
        await desk.accept("w", priority=1)
        assert await self._text(desk, "x", bounds=Bounds(0, 0), claim_next=False) == Accepted(1)
        run = await desk.run("x")
        assert (run.lane, run.input) == (Lane.ANSWER, responses({"i1": "yes"}))
        assert await self._text(desk, "y") == Accepted(3), "it is no longer open: a message like any other"
        assert ((await desk.run("y")).lane, (await desk.run("y")).input) == (Lane.NORMAL, "yes")
        assert await self._answer(desk, "z", {"i1": "no"}) == Unanswerable("answered", ["i1"])
        await desk.restart()
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="x")
        assert (claim.question, claim.run.input) == (question, responses({"i1": "yes"}))
        assert await desk.finish(claim, ended(RunStatus.SUCCEEDED, "paid"), claim_next=True) is ClaimResult.CLAIMED
        assert await desk.finish(await desk.claim(of="w"), claim_next=True) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="y"), done("yes", "ho"))
        assert history_faults(await desk.history()) == []

    @scenario
    async def test_of_many_texts_at_once_exactly_one_answers(self, desk: Desk) -> None:
        await self._ask_question(desk, requests=ONE)
        given = await asyncio.gather(*(self._text(desk, f"x{n}", claim_next=bool(n % 2)) for n in range(10)))
        assert all(isinstance(each, Accepted) for each in given)
        runs = [await desk.run(f"x{n}") for n in range(10)]
        assert sum(run.lane == Lane.ANSWER for run in runs) == 1
        if not any(run.status is RunStatus.RUNNING for run in runs):
            await desk.journal.claim_next(key())
        await desk.finish(await desk.claim(), ended(RunStatus.SUCCEEDED, "paid"))
        await desk.cancel_all()

    @scenario
    async def test_a_text_waits_unless_exactly_one_request_is_open(self, desk: Desk) -> None:
        """With none it is a run like any other; with two its target is ambiguous; blocks answer nothing."""
        assert await self._text(desk, "b") == Accepted(0), "nothing is asked"
        await desk.finish(await desk.claim(of="b"))
        await self._ask_question(desk)
        assert await self._text(desk, "x") == Accepted(1), "two are"
        assert ((await desk.run("x")).lane, self._waits_until(desk)) == (Lane.NORMAL, await self._until(desk))
        await self._answer(desk, "y")
        claim = await desk.claim(of="y")
        await self._ends_asking(desk, claim, [], ONE)
        until = await self._until(desk)
        blocks = await desk.accept("z", input=[{"text": "yes"}], on_question=OnQuestion.ANSWER)
        assert blocks == Accepted(2), "blocks are no text"
        assert await desk.accept("w", input="yes") == Accepted(3), "nor does it by default"
        assert [(await desk.run(each)).lane for each in "zw"] == [Lane.NORMAL, Lane.NORMAL]
        assert (await self._session(desk)).input_until == self._waits_until(desk) == until
        await desk.cancel_all()

    @scenario
    async def test_a_text_answers_what_is_open_after_its_time_and_under_its_key_once(self, desk: Desk) -> None:
        await self._ask_question(desk, requests=ONE)
        desk.clock.at = await self._until(desk)
        keyed = Keyed("k", b"f" * 32, 0.0)
        full = Bounds(9, 9, stored_bytes=1)
        assert await self._text(desk, "x", bounds=full, keyed=keyed) == Refused("storage_full", 1)
        assert (await self._session(desk)).input_requests == ONE, "what is refused answers nothing"
        assert await self._text(desk, "x", keyed=keyed) == Accepted(0)
        assert (await desk.run("x")).lane == Lane.ANSWER
        await desk.finish(await desk.claim(of="x"), ended(RunStatus.SUCCEEDED, "paid"))
        await self._ask_question(desk, "b", ONE)
        assert await self._text(desk, "y", keyed=keyed) == Attached(RunId("x")), "whatever became of the question"
        other = Keyed("k", b"o" * 32, 0.0)
        assert await self._text(desk, "y", keyed=other) == Reused()
        assert (await self._session(desk)).input_requests == ONE
        await desk.cancel_all()

    @scenario
    async def test_a_text_that_is_not_to_wait_answers_and_is_refused_where_it_would_wait(self, desk: Desk) -> None:
        """Waiting runs of the session go behind it."""
        await self._ask_question(desk, requests=ONE)
        await desk.accept("w")
        await desk.journal.change(Pause(key()))
        assert await self._text(desk, "x", if_busy=IfBusy.REJECT) == Refused("session_busy", 1)
        await desk.journal.change(Resume(key()))
        accepted = await self._text(desk, "x", if_busy=IfBusy.REJECT)
        assert accepted == Accepted(0)
        claim = await desk.claim(of="x")
        assert claim.run.lane == Lane.ANSWER
        completion = Completion(outcome=Outcome(status=RunStatus.NEEDS_INPUT, input_requests=ONE), messages=[])
        question = Question(requests=ONE, message=OPEN, results={"t2": SIBLING}, state={})
        completion = replace(completion, question=question, answer_within_s=TIMEOUT_S)
        await desk.finish(claim, completion, hold=True)
        assert await self._text(desk, "y", if_busy=IfBusy.REJECT) == Refused("session_busy", 1), "it is held"
        assert isinstance(await self._text(desk, "y"), Accepted), "one that may wait answers, and then continues"
        assert await desk.release(claim.token, counted=True, claim_next=True) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="y"), ended(RunStatus.SUCCEEDED, "paid"))
        await desk.cancel_all()

    @scenario
    async def test_a_run_that_dismisses_ends_the_question_and_takes_its_place(self, desk: Desk) -> None:
        await self._ask_question(desk)
        assert await desk.accept("x", on_question=OnQuestion.DISMISS) == Accepted(0)
        assert (await desk.history())[-2:] == left(NOT_ANSWERED)
        assert await self._answer(desk, "y") == Unanswerable("dismissed", ["i1"])
        await desk.finish(await desk.claim(of="x"), done("hi", "ho"))
        await self._ask_question(desk, "b")
        await desk.accept("w", queue_deadline=desk.clock.at + 50)
        assert self._waits_until(desk) == await self._until(desk)
        desk.clock.at += 10
        deadline = desk.clock.at + 50
        accepted = await desk.accept("z", on_question=OnQuestion.DISMISS, queue_deadline=deadline)
        assert accepted == Accepted(2), "behind what waits there already"
        assert self._waits_until(desk) is None
        assert (await desk.history())[-2:] == left(NOT_ANSWERED), "also if it cannot be taken at once"
        assert [(await desk.run(each)).queue_deadline for each in "wz"] == [deadline, deadline]
        await desk.restart()
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.finish(await desk.claim(of="w"), claim_next=True) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="z"), done("hi", "ho"))
        assert history_faults(await desk.history()) == []

    @scenario
    async def test_what_is_refused_dismisses_nothing(self, desk: Desk) -> None:
        """Over a bound, under the key of another request, or because others wait and it must not."""
        await desk.finish(await desk.start("k", keyed=Keyed("k", b"f" * 32, 0.0)))
        await self._ask_question(desk)
        await desk.accept("w")
        until = await self._until(desk)
        dismiss: dict[str, Any] = {"on_question": OnQuestion.DISMISS}
        for bounds, refused in (
            (Bounds(1, 9), Refused("queue_full", 2)),
            (Bounds(9, 1), Refused("server_full", 2)),
            (Bounds(9, 9, per_principal=1), Refused("principal_full", 2)),
            (Bounds(9, 9, stored_bytes=1), Refused("storage_full", 2)),
        ):
            assert await desk.accept("x", bounds=bounds, **dismiss) == refused
        assert await desk.accept("x", if_busy=IfBusy.REJECT, **dismiss) == Refused("session_busy", 2)
        assert await desk.accept("x", keyed=Keyed("k", b"o" * 32, 0.0), **dismiss) == Reused()
        assert await desk.accept("x", keyed=Keyed("k", b"f" * 32, 0.0), **dismiss) == Attached(RunId("k"))
        assert ((await self._session(desk)).input_until, (await self._page(desk)).pending) == (until, True)
        await desk.end("w")
        assert await desk.accept("x", if_busy=IfBusy.REJECT, **dismiss) == Accepted(0)
        await desk.finish(await desk.claim(of="x"), done("hi", "ho"))

    @scenario
    async def test_an_answer_that_waits_is_not_dismissed(self, desk: Desk) -> None:
        """It is no longer open: a run that would dismiss it waits, as for any run."""
        await self._ask_question(desk)
        await self._answer(desk, "x", claim_next=False)
        assert await desk.accept("y", on_question=OnQuestion.DISMISS) == Accepted(2)
        await desk.journal.claim_next(key())
        await desk.finish(await desk.claim(of="x"), ended(RunStatus.SUCCEEDED, "paid"))
        await desk.cancel_all()

    # -- not answered ---------------------------------------------------------------------------------

    @scenario
    async def test_a_run_that_is_taken_after_the_time_dismisses_the_question(self, desk: Desk) -> None:
        await self._ask_question(desk)
        await desk.accept("b")
        until = await self._until(desk)
        desk.clock.at = until - 0.001
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        desk.clock.at = until
        assert (await self._page(desk)).pending, "no other run has started"
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="b")
        page = await self._page(desk)
        assert (page.messages, page.pending) == ([*said("go"), OPEN, *left(NOT_ANSWERED)], False)
        assert await self._answer(desk, "x") == Unanswerable("dismissed", ["i1"])
        await desk.finish(claim, done("hi", "ho"))
        assert history_faults(await desk.history()) == []

    @scenario
    async def test_after_the_time_the_first_that_comes_counts(self, desk: Desk) -> None:
        await self._ask_question(desk)
        desk.clock.at = await self._until(desk) + 1
        assert isinstance(await self._answer(desk, "x"), Accepted)
        await desk.finish(await desk.claim(of="x"), ended(RunStatus.SUCCEEDED, "paid"))
        claim = await desk.start("b")
        await self._ends_asking(desk, claim, [*said("go"), OPEN])
        desk.clock.at = await self._until(desk)
        assert await desk.accept("c") == Accepted(0)
        assert await self._answer(desk, "y") == Unanswerable("dismissed", ["i1"])
        await desk.finish(await desk.claim(of="c"), done("hi", "ho"))
        assert history_faults(await desk.history()) == []

    @scenario
    async def test_time_stands_still_while_a_session_waits_for_input(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b", queue_deadline=desk.clock.at + 50)
        desk.clock.at += 10
        await self._ends_asking(desk, claim, [*said("go"), OPEN])
        until = await self._until(desk)
        desk.clock.at += 100
        await desk.accept("c", queue_deadline=desk.clock.at + 50)
        await desk.restart()
        assert [(await desk.run(each)).queue_deadline for each in "bc"] == [until + 40, until + 50]
        await self._answer(desk, "x", claim_next=False)
        assert [(await desk.run(each)).queue_deadline for each in "bc"] == [desk.clock.at + 40, desk.clock.at + 50]
        await desk.cancel_all()

    @scenario
    async def test_an_answer_that_comes_to_nothing_closes_the_round(self, desk: Desk) -> None:
        """Cancelled, or ended, before it has begun."""
        await self._ask_question(desk)
        await self._answer(desk, "x", claim_next=False)
        stopped = await desk.cancel("x")
        assert isinstance(stopped, Stopped)
        assert list(stopped.ended) == ["x"]
        closed = left("(This run ended early: cancelled.)")
        assert await desk.history() == [*said("go"), OPEN, *closed]
        await self._ask_question(desk, "b")
        await self._answer(desk, "y", claim_next=False)
        assert await desk.end("y") == Changed(existed=True)
        assert (await desk.history())[-2:] == left(NOT_ANSWERED)
        assert history_faults(await desk.history()) == []
        assert not (await self._page(desk)).pending

    @scenario
    async def test_an_answer_that_is_discarded_leaves_the_round_closed(self, desk: Desk) -> None:
        await self._ask_question(desk)
        await self._answer(desk, "x")
        claim = await desk.claim(of="x")
        assert isinstance(await desk.accept("i", if_busy=IfBusy.ROLLBACK, lane=Lane.FRONT), Accepted)
        completion = ended(RunStatus.CANCELLED, "cancelled", discarded=True)
        assert await desk.finish(claim, completion, claim_next=True) is ClaimResult.CLAIMED
        shown = [*said("go"), OPEN, *left(NOT_ANSWERED, UNKNOWN_OUTCOME)]
        assert await desk.history() == shown
        assert (await desk.journal.load(key())).messages == shown
        assert len(await desk.history(discarded=True)) == 6
        await desk.finish(await desk.claim(of="i"), done("hi", "ho"))

    @scenario
    async def test_who_interrupts_does_not_wait_for_an_answer(self, desk: Desk) -> None:
        for number, if_busy in enumerate((IfBusy.INTERRUPT, IfBusy.ROLLBACK)):
            await self._ask_question(desk, f"a{number}")
            assert await desk.accept(f"i{number}", if_busy=if_busy, lane=Lane.FRONT) == Accepted(0)
            assert (await desk.history())[-2:] == left(NOT_ANSWERED), "what had ended stays, also with a rollback"
            await desk.finish(await desk.claim(of=f"i{number}"), done("hi", "ho"))
        await self._ask_question(desk, "b")
        await desk.accept("i", if_busy=IfBusy.INTERRUPT, lane=Lane.FRONT, claim_next=False)
        assert (await self._session(desk)).input_until is None, "also if it cannot be taken at once"
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="i"), done("hi", "ho"))
        assert history_faults(await desk.history()) == []

    @scenario
    async def test_a_cancel_withdraws_a_question(self, desk: Desk) -> None:
        """Of the run with the question, or of the session with `running`."""
        await desk.finish(await desk.start("before"))
        await self._ask_question(desk, "a")
        assert await desk.cancel("before") == Ended(), "it is not the one that asks"
        await desk.accept("b")
        assert await self._dismissed(desk, "before", "a") == [False, False]
        assert await desk.cancel("a") == Stopped(ended={}, cancelling=[], dismissed=True)
        assert await self._dismissed(desk, "before", "a") == [False, True]
        assert not await desk.journal.read(DismissedQuery(Principal("other"), RunId("a")))
        assert ((await self._session(desk)).input_until, self._waits_until(desk)) == (None, None)
        assert await desk.cancel("a") == Ended()
        assert (await desk.run("a")).status is RunStatus.NEEDS_INPUT, "an outcome never changes"
        await desk.journal.claim_next(key())
        await self._ends_asking(desk, await desk.claim(of="b"), [*said("go"), OPEN])
        await desk.accept("c")
        stopped = await desk.cancel_all()
        assert isinstance(stopped, Stopped)
        assert not stopped.dismissed
        assert (await self._session(desk)).input_until is not None, "without `running` only what waits is ended"
        stopped = await desk.journal.change(CancelSession(key(), running=True))
        assert isinstance(stopped, Stopped)
        assert stopped.dismissed
        assert (await self._session(desk)).input_until is None
        assert history_faults(await desk.history()) == []
        assert await self._answer(desk, "x") == Unanswerable("dismissed", ["i1"])

    @scenario
    async def test_a_session_that_waits_for_input_can_be_deleted(self, desk: Desk) -> None:
        """The closed requests of its earlier questions are deleted, too."""
        await self._ask_question(desk, "first")
        await self._answer(desk, "y")
        await self._ends_asking(desk, await desk.claim(of="y"), [])
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._answer(desk, "x") == Unanswerable("unknown", ["i1"])
        claim = await desk.start("b")
        assert await self._answer(desk, "x") == Unanswerable("unknown", ["i1"]), "nor by another one of its name"
        assert await desk.history() == []
        await desk.finish(claim)

    @scenario
    async def test_an_answer_that_executed_comes_back_with_its_question(self, desk: Desk) -> None:
        """After a crash, and when it is requeued: with all its checkpoints."""
        question = await self._ask_question(desk)
        await self._answer(desk, "x")
        await desk.journal.checkpoint((await desk.claim(of="x")).token, RoundStarted([]))
        (orphan,) = await desk.restart()
        assert (orphan.question, orphan.checkpoints) == (question, (RoundStarted([]),))
        await desk.journal.checkpoint(orphan.token, ToolDone("t1", SIBLING))
        assert await desk.release(orphan.token, counted=False, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="x")
        assert (claim.question, len(claim.checkpoints)) == (question, 2)
        await desk.release(claim.token, counted=False)
        stopped = await desk.cancel("x")
        assert isinstance(stopped, Stopped)
        assert history_faults(await desk.history()) == []
        assert UNKNOWN_OUTCOME in str(await desk.history()), "its tools may have run"
