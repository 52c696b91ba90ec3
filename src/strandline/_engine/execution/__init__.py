"""Execution: from a claim to the outcome of its run. The only package of the engine that calls user code.

A run passes one pipeline over one record (`Execution`): `Runner` prepares it, starts it on an agent loop, gives it a
time box, closes what it leaves and finishes it. What the agent reports on the way is checkpointed by `LiveAttempt`.
`recover` does the last two steps for a run whose process died. `Claims` fetches claims and has each executed as a task;
`Holds` keeps those whose runs have ended and still work. `AgentPool` keeps the agents of idle sessions.

Invariants: every ending is a value; a claim ends in one completion, or its run is requeued, or the claim is lost;
history is what `closed` makes of a run, and nothing else; only an agent whose run ended well serves another one.
Knows nothing of who waits for a run; which session goes next is for the queues to say.
"""

from strandline._engine.execution.attempt import LiveAttempt
from strandline._engine.execution.claims import Claims
from strandline._engine.execution.failures import FailedRemotely, detail_of, kind_of
from strandline._engine.execution.holds import Hold, Holds
from strandline._engine.execution.pool import AgentPool
from strandline._engine.execution.record import Execution
from strandline._engine.execution.recovery import recover
from strandline._engine.execution.retry import until_stored
from strandline._engine.execution.runner import ExecutionResult, Runner

__all__ = [
    "AgentPool",
    "Claims",
    "ExecutionResult",
    "Execution",
    "FailedRemotely",
    "Hold",
    "Holds",
    "LiveAttempt",
    "Runner",
    "detail_of",
    "kind_of",
    "recover",
    "until_stored",
]
