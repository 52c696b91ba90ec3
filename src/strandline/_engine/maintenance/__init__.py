"""Maintenance: what is looked at every second, and what is deleted when its time is over.

`every_second` calls the ticks of those who have something to look at. `Watchdog` finds runs that give no sign of life
and agent loops that user code blocks for good; `Readiness` says whether requests are taken, and why not. `prune_runs`
and `delete_idle_sessions`, done `every_minute`, keep the retention settings. Whatever fails here is logged and tried
again: nothing of it ends because of an error, which nobody would notice before the disk is full.
"""

from strandline._engine.maintenance.background import (
    delete_idle_sessions,
    every_minute,
    every_second,
    measure_lag,
    prune_runs,
)
from strandline._engine.maintenance.readiness import Readiness
from strandline._engine.maintenance.watchdog import Watchdog

__all__ = ["Readiness", "Watchdog", "delete_idle_sessions", "every_minute", "every_second", "measure_lag", "prune_runs"]
