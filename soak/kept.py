"""Judges the sessions that go back, are forked, and have files: each is what its only client knows it to be. Pure.

So are the default options of these sessions, and the runs that continue crashed ones.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from soak.ledger import Line

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


class Marked(Struct, frozen=True, kw_only=True):
    """The mark that a session's options give to its runs, as `what` shows it; "": none. It must be one of `allowed`:
    several, where a request of theirs had no answer and may be carried out late."""

    session: str
    what: str
    shown: str
    allowed: frozenset[str]


class Resolution(Struct, frozen=True, kw_only=True):
    """A crashed run that was taken up: what its client found out about its tools, and the run that continues it.

    `done` has the results that it has named, by the ids of the tools. `kind` and `text` are how the run ended.
    """

    session: str
    label: str
    """That of the request that takes it up; the run says what the crashed one was asked."""
    crashed: str
    run_id: str
    done: dict[str, str]
    not_done: frozenset[str]
    kind: str
    text: str


class Kept(Struct, kw_only=True):
    """All that was shown."""

    conversations: list[Conversation] = []
    contents: list[Content] = []
    marks: list[Marked] = []
    resolutions: list[Resolution] = []


def judge_kept(kept: Kept, lines: Sequence[Line]) -> Iterator[str]:
    """Yield the conversations and files that are not what they must be, and the options and resolutions."""
    yield from _conversations(kept)
    for each in kept.marks:
        if each.shown not in each.allowed:
            yield f"{each.what} of {each.session} has mark {each.shown!r}, and should have {sorted(each.allowed)}"
    begun: dict[str, set[str]] = {each.run_id: set() for each in kept.resolutions}
    for line in lines:
        if line.kind == "begin" and line.run_id in begun:
            begun[line.run_id].add(line.tool_use_id)
    for resolution in kept.resolutions:
        yield from _resolution(resolution, begun[resolution.run_id])


def _resolution(resolution: Resolution, begun: set[str]) -> Iterator[str]:
    """Yield what is wrong about a run that continues a crashed one, and has `begun` these tools."""
    name = f"run {resolution.run_id}, which continues {resolution.crashed},"
    if again := begun & resolution.done.keys():
        yield f"{name} has started {sorted(again)}, which were done"
    if resolution.kind == "succeeded":
        if missing := resolution.not_done - begun:
            yield f"{name} has not started {sorted(missing)}, which had done nothing"
        for result in resolution.done.values():
            if result not in resolution.text:
                yield f"{name} answered {resolution.text!r}, without the result {result!r}"


def _conversations(kept: Kept) -> Iterator[str]:
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
