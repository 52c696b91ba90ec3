"""Queues: which waiting session goes next.

`SessionQueues` owns one record for each session that has a slot or waits for one; the runs that wait and execute are
the journal's, and read there. `Estimates` adds how long runs have taken.

All of it is plain sync code: it decides, and `execution.Claims` acts.
"""

from strandline._engine.queues.estimates import Estimates, RunTimes
from strandline._engine.queues.session_queues import Obstacle, SessionQueues, Share

__all__ = ["Estimates", "Obstacle", "RunTimes", "SessionQueues", "Share"]
