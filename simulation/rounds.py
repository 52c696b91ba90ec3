"""The round that a question has left open: what history has to say of its tools once it is closed."""

from collections.abc import Iterator

from msgspec.structs import replace

from simulation.asking import Question, answered_by
from simulation.life import Life
from simulation.parts import NOT_ANSWERED, Part, last_text, uses
from simulation.resolutions import results_before
from simulation.timeline import Timeline
from strandline._model import Message, Succeeded, ToolResult
from strandline.testing._checker import Ledger, check_truthful

STOPPED_AT_QUESTION = (
    "This tool asked a person for input and got no answer: it stopped at its question, and did nothing after it."
)


def only_uses(message: Message) -> Message:
    """Return the message of an open round without the words in it, which an earlier run has said."""
    return {**message, "content": [block for block in message["content"] if "toolUse" in block]}


def with_open_round(ledger: Ledger, part: Part, timeline: Timeline) -> Ledger:
    """Return what happened in a run that continues an open round, with what had happened there before."""
    assert part.opened is not None
    assert part.question is not None
    finished, unfinished = dict(ledger.finished), set(ledger.unfinished)
    unknown = _unknown(part.messages[0])
    earlier = _earlier(part.question, timeline, unknown)
    for tool in uses(part.opened):
        if tool in earlier:
            finished[tool] = earlier[tool]
            unfinished.discard(tool)
        elif tool in finished or tool in unfinished:
            pass
        elif tool in unknown and part.run is not None and part.run.attempts:
            unfinished.add(tool)  # it may have continued
        else:
            finished[tool] = _stopped(tool)
    return replace(ledger, finished=finished, unfinished=frozenset(unfinished))


def came_to_nothing(life: Life, timeline: Timeline, part: Part) -> Iterator[str]:
    """Yield what is wrong with what the journal itself has added, to close the round of a question."""
    assert part.opened is not None
    assert part.question is not None
    name = f"what closes the round of run {part.question.run.run_id}"
    if len(part.messages) != 2 or last_text(part.messages) != NOT_ANSWERED:
        yield f"{name} is left by no run: {last_text(part.messages)!r}"
        return
    earlier = _earlier(part.question, timeline, _unknown(part.messages[0]))
    answer = None if part.question.answer is None else timeline.runs[part.question.answer.run_id]
    ledger = Ledger(ending=Succeeded(), finished={each: earlier[each] for each in uses(part.opened) if each in earlier})
    left = [each for each in uses(part.opened) if each not in earlier]
    if answer is not None and life.runs[answer.id].started_at is not None:  # its tools may have continued
        ledger = replace(ledger, unfinished=frozenset(left))
    else:
        # (One that had begun in an attempt before, of which nobody knew what became, has not asked: not this question.)
        unanswered = [each for each in left if each in part.question.tools]
        ledger = replace(
            ledger,
            finished={**ledger.finished, **{each: _stopped(each) for each in unanswered}},
            unfinished=frozenset(left) - frozenset(unanswered),
        )
    for fault in check_truthful([only_uses(part.opened), *part.messages], ledger):
        yield f"{name}: {fault}"


def _unknown(message: Message) -> set[str]:
    """Return the tools whose outcome reads as unknown."""
    results = [block["toolResult"] for block in message["content"] if "toolResult" in block]
    return {each["toolUseId"] for each in results if "unknown" in str(each["content"])}


def _earlier(question: Question, timeline: Timeline, unknown: set[str]) -> dict[str, ToolResult]:
    """Return the results that an open round had when its last question was asked.

    What had ended in an attempt whose process died may be lost, if nobody saw it kept: those that read as `unknown`
    are no results then.
    """
    found: dict[str, ToolResult] = {}
    by_request = {request: each for each in timeline.questions.values() for request in each.requests}
    current: Question | None = question
    while current is not None:
        run = timeline.runs[current.run.run_id]
        if run.request.resolves is not None:
            found = results_before(timeline, run) | found
        found = {
            tool: result
            for tool, (_, _, result, attempt) in run.finished.items()
            if tool not in unknown or tool in run.durable or attempt is run.attempts[-1]
        } | found
        before = [by_request[each] for each in answered_by(current.run) if each in by_request]
        current = before[0] if before else None
    return found


def _stopped(tool: str) -> ToolResult:
    return {"toolUseId": tool, "status": "error", "content": [{"text": STOPPED_AT_QUESTION}]}
