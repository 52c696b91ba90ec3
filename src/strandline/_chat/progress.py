"""`RunProgress`: the state of one run so far, and what to show a person for each event. No I/O.

The model's text is shown as it arrives, and withdrawn when its call starts over; whole messages stay.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from strandline._chat.turns import ToolCall, text_of
from strandline._model import InputRequest
from strandline.client._answers import Why
from strandline.client._events import (
    Event,
    MessageAdded,
    RunFinished,
    RunJoined,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStalled,
    RunStarted,
    StreamGap,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
)

BEHIND: Final = "behind"
"""The reason that a position already implies."""


@dataclass(frozen=True, slots=True)
class Said:
    """The agent has said this."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolUsed:
    """The agent has used a tool; `took_s` is None if its start was not seen."""

    call: ToolCall
    took_s: float | None


@dataclass(frozen=True, slots=True)
class Note:
    """A notice for the person."""

    text: str


class RunProgress:
    """One run of a session, from its first event to its last."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._open: list[str] = []
        """The ids of the input requests whose wait was already reported."""
        self.run_id: str | None = None
        self.text = ""
        """The model's current text so far."""
        self.end: RunFinished | None = None
        self._status_text = ""
        self._calls: dict[str, ToolCall] = {}
        self._said = ""

    @property
    def input_requests(self) -> list[InputRequest]:
        """The questions with which the run has ended."""
        return [] if self.end is None else self.end.input_requests

    def status(self, elapsed_s: float) -> str:
        """Return the run's status on one line."""
        seconds = f"{elapsed_s:.0f} s"
        return f"{seconds} · {self._status_text}" if self._status_text else seconds

    def apply(self, event: Event) -> list[Said | ToolUsed | Note]:
        """Apply an event; return what to show permanently."""
        self.run_id = event.run_id or self.run_id
        match event:
            case RunQueued() | RunPosition():
                self._status_text = _place(event.position, event.estimated_wait_s, event.why)
                return self._waiting_for(event.input_requests)
            case RunStarted():
                self._status_text = "executing"
            case RunJoined(joining=joining) if joining == self.run_id:
                self._status_text = f"with run {event.joined}, which has heard it"
            case RunRestarted():
                return self._restarted(event.attempt)
            case TextDelta(text=text):
                self.text += text
                self._status_text = "the model is answering"
            case TextReset():
                return self._withdrawn("The model starts over")
            case ToolStarted():
                call = self._calls[event.tool_use_id] = ToolCall(event.name, event.input)
                self._status_text = f"using {call.name}"
            case ToolFinished():
                return [ToolUsed(self._used(event), event.duration_s)]
            case MessageAdded(message=message):
                self.text = ""
                self._status_text = "executing"
                if message["role"] == "assistant":
                    return self._say(text_of({**message}))
            case RunStalled():
                self._status_text = f"no sign of life for {event.quiet_s:.0f} s ({event.phase})"
            case StreamGap():  # (not how many: numbers jump, after a crash by billions)
                return [Note("Some events are no longer stored; the outcome is still to come")]
            case RunFinished():
                self.end = event
                self.text = ""
                return self._say(event.output) if event.ok else []
        return []

    def _say(self, text: str) -> list[Said | ToolUsed | Note]:
        if not text.strip() or text.split() == self._said.split():  # (the end repeats the last message)
            return []
        self._said = text
        return [Said(text)]

    def _waiting_for(self, requests: list[InputRequest]) -> list[Said | ToolUsed | Note]:
        ids = [each.id for each in requests]
        if not requests or ids == self._open:
            return []
        self._open = ids
        questions = "; ".join(map(question, requests))
        return [Note(f"It waits for an answer to {questions} (strandline answer {self._session} TEXT)")]

    def _restarted(self, attempt: int) -> list[Said | ToolUsed | Note]:
        self._status_text = "executing"
        self._calls.clear()
        self.text = ""
        return [Note(f"The server restarted; the run resumes from its last checkpoint (attempt {attempt})")]

    def _withdrawn(self, why: str) -> list[Said | ToolUsed | Note]:
        was, self.text = self.text, ""
        return [Note(f"{why}; its text since the last message no longer counts")] if was.strip() else []

    def _used(self, event: ToolFinished) -> ToolCall:
        call = self._calls.pop(event.tool_use_id, None) or ToolCall(event.name, None)
        call.result = _text(event.result.get("content"))
        call.failed = event.status == "error"
        self._status_text = f"using {next(iter(self._calls.values())).name}" if self._calls else "executing"
        return call


def question(request: InputRequest) -> str:
    """Return an input request on one line: its name and its reason."""
    reason = request.reason
    text = reason if isinstance(reason, str) else "" if reason is None else json.dumps(reason, ensure_ascii=False)
    return f"{request.name}: {text}" if text else request.name


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    return " ".join(
        part["text"] if "text" in part else json.dumps(part.get("json", "..."), ensure_ascii=False) for part in parts
    )


def _place(position: int, estimated_wait_s: float | None, why: Why | None) -> str:
    if position == 0 and why is not None:
        return why.text
    before = {1: "next in its queue", 2: "1 run before it"}.get(position, f"{position - 1} runs before it")
    if why is not None and why.code != BEHIND:
        return f"{before}; {why.text}"
    return before + (f", about {estimated_wait_s:.0f} s" if estimated_wait_s else "")
