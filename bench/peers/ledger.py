"""Reads the fake model's ledger of calls, with times and conversations (`script.py` writes it)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench.peers.script import text_of, well_formed


@dataclass(frozen=True, slots=True)
class Entry:
    """A call of the model began, ended with an answer (`end`), or failed (`fail`)."""

    what: str
    at_s: float
    said: tuple[tuple[str, str], ...]

    @property
    def question(self) -> str:
        """The last message of the conversation."""
        return self.said[-1][1] if self.said else ""


def read(path: Path) -> list[Entry]:
    """Return all entries; a line that was cut off by a kill is left out."""
    return parse(path.read_text().splitlines()) if path.exists() else []


def parse(lines: Iterable[str]) -> list[Entry]:
    """Return the entries of the lines that are whole."""
    entries = []
    for line in lines:
        try:
            kept = json.loads(line)
        except ValueError:
            continue
        entries.append(Entry(kept["what"], kept["at_s"], tuple((role, text) for role, text in kept["said"])))
    return entries


def begun(entries: Iterable[Entry], message: str) -> Entry | None:
    """Return the last call that a message has begun."""
    return next((each for each in reversed(list(entries)) if each.what == "begin" and each.question == message), None)


def ended(entries: Iterable[Entry], message: str) -> bool:
    """Return whether the model has answered a message."""
    return any(each.what == "end" and each.question == message for each in entries)


def shown(entry: Entry | None, message: str) -> bool:
    """Return whether the model was shown a message of the user in this call."""
    return entry is not None and any(role == "user" and message in text for role, text in entry.said)


def order(entry: Entry | None, messages: Sequence[str]) -> list[int]:
    """Return which of the messages were shown with their own answer behind them, by number, as they stood."""
    said = entry.said if entry is not None else ()
    numbers = {message: number for number, message in enumerate(messages)}
    return [
        numbers[text]
        for (role, text), (_, reply) in pairwise(said)
        if role == "user" and text in numbers and text_of(text) in reply
    ]


def alternates(entry: Entry | None) -> bool:
    """Return whether the conversation of a call is one that a strict provider takes."""
    return entry is not None and well_formed(entry.said)


def most_at_once(entries: Iterable[Entry], messages: Sequence[str]) -> int:
    """Return how many of the messages' calls overlapped at most."""
    inside = most = 0
    for each in sorted((each for each in entries if each.question in messages), key=lambda each: each.at_s):
        inside += 1 if each.what == "begin" else -1
        most = max(most, inside)
    return most
