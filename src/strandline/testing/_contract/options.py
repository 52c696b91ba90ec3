"""Default run options of sessions: kept, given to each run that sets none, and counted."""

from typing import Any

import pytest

from strandline._journal.port import (
    Accepted,
    Attached,
    Bounds,
    Changed,
    Delete,
    Refused,
    SessionQuery,
    SessionsQuery,
    SetOptions,
    StoredQuery,
)
from strandline._model import (
    ANONYMOUS,
    NO_DEFAULTS,
    RUN_OPTIONS,
    Completion,
    IfBusy,
    InputRequest,
    Keyed,
    Lane,
    OnDisconnect,
    OnQuestion,
    Outcome,
    Question,
    RunDefaults,
    RunId,
    RunStatus,
    Sender,
    responses,
)
from strandline.errors import Invalid
from strandline.testing._contract.inputs import OPEN, SIBLING
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import WIDE, Desk, done, key, said

ALL: dict[str, Any] = {
    "if_busy": IfBusy.REJECT,
    "on_question": OnQuestion.DISMISS,
    "priority": 1,
    "timeout": 7.0,
    "queue_timeout": 9.0,
    "on_disconnect": OnDisconnect.CANCEL,
    "metadata": {"team": "a", "of": "session"},
    "sender": Sender("U1", "Ada"),
}


def asking(request: str) -> Completion:
    """Return the completion of a run that asks a person."""
    requests = [InputRequest(request, "approval")]
    question = Question(requests=requests, message=OPEN, results={"t2": SIBLING}, state={})
    outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
    return Completion(outcome=outcome, messages=[*said("go"), OPEN], question=question, answer_within_s=1_000.0)


class OptionsContract(Contract):
    """Options of sessions."""

    async def _set(self, desk: Desk, session: str = "s", /, **options: Any) -> None:
        assert await desk.journal.change(SetOptions(key(session), options)) == Changed(existed=True)

    async def _options(self, desk: Desk, session: str = "s") -> RunDefaults:
        found = await desk.journal.read(SessionQuery(key(session)))
        assert found is not None
        return found.options

    @scenario
    async def test_a_session_keeps_its_options_until_each_is_removed(self, desk: Desk) -> None:
        assert await desk.journal.change(SetOptions(key("nobody"), {"priority": 1})) == Changed(existed=False)
        await desk.finish(await desk.start("a"), done("hi", "ho"))
        await desk.finish(await desk.start("other", key("t")), done("hi", "ho"))
        assert await self._options(desk) == NO_DEFAULTS
        await self._set(desk, **ALL)
        for _ in range(2):
            assert await self._options(desk) == RunDefaults(**ALL)
            assert await self._options(desk, "t") == NO_DEFAULTS, "another session has none"
            page = await desk.journal.read(SessionsQuery(ANONYMOUS))
            assert [each.options for each in page.sessions] == [RunDefaults(**ALL), NO_DEFAULTS]
            await desk.restart()
        await self._set(desk, priority=None, timeout=3.0)
        left = {**ALL, "priority": None, "timeout": 3.0}
        assert await self._options(desk) == RunDefaults(**left)
        await desk.restart()
        assert await self._options(desk) == RunDefaults(**left)
        assert await desk.journal.change(SetOptions(key(), None)) == Changed(existed=True)
        assert await self._options(desk) == NO_DEFAULTS
        await desk.restart()
        assert await self._options(desk) == NO_DEFAULTS

    @scenario
    async def test_a_run_has_the_options_of_its_session_where_its_request_sets_none(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, **ALL)
        for number in range(2):
            accepted = await desk.accept(f"b{number}", queue_deadline=desk.clock.at + 100, timeout_s=50.0)
            assert isinstance(accepted, Accepted)
            assert (accepted.position, accepted.defaults) == (0, RunDefaults(**ALL))
            claim = await desk.claim(of=f"b{number}")
            for run in (claim.run, accepted.new, await desk.run(f"b{number}")):
                assert run is not None
                assert (run.if_busy, run.priority, run.timeout_s) == (IfBusy.REJECT, 1, 7.0)
                assert (run.metadata, run.sender) == (ALL["metadata"], ALL["sender"])
                assert run.queue_deadline == desk.clock.at + 9
            assert await desk.accept("no") == Refused("session_busy", 1), "it is not to wait"
            await desk.finish(claim)
            await desk.restart()

    @scenario
    async def test_what_a_request_sets_counts(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, **{**ALL, "if_busy": IfBusy.INTERRUPT, "on_question": None})
        bob = Sender("U2", "Bob")
        own: dict[str, Any] = {"priority": 4, "timeout_s": 20.0, "metadata": {"of": "run"}, "sender": bob}
        claim = await desk.start_any("b", own_options=RUN_OPTIONS - {"collect"}, **own)
        assert (claim.run.priority, claim.run.timeout_s, claim.run.lane) == (4, 20.0, Lane.NORMAL)
        assert (claim.run.if_busy, claim.run.sender) == (IfBusy.ENQUEUE, bob)
        assert claim.run.metadata == {"team": "a", "of": "run"}, "metadata is merged, name by name"
        accepted = await desk.accept("c", own_options=frozenset({"if_busy"}))
        assert isinstance(accepted, Accepted)
        assert (accepted.position, accepted.stopped) == (1, None), "it does not interrupt"
        await desk.cancel("c")
        await desk.finish(claim)

    @scenario
    async def test_no_default_lets_a_run_take_longer_than_the_service(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, timeout=100.0, queue_timeout=100.0)
        claim = await desk.start_any("b", timeout_s=5.0, queue_deadline=desk.clock.at + 6)
        assert (claim.run.timeout_s, claim.run.queue_deadline) == (5.0, desk.clock.at + 6)
        await desk.finish(claim)

    @scenario
    async def test_a_session_whose_runs_interrupt_has_each_go_first(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._set(desk, if_busy=IfBusy.INTERRUPT)
        accepted = await desk.accept("b")
        assert isinstance(accepted, Accepted)
        assert accepted.stopped is not None
        assert accepted.stopped.cancelling == ["a"]
        assert (await desk.run("b")).lane == Lane.FRONT
        assert (await desk.run("a")).cancel_requested
        await desk.restart()
        assert (await desk.run("b")).lane == Lane.FRONT
        await desk.cancel("b")
        assert claim.run.run_id == desk.orphans[0].run.run_id

    @scenario
    async def test_a_default_answers_or_dismisses_a_question_and_leaves_answers_as_they_are(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, on_question=OnQuestion.ANSWER)
        await desk.finish(await desk.start_any("ask"), asking("i1"))
        assert isinstance(await desk.accept("blocks", input=[{"text": "no answer"}]), Accepted)
        assert (await desk.run("blocks")).lane == Lane.NORMAL
        assert isinstance(await desk.accept("text", input="yes"), Accepted)
        claim = await desk.claim(of="text")
        assert (claim.run.lane, claim.run.input) == (Lane.ANSWER, responses({"i1": "yes"}))
        await desk.finish(claim, done("paid"))
        await desk.cancel_all()
        await self._set(desk, on_question=None, if_busy=IfBusy.INTERRUPT, priority=5)
        await desk.finish(await desk.start_any("ask-2"), asking("i2"))
        assert isinstance(await desk.accept("answer", lane=Lane.ANSWER, input=responses({"i2": "yes"})), Accepted)
        claim = await desk.claim(of="answer")
        assert (claim.run.lane, claim.run.if_busy) == (Lane.ANSWER, IfBusy.ENQUEUE)
        await desk.finish(claim, done("paid"))
        await desk.finish(await desk.start_any("ask-3"), asking("i3"))
        own: dict[str, Any] = {"own_options": frozenset({"on_question"}), "on_question": OnQuestion.ANSWER}
        assert isinstance(await desk.accept("text-2", input="yes", **own), Accepted)
        claim = await desk.claim(of="text-2")
        assert claim.run.lane == Lane.ANSWER, "a request that is to be the answer does not dismiss what it answers"
        await desk.finish(claim, done("paid"))

    @scenario
    async def test_a_delayed_run_queues_when_it_is_due_whatever_its_session_wants(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, if_busy=IfBusy.INTERRUPT, on_question=OnQuestion.DISMISS, queue_timeout=5.0, priority=2)
        at = desk.clock.at + 50
        assert isinstance(await desk.accept("late", not_before=at, queue_deadline=at + 100), Accepted)
        run = await desk.run("late")
        assert (run.lane, run.if_busy, run.priority, run.queue_deadline) == (Lane.DELAYED, IfBusy.ENQUEUE, 2, at + 5)
        await desk.restart()
        assert await desk.run("late") == run
        await desk.cancel("late")

    @scenario
    async def test_a_session_whose_runs_steer_has_each_join_the_one_that_executes(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._set(desk, if_busy=IfBusy.STEER, metadata={"x": 1})
        accepted = await desk.accept("b")
        assert isinstance(accepted, Accepted)
        assert (accepted.joined, accepted.defaults) == ("a", RunDefaults(if_busy=IfBusy.STEER, metadata={"x": 1}))
        run = await desk.run("b")
        assert (run.joined, run.metadata) == ("a", {"x": 1})
        await desk.finish(claim, claim_next=True)
        assert (await desk.claim(of="b")).run.metadata == {"x": 1}

    @scenario
    async def test_a_key_stands_for_its_run_whatever_the_options_are_by_then(self, desk: Desk) -> None:
        keyed = Keyed("k", b"f" * 32, 0.0)
        claim = await desk.start("a", keyed=keyed)
        await self._set(desk, if_busy=IfBusy.REJECT, priority=1, metadata={"x": 1})
        assert await desk.accept("b", keyed=keyed) == Attached(RunId("a"))
        await desk.finish(claim)

    @scenario
    async def test_options_that_exclude_each_other_are_refused_also_one_after_the_other(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"))
        await self._set(desk, on_question=OnQuestion.ANSWER)
        with pytest.raises(Invalid, match="on_question cannot be answer with if_busy interrupt"):
            await desk.journal.change(SetOptions(key(), {"if_busy": IfBusy.INTERRUPT}))
        assert await self._options(desk) == RunDefaults(on_question=OnQuestion.ANSWER)

    @scenario
    async def test_options_count_in_what_is_stored_until_they_are_removed(self, desk: Desk) -> None:
        async def stored() -> int:
            return (await desk.journal.read(StoredQuery())).total

        await desk.finish(await desk.start("a"), done("hi", "ho"))
        before = await stored()
        large = {"metadata": {"x": "y" * 1000}}
        assert await desk.journal.change(SetOptions(key(), large, before + 999)) == Refused("storage_full", 0)
        assert await stored() == before
        assert await desk.journal.change(SetOptions(key(), large, before + 2000)) == Changed(existed=True)
        for _ in range(2):
            assert before + 1000 < await stored() < before + 1100
            await desk.restart()
        bounds = Bounds(9, 9, stored_bytes=before + 1000)
        assert await desk.accept("b", bounds=bounds) == Refused("storage_full", 1)
        assert await desk.journal.change(SetOptions(key(), {"metadata": {}}, 0)) == Changed(existed=True), "it is less"
        assert await stored() < before + 50
        await self._set(desk, metadata=None)
        assert await stored() == before
        await self._set(desk, **large)
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await stored() == 0
        assert await desk.accept("c", bounds=WIDE) == Accepted(0), "a new session of the name has none"
        assert await self._options(desk) == NO_DEFAULTS
        await desk.finish(await desk.claim(of="c"))
