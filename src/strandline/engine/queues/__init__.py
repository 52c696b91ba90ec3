"""Queues: the sessions in which something waits or is claimed, and which of them goes next.

`SessionQueues` owns one record for each session with something to do: its waiting runs with their deadlines, its slot,
what executes, whether it is held, paused, or closed for input, and how its full queue refuses. Who is next, refusals,
deadlines, obstacles and estimates are views of these records. `Estimates` adds how long runs have taken.

All of it is plain sync code: it decides, and `execution.Claims` acts. The journal decides what happens in a session;
the records follow its answers, in their order. Nothing else of the engine keeps what waits or executes by session.
"""

from strandline.engine.queues.estimates import Estimates, RunTimes
from strandline.engine.queues.records import SessionQueue, WaitingRun
from strandline.engine.queues.session_queues import Obstacle, SessionQueues, Share

__all__ = ["Estimates", "Obstacle", "RunTimes", "SessionQueue", "SessionQueues", "Share", "WaitingRun"]
