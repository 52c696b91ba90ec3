"""A question is answered once or not at all, by all that it asks for; until then nothing else of its session starts."""

from collections.abc import Iterator

from judging.evidence import Evidence, Question, Run


def answered_once(evidence: Evidence) -> Iterator[str]:
    """Yield the questions that were answered twice or in part, and the answers to what no run has asked."""
    for question in evidence.questions:
        answers = evidence.answers_to(question)
        if len(answers) > 1:
            yield f"the question of run {question.run.label} was answered by {len(answers)} runs"
        for run in answers:
            if {*run.request.answers} != question.requests:
                yield f"run {run.label} was accepted, and does not answer the question of run {question.run.label}"
    known = {request: each for each in evidence.questions for request in each.requests}
    for run in evidence.runs.values():
        for request in run.request.answers:
            if request not in known or known[request].run.session != run.session:
                yield f"run {run.label} answers what no run has asked"


def refused_with_reason(evidence: Evidence) -> Iterator[str]:
    """Yield the answers that were refused for a reason that is not true."""
    by_request = {request: each for each in evidence.questions for request in each.requests}
    for name, code in evidence.refused_answers:
        if name in evidence.gone:
            continue
        requests = evidence.requests[name].answers
        questions = [by_request[each] for each in requests if each in by_request]
        has_answer = any(evidence.answers_to(each) for each in questions)
        is_whole = bool(questions) and questions[0].requests == {*requests}
        match code:
            case "already_answered" if not has_answer:
                yield f"{name} was refused as already_answered, and there was no other answer"
            case "dismissed" if has_answer:
                yield f"{name} was refused as dismissed, and there was an answer"
            case "not_found" | "invalid" if is_whole:
                yield f"{name} was refused as {code}, and answers the whole question"


def waited(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that started while their session waited for input."""
    soon_s = evidence.limits.soon_s
    for question in evidence.questions:
        asker = question.run
        if asker.ended_s is None:
            continue
        answer = next(iter(evidence.answers_to(question)), None)
        until_s = _until_s(evidence, question, answer)
        for run in evidence.by_session[asker.session]:
            if run is asker or run is answer or run.started_s is None or not run.has_turn:
                continue
            if asker.ended_s + soon_s < run.started_s < until_s - soon_s:
                early_s = until_s - run.started_s
                yield f"run {run.label} started while its session waited for {asker.label}, for {early_s:.2f} s more"


def _until_s(evidence: Evidence, question: Question, answer: Run | None) -> float:
    """Return until when a session waited for sure: for the start of the answer, or for the time that one has."""
    assert question.run.ended_s is not None
    until_s = question.run.ended_s + evidence.limits.input_timeout_s
    if answer is not None:
        until_s = answer.started_s or answer.ended_s or until_s
    return min([until_s, *question.closed_s])
