"""What an agent learns of the messages that wait while it works: how many, from whom, and what they say. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from strandline._history.prompts import effective_sender
from strandline._model import IfBusy, Input, JoinState, Lane, Principal, RunId, RunSummary, Sender

MOST_RUNS: Final = 100
"""How many of those that wait are asked who has sent them."""
MOST_SENDERS: Final = 20
MOST_MESSAGES: Final = 20
"""How many messages are shown; the rest is counted."""
MOST_TEXT: Final = 4096
"""How many bytes of one message are shown."""
MOST_TEXTS: Final = 16384
"""How many bytes of all messages are shown."""
MOST_READ: Final = 1024 * 1024
"""How many bytes of inputs are read for that."""


class WaitingMessage(Struct, frozen=True, kw_only=True):
    """A message that waits. `how`: it reaches the agent before its next model call (`steer`), begins a turn with others
    (`collect`), or is a turn of its own (`queue`).

    `cut`: `text` is not all of it. `attachments` are the kinds of its other content.
    """

    run_id: RunId
    sender: Sender | None
    how: Literal["steer", "collect", "queue"]
    text: str
    cut: bool = False
    attachments: list[str] = []


class Waiting(Struct, frozen=True, kw_only=True):
    """How many messages wait, the senders of the first ones, and the first ones. `count` None: it is not known."""

    count: int | None = None
    senders: list[Sender] = []
    messages: list[WaitingMessage] = []


UNKNOWN: Final = Waiting()
"""What waits cannot be read, or the run has ended."""


def waiting_of(count: int, runs: Sequence[RunSummary], inputs: Sequence[Input | None], principal: Principal) -> Waiting:
    """Return what an agent learns of runs that wait, with the messages of those whose inputs are given."""
    said_by = [effective_sender(run.sender, principal) for run in runs]
    senders = list(dict.fromkeys(each for each in said_by if each is not None))
    messages: list[WaitingMessage] = []
    left = MOST_TEXTS
    for run, sender, given in zip(runs, said_by, inputs, strict=False):
        whole, attachments = _content(given)
        text = _start_of(whole, min(left, MOST_TEXT))
        if messages and whole and not text:
            break
        left -= len(text.encode())
        messages.append(
            WaitingMessage(
                run_id=run.run_id,
                sender=sender,
                how=_how(run),
                text=text,
                cut=given is None or text != whole,
                attachments=attachments,
            )
        )
    return Waiting(count=count, senders=senders[:MOST_SENDERS], messages=messages)


def _how(run: RunSummary) -> Literal["steer", "collect", "queue"]:
    if run.join is JoinState.PENDING:
        return "steer"
    return "collect" if run.if_busy is IfBusy.COLLECT and run.lane == Lane.NORMAL and run.attempt == 0 else "queue"


def _content(given: Input | None) -> tuple[str, list[str]]:
    """Return the text of an input, with line breaks between its parts, and the kinds of its other blocks."""
    if given is None or isinstance(given, str):
        return given or "", []
    texts = [block["text"] for block in given if isinstance(block.get("text"), str)]
    kinds = dict.fromkeys(kind for block in given for kind in block if kind != "text")
    return "\n".join(texts), list(kinds)


def _start_of(text: str, most_bytes: int) -> str:
    """Return as much of a text as fits into so many bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= most_bytes else encoded[:most_bytes].decode(errors="ignore")
