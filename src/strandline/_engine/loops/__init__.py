"""Agent loops: where user code runs, and the count of all that executes for a run there.

Owns the way between the serving loop and the agent loops, in both directions and in order; the threads of sync tools;
and the count of everything that executes for a call, also after its end. `Loops` is the port: `AgentLoops` keeps its
promises with threads of this process, `strandline._workers` with processes. Knows no run, session or journal.
"""

from strandline._engine.loops.agent_loops import AgentLoops, Flag
from strandline._engine.loops.calls import CURRENT, Call, CallCancelled, LiveThread, adopt_current_task
from strandline._engine.loops.port import HasLoops, Load, Loops, WorkerLoad

__all__ = [
    "CURRENT",
    "AgentLoops",
    "Call",
    "CallCancelled",
    "Flag",
    "HasLoops",
    "LiveThread",
    "Load",
    "Loops",
    "WorkerLoad",
    "adopt_current_task",
]
