"""Parts for tests of agents, and of programs that use Strandline.

Importing this package imports neither an agent framework nor pytest: what needs one is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from strandline._model import Cancelled, Failed, NeedsInput, Raised, Succeeded
from strandline.testing._checker import Ledger, check_history, check_pairing, check_truthful
from strandline.testing._gate import Gate, Signal

if TYPE_CHECKING:
    from strandline._check.adapters import Refused
    from strandline._scripted.model import (
        Answer,
        Pause,
        Script,
        ScriptedModel,
        Stop,
        Waitable,
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
    from strandline.testing._contract import JournalContract as JournalContract
else:
    _HOMES = {
        "JournalContract": "testing._contract",
        "Refused": "_check.adapters",
        "Answer": "_scripted.model",
        "Pause": "_scripted.model",
        "Script": "_scripted.model",
        "ScriptedModel": "_scripted.model",
        "Stop": "_scripted.model",
        "Waitable": "_scripted.model",
        "call": "_scripted.model",
        "fast_retries": "_scripted.model",
        "in_turn": "_scripted.model",
        "pause": "_scripted.model",
        "question": "_scripted.model",
        "results": "_scripted.model",
        "say": "_scripted.model",
        "stop": "_scripted.model",
        "think": "_scripted.model",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        if name == "JournalContract":
            import warnings

            warning = (
                "JournalContract is deprecated: it takes parts of Strandline that are private, and no program can bring"
                " a journal of its own. Add yours to Strandline's source: CONTRIBUTING.md, 'Adding a journal'"
            )
            warnings.warn(warning, DeprecationWarning, stacklevel=2)
        return getattr(import_module(f"strandline.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Answer",
    "Cancelled",
    "Failed",
    "Gate",
    "Ledger",
    "NeedsInput",
    "Pause",
    "Raised",
    "Refused",
    "Script",
    "ScriptedModel",
    "Signal",
    "Stop",
    "Succeeded",
    "Waitable",
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
