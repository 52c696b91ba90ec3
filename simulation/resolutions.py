"""Crashed runs that people take up: each once, at the end of history, before what waits, with what was found out.

A run that continues one has the messages of that again, which are superseded from then on: where it stands is judged
with conversations that go back (`simulation.branches`), and its order with that of all runs (`judging.order`).
"""

from collections import Counter
from collections.abc import Iterator

from msgspec.structs import replace

from simulation.life import Life
from simulation.parts import Part, split, uses
from simulation.seen import ObservedRun, Resolution
from simulation.timeline import Timeline
from strandline._model import ToolResult
from strandline.testing._checker import Ledger

DONE = "(After a crash {by} checked this tool call: it had taken effect.)"
NOT_DONE = "This tool call did nothing: {by} checked that after a crash. It was not started again."


def taken_up(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the crashed runs that were taken up twice, too late, or not before others, or otherwise than was said."""
    continuing = [run for run in timeline.runs.values() if run.id in life.runs and run.request.resolves is not None]
    for crashed, times in Counter(run.request.resolves for run in continuing).items():
        if times > 1:
            yield f"run {crashed} was taken up {times} times"
    for run in continuing:
        said = timeline.resolutions[run.text]
        if not said.is_whole:
            yield f"run {run.id} continues run {said.crashed}, of whose tools not all were named, or others"
        if started := sorted(tool for tool in said.done if run.begun[tool]):
            yield f"run {run.id} has started {started}, which had taken effect in run {said.crashed}"
        accepted, began = run.accepted_nth, min((each.began_nth for each in run.attempts), default=-1)
        for attempt in timeline.by_session[run.request.session] if accepted >= 0 else ():
            if attempt.run != run.id and attempt.run in life.runs and accepted < attempt.began_nth < began:
                yield f"run {attempt.run} began before run {run.id}, which continues a crashed one"
    for key in life.history:
        yield from _at_the_end(split(life, timeline, key))
    yield from _refused(life, timeline)


def _at_the_end(parts: list[Part]) -> Iterator[str]:
    """Yield the runs that do not stand right behind those that they continue."""
    before = ""
    for part in parts:
        run = part.run
        if run is not None and run.request.resolves not in (None, before):
            yield f"run {run.id} continues run {run.request.resolves}, and stands behind run {before!r}"
        before = "" if run is None else run.id


def _refused(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that could not be taken up, though nothing had happened since somebody saw that they can be."""
    others = Counter(each.crashed for each in timeline.resolutions.values())
    for text, said in timeline.resolutions.items():
        run, request = timeline.runs.get(said.crashed), timeline.requests[text]
        if timeline.refused.get(text) != "not_resolvable" or run is None or others[said.crashed] > 1:
            continue
        session = request.session
        is_disturbed = timeline.was_deleted(session) or any(
            each.session == session and each.goes_back for each in timeline.requests.values()
        )
        is_disturbed = is_disturbed or any(each.session == session for each in timeline.restorations.values())
        if is_disturbed or run.id not in life.runs or any(request.sent < nth for nth in timeline.ends):
            continue
        stored = [timeline.runs[each.run_id] for each in timeline.kept_in(session)]
        if not any(each.request.sent < timeline.refused_nth[text] and _moved_on(run, each) for each in stored):
            yield f"run {run.id} could not be taken up ({text}), and its session had not continued"


def _moved_on(crashed: ObservedRun, other: ObservedRun) -> bool:
    """Return whether another run may have had the session after one that crashed."""
    last = crashed.attempts[-1].began_nth if crashed.attempts else -1
    return other.id != crashed.id and (not other.attempts or other.attempts[-1].began_nth > last)


def with_crashed(ledger: Ledger, run: ObservedRun, part: Part, crashed: Part, said: Resolution) -> Ledger:
    """Return what happened in a run that continues a crashed one, with what had happened there."""
    results = _results(part)
    finished = {**_results(crashed), **ledger.finished}
    unfinished = {*ledger.unfinished}
    finished |= {tool: _done(tool, said) for tool in said.done}
    for tool in said.not_done:
        if tool in ledger.finished or tool in ledger.unfinished:
            continue
        content = [{"text": NOT_DONE.format(by=said.by)}]
        finished[tool] = {"toolUseId": tool, "status": "error", "content": content}
        if tool in run.requested and "unknown" in str(results.get(tool)):
            unfinished.add(tool)  # it was to start, and nobody saw whether it did
    finished = {tool: result for tool, result in finished.items() if tool not in unfinished}
    return replace(ledger, finished=finished, unfinished=frozenset(unfinished))


def results_before(timeline: Timeline, run: ObservedRun) -> dict[str, ToolResult]:
    """Return the results that tools had for sure when a run began that continues others, as far as they are known."""
    found: dict[str, ToolResult] = {}
    for each in reversed([run.id, *timeline.continued(run.id)[:-1]]):
        said = timeline.resolutions[timeline.runs[each].text]
        crashed = timeline.runs[said.crashed]
        found |= {tool: crashed.finished[tool][2] for tool in crashed.durable & crashed.finished.keys()}
        found |= {tool: _done(tool, said) for tool in said.done}
    return found


def _done(tool: str, said: Resolution) -> ToolResult:
    content = [{"text": said.done[tool]}, {"text": DONE.format(by=said.by)}]
    return {"toolUseId": tool, "status": "success", "content": content}


def said_before(timeline: Timeline, run: ObservedRun) -> list[str]:
    """Return what models said for sure in the runs that a run continues."""
    crashed = [timeline.runs[each] for each in reversed(timeline.continued(run.id)) if each in timeline.runs]
    return [text for each in crashed for attempt in each.attempts for _, text in attempt.said[: attempt.durable]]


def _results(part: Part) -> dict[str, ToolResult]:
    """Return the results of tools in a part of history."""
    called = {tool for message in part.messages for tool in uses(message)}
    blocks = [block["toolResult"] for message in part.messages for block in message["content"] if "toolResult" in block]
    return {each["toolUseId"]: each for each in blocks if each["toolUseId"] in called}
