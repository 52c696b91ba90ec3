"""Queue deadlines in a session that is closed for two reasons at once.

It waits for input, and it is paused or held: a minute of both moves the deadlines by one minute.
"""

from strandline._journal.port import Changed, ClaimResult, EndOverdue, Pause, Resume
from strandline._model import (
    Completion,
    ErrorCode,
    InputRequest,
    Lane,
    Message,
    Outcome,
    Question,
    RoundDone,
    RoundStarted,
    RunError,
    RunId,
    RunStatus,
    ToolResult,
    responses,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said, waiting_runs

ROUND: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
RESULT: ToolResult = {"toolUseId": "t", "status": "success", "content": [{"text": "paid"}]}
EARLY: Message = {
    "role": "assistant",
    "content": [{"text": "(This run ended early: timeout.)"}, {"text": "the run took longer than 60 s"}],
}
REQUESTS = [InputRequest("i", "sure")]
LIMIT_S = 5_000.0
UNTIL = 2_000.0


class QueueTimeContract(Contract):
    """Pauses and holds that overlap with a question."""

    async def _stood(self, desk: Desk, *steps: tuple[float, str]) -> dict[str, float]:
        """Return by how much the deadline of each waiting run (named with `+`, as it comes) has moved after these
        steps.

        A run executes from 1,000 on, and ends with a question that is open until 2,000.
        """
        claim = await desk.start("a")
        accepted: dict[str, float] = {}
        for at, step in steps:
            desk.clock.at = at
            if step.startswith("+"):
                accepted[step] = at
                await desk.accept(step, queue_deadline=at + LIMIT_S)
            elif step.startswith("ask"):
                question = Question(requests=REQUESTS, message=ROUND, results={}, state={})
                outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=REQUESTS)
                messages = [*said("go"), ROUND]
                completion = Completion(
                    outcome=outcome, messages=messages, question=question, answer_within_s=UNTIL - at
                )
                await desk.finish(claim, completion, hold=step == "ask and hold")
            elif step == "answer":
                await desk.accept("x", input=responses({"i": "yes"}), lane=Lane.ANSWER, claim_next=False)
            elif step == "withdraw":
                await desk.cancel("a")
            elif step == "release":
                await desk.release(claim.token, counted=True)
            elif step == "restart":
                await desk.restart()
            elif step == "pause":
                assert await desk.journal.change(Pause(key())) == Changed(existed=True)
            else:
                await desk.journal.change(Resume(key()))
        waiting = {each.run_id: each.queue_deadline or 0.0 for each in await waiting_runs(desk.journal)}
        return {run_id: waiting[RunId(run_id)] - began - LIMIT_S for run_id, began in accepted.items()}

    async def _requeued(self, desk: Desk) -> None:
        """Have run `a`, which may take 60 s from 1,000 on, wait again after its first round, before run `b`."""
        claim = await desk.start("a", timeout_s=60.0, queue_deadline=1_005.0)
        paid: Message = {"role": "user", "content": [{"toolResult": RESULT}]}
        await desk.journal.checkpoint(claim.token, RoundStarted([*said("go"), ROUND]))
        await desk.journal.checkpoint(claim.token, RoundDone([paid], None))
        desk.clock.at = 1_030.0
        await desk.release(claim.token, counted=True)
        await desk.accept("b", claim_next=False)

    async def _ends_on_time(self, desk: Desk) -> None:
        desk.clock.at = 1_059.0
        assert desk.journal.sessions.next_due == 1_060.0
        assert desk.journal.sessions.due(1_059.0) == []
        assert await desk.end_overdue() == []
        desk.clock.at = 1_060.0
        assert desk.journal.sessions.due(1_060.0) == [key()]
        assert await desk.end_overdue() == ["a"]
        run = await desk.run("a")
        assert run.outcome is not None
        assert run.outcome.error == RunError(ErrorCode.TIMEOUT, "the run took longer than 60 s")
        assert (run.status, run.ended_at, run.attempt) == (RunStatus.FAILED, 1_060.0, 1)
        assert await desk.waiting() == ["b"]
        assert desk.journal.sessions.due(9_999.0) == []

    @scenario
    async def test_a_requeued_run_ends_at_its_timeout_while_it_waits(self, desk: Desk) -> None:
        """As if it executed: history shows what it did, and that it ended early."""
        await self._requeued(desk)
        await self._ends_on_time(desk)
        assert await desk.history() == [
            *said("go"),
            ROUND,
            {"role": "user", "content": [{"toolResult": RESULT}]},
            EARLY,
        ]
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="b"), done("hi", "ho"))

    @scenario
    async def test_a_requeued_run_ends_at_its_timeout_in_a_paused_session_and_after_a_restart(self, desk: Desk) -> None:
        await self._requeued(desk)
        await desk.journal.change(Pause(key()))
        assert await desk.restart() == []
        await self._ends_on_time(desk)

    @scenario
    async def test_a_run_requeued_before_its_first_round_leaves_its_prompt_at_its_timeout(self, desk: Desk) -> None:
        claim = await desk.start("a", timeout_s=60.0)
        await desk.release(claim.token, counted=True)
        await desk.accept("b", claim_next=False)
        await self._ends_on_time(desk)
        assert await desk.history() == [*said("ask a"), EARLY]

    @scenario
    async def test_a_requeued_run_at_its_timeout_is_hidden_where_failed_runs_are(self, desk: Desk) -> None:
        await self._requeued(desk)
        desk.clock.at = 1_060.0
        await desk.journal.change(EndOverdue(key(), Outcome(status=RunStatus.FAILED), drop=True))
        assert (await desk.run("a")).discarded
        assert await desk.history() == []
        assert len(await desk.history(discarded=True)) == 4
        assert (await desk.journal.load(key())).messages == []

    @scenario
    async def test_a_run_that_waits_for_its_first_start_has_its_timeout_before_it(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b", timeout_s=1.0, queue_deadline=5_000.0)
        desk.clock.at = 4_000.0
        assert await desk.end_overdue() == []
        assert await desk.drain(claim) == ["a", "b"]

    @scenario
    async def test_a_pause_within_a_question(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "ask"), (1_200, "pause"), (1_250, "+v"), (1_300, "resume"), (1_500, "answer"))
        assert await self._stood(desk, *steps) == {"+w": 400, "+v": 250}

    @scenario
    async def test_a_question_within_a_pause(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "pause"), (1_200, "ask"), (1_300, "+v"), (1_400, "answer"), (1_600, "resume"))
        assert await self._stood(desk, *steps) == {"+w": 500, "+v": 300}

    @scenario
    async def test_a_pause_that_begins_in_a_question_and_ends_after_it(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "ask"), (1_200, "pause"), (1_300, "withdraw"), (1_350, "+v"), (1_600, "resume"))
        assert await self._stood(desk, *steps) == {"+w": 500, "+v": 250}

    @scenario
    async def test_a_pause_that_begins_before_a_question_and_ends_in_it(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "pause"), (1_150, "+v"), (1_200, "ask"), (1_300, "resume"), (1_400, "withdraw"))
        assert await self._stood(desk, *steps) == {"+w": 300, "+v": 250}

    @scenario
    async def test_a_pause_that_outlasts_the_time_of_a_question(self, desk: Desk) -> None:
        """There was no answer, and nothing else could start."""
        steps = ((1_000, "+w"), (1_100, "ask"), (1_200, "pause"), (2_300, "+v"), (2_500, "resume"))
        assert await self._stood(desk, *steps) == {"+w": 1_400, "+v": 200}

    @scenario
    async def test_a_pause_that_begins_when_the_time_of_a_question_is_over(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "ask"), (2_200, "pause"), (2_300, "answer"), (2_500, "resume"))
        assert await self._stood(desk, *steps) == {"+w": 1_200}

    @scenario
    async def test_a_hold_of_the_run_with_the_question(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "ask and hold"), (1_200, "answer"), (1_300, "release"))
        assert await self._stood(desk, *steps) == {"+w": 200}

    @scenario
    async def test_a_hold_that_ends_before_the_answer_comes(self, desk: Desk) -> None:
        steps = ((1_000, "+w"), (1_100, "ask and hold"), (1_200, "release"), (1_300, "answer"))
        assert await self._stood(desk, *steps) == {"+w": 200}

    @scenario
    async def test_a_question_a_hold_and_a_pause(self, desk: Desk) -> None:
        steps = (
            (1_000, "+w"), (1_050, "pause"), (1_100, "ask and hold"), (1_200, "release"), (1_300, "answer"),
            (1_400, "resume"),
        )  # fmt: skip
        assert await self._stood(desk, *steps) == {"+w": 350}

    @scenario
    async def test_a_restart_in_the_middle_of_all_of_them(self, desk: Desk) -> None:
        steps = (
            (1_000, "+w"), (1_050, "pause"), (1_100, "ask and hold"), (1_150, "resume"), (1_200, "restart"),
            (1_250, "pause"), (1_260, "restart"), (1_300, "answer"), (1_400, "restart"), (1_500, "resume"),
        )  # fmt: skip
        assert await self._stood(desk, *steps) == {"+w": 450}
