"""Checkpoints that could not be stored although nobody waits for them: they are *owed*.

The next operation of the same claim stores them first, or ends the run, which makes them worthless.
"""

from strandline._journal.table import SessionTable
from strandline._model import FencingToken


class Owed:
    """What is owed for each claim. Belongs to the loop on which operations are decided."""

    def __init__(self) -> None:
        self._checkpoints: dict[FencingToken, list[bytes]] = {}
        self._paid: set[FencingToken] = set()
        """Claims for which an operation whose commit is under way stores what is owed, or makes it worthless."""

    def __len__(self) -> int:
        return len(self._checkpoints)

    def owe(self, token: FencingToken, checkpoint: bytes) -> None:
        """Remember a fact that could not be stored."""
        self._checkpoints.setdefault(token, []).append(checkpoint)
        self._paid.discard(token)

    def pay(self, table: SessionTable, token: FencingToken) -> None:
        """Have the table store what is owed for a claim. Raises `ClaimLost` if the token is stale."""
        if self._checkpoints and token not in self._paid:
            for checkpoint in self._checkpoints.get(token, ()):
                table.checkpoint(token, checkpoint)
            self._paid.add(token)

    def void(self, token: FencingToken) -> None:
        """Note that what is owed for a claim is worth nothing any more."""
        if self._checkpoints:
            self._paid.add(token)

    def kept(self, token: FencingToken) -> None:
        """Note that an operation of a claim is stored."""
        if token in self._paid:
            self._paid.discard(token)
            self._checkpoints.pop(token, None)

    def undo(self) -> None:
        """Note that no operation was stored whose commit was under way."""
        self._paid.clear()
