"""Which tools in a history of the soak ask a person. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from judging.histories import malformed
from soak.message import ASKING


def check_shown(history: Sequence[Any]) -> list[str]:
    """Return what is malformed; a round that waits for input counts as closed."""
    return malformed(history, frozenset(asking_uses(history)))


def asking_uses(history: Sequence[Any]) -> Iterator[str]:
    """Yield the toolUseIds of tools that ask a person."""
    for message in history:
        for block in message["content"]:
            use = block.get("toolUse", {})
            if use.get("name") in ASKING and "toolUseId" in use:
                yield use["toolUseId"]
