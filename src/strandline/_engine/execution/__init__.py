"""Execution: from a claim to the outcome of its run. The engine's only package that calls user code.

A run passes one pipeline over one record (`Execution`): `Runner` prepares it, starts it on an agent loop, gives it a
time box, closes what it leaves and finishes it. `LiveAttempt` checkpoints the agent's reports on the way. `recover`
does the last two steps for a run whose process died; `Handover` has it do so for sessions that are gained. `Claims`
fetches claims and has each executed as a task; `Holds` keeps the claims of ended runs that still execute code.
`AgentPool` keeps the agents of idle sessions.

Invariants: every ending is a value; a claim ends in one completion, or its run is requeued, or the claim is lost;
history is the result of `closed`, and nothing else; only an agent whose run ended well serves another one. Knows
nothing of clients; the queues decide which session goes next.
"""

from strandline._engine.execution.attempt import LiveAttempt
from strandline._engine.execution.claims import Claims
from strandline._engine.execution.failures import FailedRemotely, detail_of, kind_of
from strandline._engine.execution.handover import Handover
from strandline._engine.execution.holds import Hold, Holds
from strandline._engine.execution.pool import AgentPool
from strandline._engine.execution.record import Execution
from strandline._engine.execution.recovery import recover
from strandline._engine.execution.retry import Retries
from strandline._engine.execution.runner import ExecutionResult, Runner

__all__ = [
    "AgentPool",
    "Claims",
    "ExecutionResult",
    "Execution",
    "FailedRemotely",
    "Handover",
    "Hold",
    "Holds",
    "LiveAttempt",
    "Retries",
    "Runner",
    "detail_of",
    "kind_of",
    "recover",
]
