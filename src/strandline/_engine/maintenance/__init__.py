"""Maintenance: regular ticks, and the deletion of expired records.

`every_second` calls the ticks of other modules. `Watchdog` finds runs without a sign of life and agent loops that user
code blocks for good; `Readiness` says whether requests are accepted, and why not. `prune_runs` and
`delete_idle_sessions`, called by `every_minute`, apply the retention settings. Every failure is logged and retried: no
task here ends because of an error, which nobody would notice before the disk is full.
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
