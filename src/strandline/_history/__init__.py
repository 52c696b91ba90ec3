"""History: closing it, following a run's progress, and checking it. Pure.

A provider accepts a conversation only if its roles alternate, starting with `user`; if every `toolUse` of an assistant
message is answered by one `toolResult` at the head of the next message; if no text is blank and no tool result empty;
and if no answer stops at its reasoning. `close` turns what a run leaves (any prefix of it, in any ending) into such
messages, without losing or inventing a side effect. It is the one place that makes the guarantee "truthful history".

Agents and tools build messages by hand, so nothing here trusts their form: anything that is not a block becomes text,
and nothing that a tool returned is dropped for its form.
"""

from strandline._history.blocks import done_result, open_tool_uses
from strandline._history.checks import history_faults, pairing_faults
from strandline._history.closing import close, close_answer, dismissed
from strandline._history.effects import acted
from strandline._history.joins import blocks_of, joined_in, with_collected, with_joined
from strandline._history.listed import MOST_LISTED, Listed, input_text, kept, plain_text, said_in
from strandline._history.progress import Progress, fold, resume_point
from strandline._history.prompts import as_read, effective_sender, named_sender, prompt_message, sender_of, with_sender
from strandline._history.texts import (
    DISMISSED,
    EMPTY_MESSAGE,
    NO_ANSWER,
    NO_OUTPUT,
    NOT_ANSWERED,
    NOT_RETURNED,
    SAID_MEANWHILE,
    STARTED_AGAIN,
    UNKNOWN_OUTCOME,
    answer_text,
    ended_early,
    is_unusable,
    took_too_long,
    unusable,
)
from strandline._history.waiting import UNKNOWN as UNKNOWN_WAITING
from strandline._history.waiting import Waiting, WaitingMessage, waiting_of

__all__ = [
    "DISMISSED",
    "EMPTY_MESSAGE",
    "MOST_LISTED",
    "NOT_ANSWERED",
    "NOT_RETURNED",
    "NO_ANSWER",
    "NO_OUTPUT",
    "SAID_MEANWHILE",
    "STARTED_AGAIN",
    "UNKNOWN_OUTCOME",
    "UNKNOWN_WAITING",
    "Listed",
    "Progress",
    "Waiting",
    "WaitingMessage",
    "acted",
    "answer_text",
    "as_read",
    "blocks_of",
    "effective_sender",
    "joined_in",
    "kept",
    "named_sender",
    "open_tool_uses",
    "close",
    "close_answer",
    "dismissed",
    "done_result",
    "ended_early",
    "fold",
    "input_text",
    "history_faults",
    "pairing_faults",
    "plain_text",
    "prompt_message",
    "is_unusable",
    "took_too_long",
    "unusable",
    "resume_point",
    "said_in",
    "sender_of",
    "waiting_of",
    "with_collected",
    "with_joined",
    "with_sender",
]
