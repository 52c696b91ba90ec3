"""Queues: which session goes next, of those in which something waits.

`SessionQueues` owns one record for each session that has a slot or stands in line for one; what waits and executes is
the journal's, and read there. `Estimates` adds how long runs have taken.

All of it is plain sync code: it decides, and `execution.Claims` acts.
"""

from strandline._engine.queues.estimates import Estimates, RunTimes
from strandline._engine.queues.session_queues import Obstacle, SessionQueues, Share

__all__ = ["Estimates", "Obstacle", "RunTimes", "SessionQueues", "Share"]
