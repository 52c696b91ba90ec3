"""Reading: runs, sessions and history as callers see them, and why a run waits.

`Reading` reads the journal and adds what runs do now. `Reasons` finds why a run waits; `Standings` adds its position,
its likely wait, and its session's open input requests. `Positions` publishes the positions of waiting runs to their
subscribers. Nothing in here decides or changes anything. The rest of the code imports `__all__` only.
"""

from strandline._engine.reading.answers import (
    AnsweredRun,
    ClusterVitals,
    Health,
    RestoredView,
    RunPage,
    RunStack,
    RunView,
    Vitals,
)
from strandline._engine.reading.positions import Positions
from strandline._engine.reading.reasons import Reasons, of_others
from strandline._engine.reading.standings import Standings
from strandline._engine.reading.views import PAGE_BYTES, Reading
from strandline._journal.port import Superseded

__all__ = [
    "PAGE_BYTES",
    "AnsweredRun",
    "ClusterVitals",
    "Health",
    "Positions",
    "Reading",
    "Reasons",
    "RestoredView",
    "RunStack",
    "RunView",
    "RunPage",
    "Standings",
    "Superseded",
    "Vitals",
    "of_others",
]
