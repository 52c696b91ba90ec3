"""Reading: what callers are shown of runs, sessions and history, and why a run waits.

`Reading` reads the journal and adds what runs do now. `Reasons` says why a run waits, from those that keep it from
starting; `Standings` adds its position, how long it is likely to wait, and what its session asks. `Positions` publishes
to the subscribers of waiting runs where these stand. Nothing in here decides or changes anything. What `__all__` names
is for the rest of the code; the modules in here are not.
"""

from strandline._engine.reading.answers import Health, RunPage, RunStack, RunView, Vitals
from strandline._engine.reading.positions import Positions
from strandline._engine.reading.reasons import Reasons, of_others
from strandline._engine.reading.standings import Standings
from strandline._engine.reading.views import PAGE_BYTES, Reading

__all__ = [
    "PAGE_BYTES",
    "Health",
    "Positions",
    "Reading",
    "Reasons",
    "RunStack",
    "RunView",
    "RunPage",
    "Standings",
    "Vitals",
    "of_others",
]
