"""The fixed sentences of history, and the text of a run's answer."""

from collections.abc import Iterable
from typing import Final

from strandline._model import Block, Message
from strandline._normalize import normalize_message

EMPTY_MESSAGE: Final = "(empty message)"
NO_ANSWER: Final = "(This run ended without an answer.)"
NO_OUTPUT: Final = "(no output)"
DISMISSED: Final = (
    "This tool asked a person for input and got no answer: it stopped at its question, and did nothing after it."
)
NOT_RETURNED: Final = (
    "The user's program did not say what came of this call. It may have executed this tool, or may not have."
)
NOT_ANSWERED: Final = "(The input that was asked for was not given.)"
UNKNOWN_OUTCOME: Final = (
    "The outcome of this tool call is unknown: the run ended before it returned. It may have taken effect."
)
SAID_MEANWHILE: Final = "(Said meanwhile, while you were working:)"
"""Before what a run says that joins another."""
NOT_DONE: Final = "This tool call did nothing: {by} checked that after a crash. It was not started again."
STARTED_AGAIN: Final = "(After a crash {by} checked this tool call: it had done nothing, and was started again.)"
DONE: Final = "(After a crash {by} checked this tool call: it had taken effect.)"


_UNUSABLE: Final = "what this request wants of the agent cannot be had: "

LONGEST_ERROR: Final = 500
"""Characters of an error's text that history keeps: the model reads them in every later run."""


def ended_early(code: str) -> str:
    """Return the sentence in history that says that a run did not end by itself."""
    return f"(This run ended early: {code}.)"


def unusable(why: str) -> str:
    """Return why a run ended whose client wants what its agent cannot give."""
    return f"{_UNUSABLE}{why}"


def is_unusable(detail: str) -> bool:
    """Return whether a run ended for that reason, so that its request was wrong."""
    return detail.startswith(_UNUSABLE)


def took_too_long(timeout_s: float | None) -> str:
    """Return why a run ended whose deadline has passed."""
    return f"the run took longer than {timeout_s or 0.0:g} s"


def stored_reason(detail: str) -> str:
    """Return the text that history stores about a failure, in a block of its own; `""` for none."""
    stored = detail[:LONGEST_ERROR]
    return stored if stored.strip() else ""


def answer_text(message: Message | None) -> str:
    """Return the text blocks of a message, with line breaks between them."""
    if message is None:
        return ""
    texts = (block["text"] for block in normalize_message(message)["content"] if "text" in block)
    return "\n".join(text for text in texts if text is not None)


def without_blank_text(content: Iterable[Block]) -> list[Block]:
    """Return the blocks without blank texts, which providers refuse."""
    return [block for block in content if not ("text" in block and not (block["text"] or "").strip())]
