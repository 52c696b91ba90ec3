"""The life of a run: one table of legal moves. Pure. Every change of a status goes through `advance`.

A run waits (`queued`), executes (`running`) and ends once. A waiting run may end without having run. A running one may
be requeued, by a server that stops or after a crash.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from strandline._model import RunStatus
from strandline.errors import InvariantBroken


class Move(StrEnum):
    """The moves of a run."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    ASK = "ask"
    REQUEUE = "requeue"


MOVES: Final[Mapping[tuple[RunStatus, Move], RunStatus]] = MappingProxyType(
    {
        (RunStatus.QUEUED, Move.CLAIM): RunStatus.RUNNING,
        (RunStatus.QUEUED, Move.FAIL): RunStatus.FAILED,
        (RunStatus.QUEUED, Move.CANCEL): RunStatus.CANCELLED,
        (RunStatus.RUNNING, Move.SUCCEED): RunStatus.SUCCEEDED,
        (RunStatus.RUNNING, Move.FAIL): RunStatus.FAILED,
        (RunStatus.RUNNING, Move.CANCEL): RunStatus.CANCELLED,
        (RunStatus.RUNNING, Move.ASK): RunStatus.NEEDS_INPUT,
        (RunStatus.RUNNING, Move.REQUEUE): RunStatus.QUEUED,
    }
)

ENDED: Final = frozenset(RunStatus) - {status for status, _ in MOVES}
"""The statuses that no move leaves."""


def advance(status: RunStatus, move: Move) -> RunStatus:
    """Return where `move` leads from `status`. Raises `InvariantBroken` if the table has no such move."""
    try:
        return MOVES[status, move]
    except KeyError:
        raise InvariantBroken(f"a run that is {status} cannot {move}") from None


def diagram() -> str:
    """Return the table as a Mermaid state diagram, one line per move."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    lines += [f"    {start} --> {end}: {move}" for (start, move), end in MOVES.items()]
    lines += [f"    {status} --> [*]" for status in RunStatus if status in ENDED]
    return "\n".join(lines) + "\n"
