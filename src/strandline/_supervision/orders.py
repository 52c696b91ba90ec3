"""What a parent sends its child: one line of orders, then single bytes. Shared by both sides."""

from typing import Final

from msgspec import Struct

from strandline._settings import Settings

GO: Final = b"g"
"""The child may serve."""
STOP: Final = b"s"
"""All servers stop: nobody else accepts connections on the socket."""


class Orders(Struct, frozen=True):
    """The first line on the link."""

    settings: Settings | None = None
    """The settings in force; None: the child finds them by itself."""
    answers_while_starting: bool = False
    """Whether it accepts connections before it is ready, since nobody else does."""
