"""Runs that join another: where their messages stand, and the simulation's own rules for them.

That each ends with its host, stands in history once, and in order, are common rules (`judging.joins`). Here is what
only agents and virtual time show: what was there for the model at each call, and that a run joins wherever it can.
"""

from collections.abc import Iterator

from judging.evidence import Joined
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.parts import Part, split
from simulation.record import joined_texts, name_in
from simulation.seen import ObservedRun
from simulation.timeline import Timeline
from strandline._model import JoinState, RunStatus

SOON_S = 1e-6


def joined_in(timeline: Timeline, part: Part) -> Iterator[Joined]:
    """Yield which runs have joined the one that left a part of history, in their order there."""
    if part.run is not None and (texts := joined_texts(part.messages)):
        by_text = {run.text: run for run in timeline.runs.values()}
        before = timeline.continued(part.run.id)  # (what had joined those is said again)
        texts = [each for each in texts if not (before and timeline.host_of(by_text.get(name_in(each))) in before)]
        if texts:
            yield Joined(
                host=part.run.id,
                runs=[by_text[name].id if (name := name_in(each)) in by_text else each for each in texts],
            )


def heard_all(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the messages of runs that joined and came after the last model call, or of which nothing else is known."""
    for part in (part for key in life.history for part in split(life, timeline, key)):
        stored = None if part.run is None else life.runs.get(part.run.id)
        if part.run is None or stored is None or not part.run.attempts:
            continue
        there = joined_texts(part.messages)
        # (An attempt that resumes in a round may end with a question, without a call.)
        heard = next((each.heard for each in reversed(part.run.attempts) if each.called), [])
        own_end = stored.status in (RunStatus.SUCCEEDED, RunStatus.NEEDS_INPUT)
        if own_end and there != heard:
            yield f"at its last model call the agent of run {part.run.id} had heard {heard}, not {there}"
    for run in timeline.runs.values():
        if run.id not in life.runs:
            continue
        for text in {text for attempt in run.attempts for text in attempt.heard}:
            yield from _known(life, timeline, run, text)


def _known(life: Life, timeline: Timeline, host: ObservedRun, text: str) -> Iterator[str]:
    """Yield that an agent has heard what had not joined its run, or not durably."""
    run = next((each for each in timeline.runs.values() if each.text == name_in(text)), None)
    stored = None if run is None else life.runs.get(run.id)
    if (
        stored is None
        or stored.join is not JoinState.APPLIED
        or stored.joined not in (host.id, *timeline.continued(host.id))
    ):
        yield f"the agent of run {host.id} has heard {text!r}, which has not joined it"


def joins_what_executes(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that waited for a turn beside one that they could join, or joined another than they expected, and
    requests that were refused since their run does not execute, though it does."""
    for run in timeline.runs.values():
        expected, host = run.request.expected, run.joins
        if not run.accepted or run.request.if_busy != "steer" or run.attached:
            continue
        if expected is not None and host not in (None, expected):
            yield f"run {run.id} was to join {expected}, and joins {host}"
        if host is None and not run.request.answers and life.steady and life.resumable:
            for other in _executing(life, timeline, run.request.sent_s, run.accepted_at):
                if other.request.session == run.request.session and other.request.sender == run.request.sender:
                    yield f"run {run.id} was to join run {other.id}, which executed, and did not"
    for text, at in timeline.not_running_at.items():
        request = timeline.requests[text]
        for other in _executing(life, timeline, request.sent_s, at) if life.steady else ():
            if other.id == request.expected:
                yield f"request {text} was refused since run {other.id} does not execute, and it did"


def _executing(life: Life, timeline: Timeline, since_s: float, until_s: float) -> Iterator[ObservedRun]:
    """Yield the runs that executed for sure from one second to another."""
    disturbed = any(since_s <= each <= until_s for each in (*timeline.interruptions, *timeline.deaths))
    for run in timeline.runs.values() if not disturbed else ():
        stored = life.runs.get(run.id)
        if stored is None or stored.started_at is None or stored.ended_at is None or not run.attempts:
            continue
        last, ended_s = run.attempts[-1], stored.ended_at - EPOCH
        if last.began_at < since_s and min(last.ended_at, ended_s) > until_s + SOON_S and not last.crashed:
            yield run
