"""What a judge looks at: the records, put in order, so that it is known which run left what.

Pure, and as ignorant of servers as the judge is.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from soak.ledger import Line
from soak.message import Message, read
from soak.records import Asked, Records, Stored

UNKNOWN: Final = "The outcome of this tool call is unknown"
NOT_STARTED: Final = "This tool was not started"


class Rules(Struct, frozen=True, kw_only=True):
    """What the servers were told."""

    idempotent: frozenset[str] = frozenset()
    tell: bool = False
    """Whether a run goes on, told so, if a tool was at work when its server died."""
    max_attempts: int = 3
    cancel_grace_s: float = 0.5


class Part(Struct, frozen=True):
    """What one run left in history: its messages, from its question on."""

    label: str
    messages: list[Any]

    @property
    def said(self) -> list[str]:
        """All texts that the assistant said, the closing one last."""
        return [b["text"] for m in self.messages if m["role"] == "assistant" for b in m["content"] if "text" in b]

    @property
    def tools(self) -> dict[str, str]:
        """The names of the tools that it asked for, by toolUseId."""
        uses = [block["toolUse"] for message in self.messages for block in message["content"] if "toolUse" in block]
        return {use["toolUseId"]: use["name"] for use in uses}

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results of its tools, by toolUseId."""
        blocks = [
            block["toolResult"] for message in self.messages for block in message["content"] if "toolResult" in block
        ]
        return {block["toolUseId"]: block for block in blocks}


class Case:
    """The records, put in order: who is who, and what each run left."""

    def __init__(self, records: Records, lines: Sequence[Line], rules: Rules) -> None:
        self.records = records
        self.lines = lines
        self.rules = rules
        self.messages: dict[str, Message] = {label: read(asked.text) for label, asked in records.asked.items()}
        self.parts: dict[str, list[Part]] = {name: parts_of(told) for name, told in records.histories.items()}
        self.stored: dict[str, list[Stored]] = defaultdict(list)
        for run in sorted(records.stored, key=lambda run: run.sequence):
            self.stored[run.session].append(run)
        self.label_of = {line.run_id: line.label for line in lines if line.run_id}
        self.label_of |= {answer.run_id: answer.label for answer in records.answered if answer.run_id}
        self.label_of |= {run_id: label for label, (run_id, _) in records.seen_waiting.items()}
        self.label_of |= {run_id: view.label for run_id, view in records.views.items() if view.label}
        by_label = {part.label: part for parts in self.parts.values() for part in parts}
        self.part_of = {run_id: by_label[label] for run_id, label in self.label_of.items() if label in by_label}

        self.acted = {line.run_id for line in lines if line.kind == "begin"}
        """The runs that have started a tool."""
        acted = {line.label for line in lines if line.kind == "begin"}
        self.traceless = {
            label
            for run_id, label in self.label_of.items()
            if label not in by_label and label not in acted and self._is_cancelled(run_id)
        }
        """The labels of runs that were cancelled, may have asked their model, and have nothing to tell."""

    def _is_cancelled(self, run_id: str) -> bool:
        view = self.records.views.get(run_id)
        return view is not None and view.ended is not None and view.ended.kind == "cancelled"

    def asked_for(self, run_id: str) -> Asked | None:
        """Return what a run was asked for with, if it is known."""
        return self.records.asked.get(self.label_of.get(run_id, ""))

    def leaves_a_trace(self, run: Stored) -> bool:
        """Tell whether a run has to be in history: all are, but those that came to their end while they waited.

        One that had begun and waits again, given back, leaves what it had staged when it is cancelled: maybe nothing.
        """
        view = self.records.views.get(run.run_id)
        if view is None or view.ended is None:
            return True
        if view.started and view.ended.kind == "cancelled" and run.run_id not in self.acted:
            return run.run_id in self.part_of
        return view.started or view.ended.kind not in ("queue_timeout", "cancelled")


def parts_of(history: Sequence[Any]) -> list[Part]:
    """Cut a history into what each run left."""
    parts: list[Part] = []
    for message in history:
        texts = [block["text"] for block in message["content"] if "text" in block] if message["role"] == "user" else []
        if texts or not parts:
            parts.append(Part(texts[0].split()[0] if texts else "", []))
        parts[-1].messages.append(message)
    return parts


def text_of(result: dict[str, Any]) -> str:
    """Return what a tool's result says."""
    return "".join(part.get("text", "") for part in result["content"])
