"""Conversations that go back: where each run has begun, and the simulation's own rules for what is superseded.

That a run goes back only in a session at rest is a common rule (`judging.policies`). What an agent knew of the branch
that it is on is judged with what agents know (`simulation.truth`).
"""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from simulation.life import Life
from simulation.parts import Part, again_in_the_round, split
from simulation.seen import Restoration, text_of
from simulation.timeline import Timeline
from strandline._model import Message, RunStatus, SessionKey


class Known(Struct, frozen=True):
    """A conversation, whose state an agent has after it, and the runs in it."""

    messages: tuple[Message, ...] = ()
    state: str = ""
    runs: frozenset[str] = frozenset()


def goes_back(timeline: Timeline, key: SessionKey) -> bool:
    """Return whether a run of a session was to go back, or superseded messages were wanted back."""
    wanted = any(
        request.session == key and (request.goes_back or request.resolves) for request in timeline.requests.values()
    )
    return wanted or any(each.session == key for each in timeline.restorations.values())


class Places:
    """The places of one session that runs go back to: before and after each run that has left a part of its history.

    `now` is what a run that is next in history continues.
    """

    def __init__(self, life: Life, timeline: Timeline, key: SessionKey) -> None:
        copied = life.copied.get(key)
        begins = Known() if copied is None else follow(life, timeline, copied.source).after(copied.after)
        self.now = self.beginning = Known() if begins is None else begins
        """`beginning` is what it has of another session, if it is a fork."""
        self._life = life
        self._timeline = timeline
        self._key = key
        self._before: dict[str, Known] = {}
        self._after: dict[str, Known] = {}
        self._left: list[Known] = []
        """What was superseded, each time when it was: of conversations without a message of their own that superseded
        each other only the last."""
        self._is_new = self._left_new = False
        """Whether no message has come since the present conversation was continued, and the last that was left."""
        self._last: str | None = None
        self._to_restore = sorted(
            (each for each in timeline.restorations.values() if each.session == key), key=lambda each: each.sent
        )
        self.fault = ""
        """What was restored otherwise than it should."""
        self.are_unclear = begins is None or (goes_back(timeline, key) and self._is_unclear())
        """Whether a run may have gone back that has left nothing, or to one that has, or it is not known what was
        restored when, or from where a fork was made."""

    def _is_unclear(self) -> bool:
        runs = self._timeline.kept_in(self._key)
        left = {part.run.id for part in split(self._life, self._timeline, self._key) if part.run is not None}
        for run in runs:
            request = self._timeline.runs[run.run_id].request
            if request.resolves is not None and not {run.run_id, request.resolves} <= left:
                return True
            vain = run.run_id not in left or (request.again is not None and self._host(request.again) not in left)
            if request.goes_back and run.started_at is not None and vain:
                return True
        if self._to_restore and self._timeline.was_deleted(self._key):
            return True
        return any(
            each.answered < 0 or any(self._began_beside(run.run_id, each) for run in runs) for each in self._to_restore
        )

    def _began_beside(self, run_id: str, restored: Restoration) -> bool:
        """Return whether it cannot be seen if a run began before messages were restored."""
        run = self._timeline.runs[run_id]
        began = [each.began_nth for each in run.attempts]
        sent = run.request.sent
        return sent < restored.answered and not (began and min(began) < restored.sent)

    def begin(self, part: Part) -> Known:
        """Return what a part continues."""
        run = part.run
        if run is None or part.opened is not None:
            return self.now
        began = min((each.began_nth for each in run.attempts), default=run.accepted_nth)
        self._restore(until=began)
        found: Known | None = None
        if run.request.after is not None:
            named = self._host(run.request.after)
            found = self._after.get(named) if named else Known()
        elif run.request.again is not None:
            found = self._before.get(self._host(run.request.again))
        elif run.request.resolves is not None:
            found = self._before.get(run.request.resolves)
        if found is not None:
            self._continue(found)
        self._before[run.id] = self.now
        return self.now

    def add(self, part: Part) -> None:
        """Add a part to the conversation."""
        now, self._is_new = self.now, False
        if part.run is not None:
            now = replace(now, runs=now.runs | {part.run.id})
        self.now = now if part.hidden else replace(now, messages=(*now.messages, *part.messages))

    def end(self, part: Part, own: str, state: str) -> None:
        """Note what comes after a part: whose state the agent has, and has where a run goes back to its end.

        They differ where its question was answered by a run that asked again in the same round: that run has left
        nothing to go back to, and its state is not that of the run before.
        """
        self.now = replace(self.now, state=state)
        if part.run is not None:
            self._last = part.run.id
            self._before.setdefault(part.run.id, self.now)
            self._after[self._last] = replace(self.now, state=own)
        elif self._last is not None:
            self._after[self._last] = replace(self.now, state=self._after[self._last].state)

    def after(self, run_id: str) -> Known | None:
        """Return what a fork that names a run begins with, None if that is not known: its question may be open."""
        host = self._host(run_id)
        return None if self.are_unclear or host in self._timeline.questions else self._after.get(host)

    def close(self) -> Known:
        """Return what the conversation is in the end."""
        self._restore(until=len(self._life.events))
        return self.now

    def _restore(self, until: int) -> None:
        """Have the conversation be as it was restored before a place in the record."""
        while self._to_restore and self._to_restore[0].answered < until:
            restored = self._to_restore.pop(0)
            named = self._host(restored.named)
            if restored.changed == (named in self.now.runs):
                wrongly = "was superseded" if restored.changed else "was not superseded"
                self.fault = f"restoring run {named} was answered as if it {wrongly}"
            found = next((each for each in reversed(self._left) if named in each.runs), None)
            if restored.changed and found is not None:
                self._continue(found)

    def _continue(self, found: Known) -> None:
        """Have the conversation be another one."""
        if found == self.now:
            return
        if self._is_new and self._left_new:
            self._left.pop()
        self._left.append(self.now)
        self.now, self._left_new, self._is_new = found, self._is_new, True

    def _host(self, run_id: str) -> str:
        """Return the run in whose part of history a run stands."""
        stored = self._life.runs.get(run_id)
        return run_id if stored is None or stored.joined is None else stored.joined


def follow(life: Life, timeline: Timeline, key: SessionKey, known: dict[str, tuple[str, str]] | None = None) -> Places:
    """Return the places of a session as they are in the end, unless they are unclear.

    `known` gets, by the text of each run, the conversation that its agent has to know, and the run whose state it has.
    """
    places = Places(life, timeline, key)
    known = {} if known is None else known
    for part in [] if places.are_unclear else split(life, timeline, key):
        run = part.run
        begun = places.begin(part)
        state = begun.state
        if run is not None and part.opened is None:
            known[run.text] = (timeline.as_line([*begun.messages]), state)
        places.add(part)
        stored = None if run is None else life.runs.get(run.id)
        if run is not None and stored is not None and stored.status in (RunStatus.SUCCEEDED, RunStatus.NEEDS_INPUT):
            state = run.says
        own = state
        question = None if run is None else timeline.questions.get(run.id)
        while question is not None and question.answer is not None:
            text = text_of(question.answer)
            known[text] = (timeline.as_line([*places.now.messages[:-1]]), state)
            question = again_in_the_round(question, timeline.questions)
            state = state if question is None else text
        places.end(part, own, state)
    return places


def superseded(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the sessions in whose conversation is what was superseded, or is not what was not."""
    for key in life.history:
        places = Places(life, timeline, key)
        if not goes_back(timeline, key) or places.are_unclear:
            continue
        for part in split(life, timeline, key):
            places.begin(part)
            places.add(part)
            places.end(part, "", "")
        if [*places.close().messages] != life.shown[key]:
            yield f"the conversation of {key} is not what its last branch continues"
        if places.fault:
            yield places.fault


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
