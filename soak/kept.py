"""Judges the sessions that go back, are forked, and have files: each is what its only client knows it to be. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

KEPT: Final = "kept-"
"""How the names of these sessions begin. Nobody but their client does anything there."""


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation as its client was shown it: whose messages it has, and what each of these runs was asked.

    `wanted` is what it must be; `texts` and `wanted_texts` are the questions, in that order.
    """

    session: str
    runs: tuple[str, ...]
    wanted: tuple[str, ...]
    texts: tuple[str, ...]
    wanted_texts: tuple[str, ...]


class Content(Struct, frozen=True, kw_only=True):
    """The content of a file as a server sent it, by its digest; `how`: in which answer. None: it was not there."""

    session: str
    file_id: str
    how: str
    digest: bytes | None
    wanted: bytes


class Kept(Struct, kw_only=True):
    """All that was shown."""

    conversations: list[Conversation] = []
    contents: list[Content] = []


def judge_kept(kept: Kept) -> Iterator[str]:
    """Yield the conversations and files that are not what they must be."""
    for each in kept.conversations:
        if each.runs != each.wanted:
            yield f"the conversation of {each.session} has runs {list(each.runs)}, and should have {list(each.wanted)}"
        elif each.texts != each.wanted_texts:
            wrong = [pair for pair in zip(each.texts, each.wanted_texts, strict=False) if pair[0] != pair[1]]
            yield f"the conversation of {each.session} has other questions than were asked: {wrong[:2]}"
    for content in kept.contents:
        if content.digest != content.wanted:
            what = "is missing" if content.digest is None else "has another content"
            yield f"file {content.file_id} of {content.session} {what} ({content.how})"


def conversation_of(messages: Sequence[Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return whose messages a history has, and the question of each of these runs."""
    runs: list[str] = []
    texts: list[str] = []
    for message in messages:
        if not runs or message["run_id"] != runs[-1]:
            runs.append(message["run_id"] or "")
            texts.append("".join(block.get("text", "") for block in message["content"]))
    return tuple(runs), tuple(texts)
