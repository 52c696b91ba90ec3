"""Conversations that go back: where each run has begun, and the simulation's own rules for what is superseded.

That a run goes back only in a session at rest is a common rule (`judging.policies`). What an agent knew of a branch
that it is on is judged with what agents know (`simulation.truth`).
"""

from collections.abc import Iterator

from simulation.life import Life
from simulation.parts import Part, split
from simulation.timeline import Timeline
from strandline._model import Message, RunStatus, SessionKey

Known = tuple[list[Message], str]
"""A conversation, and whose state an agent has after it."""


def goes_back(timeline: Timeline, key: SessionKey) -> bool:
    """Return whether a run of a session was to go back."""
    return any(request.session == key and request.goes_back for request in timeline.requests.values())


class Places:
    """The places of one session that runs go back to: before and after each run that has left a part of its history."""

    def __init__(self, life: Life, timeline: Timeline, key: SessionKey) -> None:
        self._life = life
        self._before: dict[str, Known] = {}
        self._after: dict[str, Known] = {}
        self._asked: str | None = None
        """The run that left the last part, if the next one may close its question."""
        runs = timeline.kept_in(key) if goes_back(timeline, key) else []
        left = {part.run.id for part in split(life, timeline, key) if part.run is not None} if runs else set()
        self.are_unclear = any(
            timeline.runs[run.run_id].request.goes_back and run.started_at is not None and run.run_id not in left
            for run in runs
        )
        """Whether a run may have gone back that has left nothing."""

    def begin(self, part: Part, before: list[Message], state: str) -> Known:
        """Return what a part continues, which comes after `before` if its run does not go back."""
        run = part.run
        if run is None or part.opened is not None:
            return before, state
        found: Known | None = None
        if run.request.after is not None:
            named = self._host(run.request.after)
            found = ([], "") if not named else self._after.get(named)
        elif run.request.again is not None:
            found = self._before.get(self._host(run.request.again))
        before, state = found or (before, state)
        self._before[run.id] = before, state
        return before, state

    def end(self, part: Part, before: list[Message], state: str) -> None:
        """Note what comes after a part."""
        if part.run is not None:
            self._asked = part.run.id
            self._before.setdefault(part.run.id, (before, state))
        if self._asked is not None:
            self._after[self._asked] = before, state

    def _host(self, run_id: str) -> str:
        """Return the run in whose part of history a run stands."""
        stored = self._life.runs.get(run_id)
        return run_id if stored is None or stored.joined is None else stored.joined


def superseded(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the sessions in whose conversation is what was superseded, or is not what was not."""
    for key in life.history:
        places = Places(life, timeline, key)
        if not goes_back(timeline, key) or places.are_unclear:
            continue
        before: list[Message] = []
        for part in split(life, timeline, key):
            before, _ = places.begin(part, before, "")
            before = before if part.hidden else before + part.messages
            places.end(part, before, "")
        if before != life.shown[key]:
            yield f"the conversation of {key} is not what its last branch continues"


def could_go_back(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the requests that were refused since a run is no place to go back to, and it was one."""
    for text, code in timeline.refused.items():
        request = timeline.requests[text]
        named = timeline.runs.get(request.after or request.again or "")
        stored = None if named is None else life.runs.get(named.id)
        if code != "cannot_go_back" or named is None or stored is None:
            continue
        if stored.status is RunStatus.SUCCEEDED and not stored.discarded and 0 <= named.reported_nth < request.sent:
            yield f"request {text} was refused since nothing can continue after run {named.id}, which had succeeded"
