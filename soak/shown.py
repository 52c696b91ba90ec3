"""Whether a history is well formed as it is shown: at rest, or with a round at its end that waits for input. Pure."""

from collections.abc import Sequence
from typing import Any

from soak.message import ASKING
from strandline.testing._checker import check_history


def check_shown(history: Sequence[Any]) -> list[str]:
    """Return what is malformed; a round that waits for input is taken for closed."""
    return check_history([*history, *_closing(history)])


def is_open(history: Sequence[Any]) -> bool:
    """Return whether the last round waits for input, or goes on with it."""
    return any(use["name"] in ASKING for use in _uses(history))


def _closing(history: Sequence[Any]) -> list[Any]:
    if not is_open(history):
        return []
    results = [
        {"toolResult": {"toolUseId": use["toolUseId"], "status": "success", "content": [{"text": "to come"}]}}
        for use in _uses(history)
    ]
    return [{"role": "user", "content": results}, {"role": "assistant", "content": [{"text": "to come"}]}]


def _uses(history: Sequence[Any]) -> list[Any]:
    last = history[-1] if history else {"content": []}
    return [block["toolUse"] for block in last["content"] if "toolUse" in block]
