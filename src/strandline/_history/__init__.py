"""History: what closes it, what a run has done so far, and what a provider would refuse. Pure.

A provider accepts a conversation only if its roles alternate, starting with `user`; if every `toolUse` of an
assistant message is answered by one `toolResult` at the head of the very next message; if no text is blank, no tool
result empty, and no answer stops at its reasoning. `close` turns whatever a run leaves (any prefix of it, in any
ending) into messages of that kind, without forgetting or inventing a side effect: the one place where the guarantee
"truthful history" is made.

Agents and tools build messages by hand, so nothing here trusts their form: what is no block is told as text, and
nothing that a tool returned is dropped for its form.
"""

from strandline._history.blocks import open_tool_uses
from strandline._history.checks import history_faults, pairing_faults
from strandline._history.closing import close, close_answer, dismissed
from strandline._history.progress import Progress, fold, resume_point
from strandline._history.texts import (
    DISMISSED,
    EMPTY_MESSAGE,
    NO_ANSWER,
    NO_OUTPUT,
    NOT_ANSWERED,
    UNKNOWN_OUTCOME,
    answer_text,
    ended_early,
    prompt_message,
)

__all__ = [
    "DISMISSED",
    "EMPTY_MESSAGE",
    "NOT_ANSWERED",
    "NO_ANSWER",
    "NO_OUTPUT",
    "UNKNOWN_OUTCOME",
    "Progress",
    "answer_text",
    "open_tool_uses",
    "close",
    "close_answer",
    "dismissed",
    "ended_early",
    "fold",
    "history_faults",
    "pairing_faults",
    "prompt_message",
    "resume_point",
]
