"""A stream of events in transit, cut only between two events."""


class WholeEvents:
    """Cuts a stream of events after a whole one, and notes the last id: there it can be resumed."""

    def __init__(self) -> None:
        self._rest = b""
        self.last_id = 0

    def take(self, piece: bytes) -> bytes:
        """Return the events that are whole now."""
        data = self._rest + piece if self._rest else piece
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return b""
        self._rest, found = data[end:], data[:end]
        at = found.rfind(b"\nid: ") + 1
        if at or found.startswith(b"id: "):
            self.last_id = int(found[at + 4 : found.index(b"\n", at)])
        return found
