"""The simulation's own rule for several servers: nothing of user code starts but at the owner of its session.

A server that was frozen past its lease wakes with runs that another one executes by then: what it was in the middle of
may continue until it knows, and no tool and no model call starts. That two runs of a session never execute at once,
wherever, is a common rule (`judging.order`), and so are all others.
"""

from collections.abc import Iterator

from simulation.life import Life
from simulation.timeline import Timeline


def started_by_owner(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the tools and model calls that were started by a server which did not own their session then."""
    for start in timeline.foreign:
        owner = f"process {start.owner}" if start.owner else "nobody"
        yield f"{start.what} of run {start.run} was started by process {start.process}, and its session was {owner}'s"
