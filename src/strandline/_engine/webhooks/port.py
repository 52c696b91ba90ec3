"""What sends an event over the network."""

from typing import Protocol

from msgspec import Struct

from strandline._model import Principal


class ToSend(Struct, frozen=True):
    """An event to send, signed with the secrets of a principal, or `by_server` with those of the server's webhook."""

    id: str
    url: str
    principal: Principal
    by_server: bool
    payload: bytes


class SendResult(Struct, frozen=True):
    """Whether an event was received, and what the receiver answered, or why nothing did, for people.

    `is_final`: it says that it wants none any more. `is_slow`: it did not answer in time.
    """

    received: bool
    detail: str
    is_final: bool = False
    is_slow: bool = False


class Sender(Protocol):
    """Sends events. Never blocks its caller's loop."""

    def can_sign(self, principal: Principal) -> bool:
        """Return whether there is a secret of a principal."""
        ...

    async def send(self, event: ToSend) -> SendResult:
        """Send an event once; return whether it was received. Raises nothing."""
        ...

    def start(self) -> None:
        """Begin to work."""
        ...

    def close(self) -> None:
        """Drop what is being sent, and end all threads."""
        ...
