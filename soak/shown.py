"""What a history of the soak shows at its end: a round that waits for input, or not. Pure."""

from collections.abc import Sequence
from typing import Any

from judging.histories import malformed, open_uses
from soak.message import ASKING


def check_shown(history: Sequence[Any]) -> list[str]:
    """Return what is malformed; a round that waits for input counts as closed."""
    return malformed(history, _requests_input)


def is_open(history: Sequence[Any]) -> bool:
    """Return whether the last round waits for input, or continues with it."""
    return any(map(_requests_input, open_uses(history)))


def _requests_input(use: dict[str, Any]) -> bool:
    return use["name"] in ASKING
