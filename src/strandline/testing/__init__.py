"""Parts for tests of Strandline and of whatever is built on it.

Importing this package imports no agent framework; the scripted model does, when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from strandline.testing.gate import Gate, Signal

if TYPE_CHECKING:
    from strandline.testing.model import (
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
    "ScriptedModel",
    "Signal",
    "call",
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
    from strandline.testing import model

    return getattr(model, name)
