"""Forks: sessions that begin with what another one had, as it was stored.

What their agents know, and what is shown of them, is judged with all that agents know (`simulation.truth`,
`simulation.branches`): they begin as their source was after the run that the fork names.
"""

from collections.abc import Iterator

from simulation.life import Life
from simulation.timeline import Timeline
from strandline._model import Message, RunStatus, SessionKey


def forked(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the forks that are no copies, that were answered otherwise when they were sent again, or refused."""
    for name, fork in timeline.forks.items():
        if len({*fork.answers}) > 1:
            yield f"fork {name} was answered as {fork.answers[0]}, and as {fork.answers[-1]} when it was sent again"
        if any(forgotten for _, forgotten in fork.answers):
            yield f"fork {name} has forgotten the state of its agent, and everything is kept"
        run, stored = timeline.runs.get(fork.after), life.runs.get(fork.after)
        if run is None or stored is None or stored.discarded:
            continue
        if fork.refused and stored.status is RunStatus.SUCCEEDED and 0 <= run.reported_nth < fork.sent:
            yield f"fork {name} was refused ({fork.refused}), and run {run.id} had succeeded"
    for key, copied in life.copied.items():
        whole, hidden = _whole(life, copied.source)
        # (What closes a question that is open is the fork's own.)
        host = timeline.host_of(timeline.runs.get(copied.after)) or copied.after
        count = len(copied.messages) - (2 if host in timeline.questions else 0)
        if copied.messages[:count] != whole[:count] or copied.hidden != {n for n in hidden if n < count}:
            yield f"the history of {key} does not begin as that of {copied.source}"


def _whole(life: Life, key: SessionKey) -> tuple[list[Message], set[int]]:
    """Return the whole history of a session, and the places of what is hidden in it."""
    copied = life.copied.get(key)
    if copied is None:
        return life.history[key], life.hidden[key]
    count = len(copied.messages)
    return [*copied.messages, *life.history[key]], copied.hidden | {n + count for n in life.hidden[key]}
