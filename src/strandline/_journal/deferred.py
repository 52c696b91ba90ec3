"""Checkpoints that could not be stored and that nobody awaits.

The next operation of the same claim stores them first, or ends the run, which makes them worthless.
"""

from strandline._journal.table import SessionTable
from strandline._model import FencingToken


class DeferredWrites:
    """The deferred checkpoints of each claim. Belongs to the loop on which operations are decided."""

    def __init__(self) -> None:
        self._checkpoints: dict[FencingToken, list[bytes]] = {}
        self._flushed: set[FencingToken] = set()
        """Claims with an operation in the current commit that stores their checkpoints or makes them worthless."""

    def __len__(self) -> int:
        return len(self._checkpoints)

    def defer(self, token: FencingToken, checkpoint: bytes) -> None:
        """Remember a checkpoint that could not be stored."""
        self._checkpoints.setdefault(token, []).append(checkpoint)
        self._flushed.discard(token)

    def flush(self, table: SessionTable, token: FencingToken) -> None:
        """Have the table store the deferred checkpoints of a claim. Raises `ClaimLost` if the token is stale."""
        if self._checkpoints and token not in self._flushed:
            for checkpoint in self._checkpoints.get(token, ()):
                table.checkpoint(token, checkpoint)
            self._flushed.add(token)

    def discard(self, token: FencingToken) -> None:
        """Drop the deferred checkpoints of a claim once the current commit is durable."""
        if self._checkpoints:
            self._flushed.add(token)

    def committed(self, token: FencingToken) -> None:
        """Note that an operation of a claim is durable."""
        if token in self._flushed:
            self._flushed.discard(token)
            self._checkpoints.pop(token, None)

    def rolled_back(self) -> None:
        """Note that the current commit failed."""
        self._flushed.clear()
