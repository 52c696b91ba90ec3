"""Parts for tests of Strandline and of whatever is built on it.

Importing this package imports neither an agent framework nor pytest; `ScriptedModel` and `JournalContract` do that,
when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from strandline.testing._checker import Ledger, check_history, check_pairing, check_truthful
from strandline.testing._gate import Gate, Signal

if TYPE_CHECKING:
    from strandline.testing._contract import JournalContract
    from strandline.testing._model import (
        ScriptedModel,
        call,
        fast_retries,
        in_turn,
        pause,
        question,
        results,
        say,
        stop,
        think,
    )

__all__ = [
    "Gate",
    "JournalContract",
    "Ledger",
    "ScriptedModel",
    "Signal",
    "call",
    "check_history",
    "check_pairing",
    "check_truthful",
    "fast_retries",
    "in_turn",
    "pause",
    "question",
    "results",
    "say",
    "stop",
    "think",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "contract" if name == "JournalContract" else "model"
    return getattr(import_module(f"strandline.testing._{module}"), name)
