"""The simulation's own rules for input requests: when a question was open for an answer, to the place in the record.

A tool that has ended is not started again by an answer, and no answer comes after what gave its question up.
"""

from collections.abc import Iterator

from simulation.asking import Question
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.seen import text_of
from simulation.timeline import Timeline
from strandline._model import OnDisconnect, OnQuestion, Run

SOON_S = 1e-3


def answered_in_time(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield which questions were answered twice, or in part, or what was answered that nobody had asked."""
    for question in timeline.questions.values():
        run, answers = timeline.runs[question.run.run_id], question.answers
        for answer in answers:
            request = timeline.requests[str(answer.metadata["text"])]
            if request.by_text and (request.on_question is not OnQuestion.ANSWER or len(question.requests) != 1):
                yield f"run {answer.run_id} is a text, and was taken for an answer to what run {run.id} asked"
            if 0 <= run.withdrawn_nth < request.sent:
                yield f"run {answer.run_id} was accepted although what run {run.id} asked had been taken back"
            for sweep in timeline.sweeps.values():
                over = sweep.running and sweep.session == answer.key and 0 <= run.reported_nth < sweep.sent
                if over and 0 <= sweep.answered < request.sent:
                    yield f"run {answer.run_id} was accepted although its session had been cancelled, question and all"
            later = timeline.runs[answer.run_id]
            if again := sorted(tool for tool in later.begun if tool in run.finished):
                yield f"tools {again} had ended in run {run.id} and were started again in run {later.id}"
            yield from _dismissed_before(life, timeline, question, answer)
    for key, waits_for in life.waits_for.items():
        open_ = [each for each in timeline.questions.values() if each.run.key == key and each.requests == waits_for]
        if bool(waits_for) is not life.pending[key] or (waits_for and (not open_ or open_[0].answers)):
            yield f"session {key} waits for {sorted(waits_for)}, and its end is {life.pending[key] or 'not'} pending"


def _dismissed_before(life: Life, timeline: Timeline, question: Question, answer: Run) -> Iterator[str]:
    """Yield which runs had ended a question that was answered later."""
    question_at = question.run.ended_at
    for other in _others(timeline, question):
        is_between = question_at is not None and question_at < other.created_at and other.sequence < answer.sequence
        if life.steady and is_between and timeline.requests[text_of(other)].dismisses:
            asker = question.run.run_id
            yield f"run {answer.run_id} answers what run {asker} asked and run {other.run_id} had dismissed"


def waited_for_answer(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield which runs started while their session waited for input, or before the answer."""
    order = timeline.in_order_of_start()
    for question in timeline.questions.values():
        asker, answer = question.run, question.answer
        started = [run.id for run in order.get(asker.key, ())]
        if answer is not None and answer.run_id in started:
            between = started[started.index(asker.run_id) + 1 : started.index(answer.run_id)]
            if between:
                yield f"runs {between} started before run {answer.run_id}, which answers run {asker.run_id}"
        if life.steady:
            for stored in life.runs.values():
                if stored.key == asker.key:
                    yield from _waited(life, timeline, question, stored)


def _waited(life: Life, timeline: Timeline, question: Question, stored: Run) -> Iterator[str]:
    """Yield whether a run started, or was accepted, too early for a question."""
    asker, answer = question.run, question.answer
    assert asker.ended_at is not None
    run = timeline.runs[stored.run_id]
    if stored is answer or stored is asker:
        return
    over = asker.ended_at + life.options.input_timeout_s
    if answer is not None:
        # (Until it was accepted for sure: the answer itself closes the session no longer than it waits or executes.)
        over = min(over, answer.started_at or answer.ended_at or over)
    over = min([over, *closed_at(timeline, question)])
    at_a_time = asker.ended_at - EPOCH + SOON_S < run.request.sent_s and run.accepted_at < over - EPOCH - SOON_S
    if answer is not None or not run.accepted or not at_a_time:
        return
    if run.request.must_not_wait:
        yield f"run {stored.run_id} was accepted, and was not to wait for what run {asker.run_id} had asked"
    if run.request.on_question is OnQuestion.ANSWER and len(question.requests) == 1:
        yield f"run {stored.run_id} was accepted, and does not answer what run {asker.run_id} had asked"


def closed_at(timeline: Timeline, question: Question) -> Iterator[float]:
    """Yield when somebody may have given up a question: by a run that dismisses it, by a cancel of the run that asks or
    of its session, or by leaving."""
    asker = question.run
    assert asker.ended_at is not None
    for run in timeline.runs.values():  # one that was accepted before had nothing to give up
        came_later = not run.accepted or EPOCH + run.accepted_at >= asker.ended_at
        if run.request.session == asker.key and run.request.dismisses and came_later:
            yield EPOCH + run.request.sent_s
    seen = timeline.runs[asker.run_id]
    yield from (EPOCH + at for at in seen.cancelling_at)
    if seen.request.on_disconnect is OnDisconnect.CANCEL:
        yield from (EPOCH + at for at in seen.hung_up_at)
    for sweep in timeline.sweeps.values():
        came_later = sweep.answered < 0 or EPOCH + sweep.answered_s >= asker.ended_at
        if sweep.session == asker.key and sweep.running and came_later:
            yield EPOCH + sweep.sent_s


def waited_for_input_s(life: Life, timeline: Timeline, run: Run, until: float) -> tuple[float, float]:
    """Return for how many seconds of its wait the session of a run was closed by questions, at least and at most."""
    least_s = most_s = 0.0
    for question in timeline.questions.values():
        asker = question.run
        if asker.key != run.key or asker.ended_at is None or asker is run:
            continue
        after = [each.started_at for each in _others(timeline, question) if each.started_at is not None]
        over = min(
            [
                until,
                asker.ended_at + life.options.input_timeout_s,
                *(each for each in after if each > asker.ended_at),
            ]
        )
        if question.answer is not None:
            over = min(over, question.answer.created_at)
        since = max(asker.ended_at, run.created_at, run.not_before or 0.0)
        most_s += max(0.0, over - since)
        least_s += max(0.0, min([over, *closed_at(timeline, question)]) - since)
    return least_s, most_s


def _others(timeline: Timeline, question: Question) -> list[Run]:
    return [each for each in timeline.kept_in(question.run.key) if each is not question.run]
