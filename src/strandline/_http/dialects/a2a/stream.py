"""The events of a run as those of its task, framed as server-sent events.

What is sent follows from the run's stored events and the request alone, but for places in the queue, which are not
stored. So a client that comes back gets the same text.
"""

from typing import Any

from msgspec import UNSET

from strandline._encoding import encode
from strandline._engine import events
from strandline._engine.events import Numbered
from strandline._http.dialects.a2a.tasks import Step, Tasks, said_by
from strandline._http.dialects.a2a.wire import ArtifactUpdate, Metadata, StatusUpdate, Task
from strandline._http.dialects.sent_text import text_of
from strandline._model import Message, RunId, RunStatus

_TEXT = b'"text":'
_PIECE = b'"text":"?"'
"""Where a piece of text is in its event. (In the value of a string its quotes would be escaped.)"""


class TaskEvents:
    """Encodes one run of a task for one client. The first event is the task `now`, as it stands.

    `rpc_id` is that of the client's request.
    """

    def __init__(self, tasks: Tasks, run_id: RunId, now: Task, *, rpc_id: str | float | None) -> None:
        self._tasks = tasks
        self._run_id = run_id
        self._now = now
        self._has_begun = now.status.state != tasks.version.state("submitted")
        self._head = b'data: {"jsonrpc":"2.0","id":%b,"result":' % encode(rpc_id)
        head, _, tail = self._artifact("?", append=True).partition(_PIECE)
        self._around = head + _TEXT, tail  # (encoded once, because there are many pieces)
        self._shown: list[str] = []
        """The text sent of the current message, or of the last one if that is complete."""
        self._is_over = True
        """Whether the current message is complete, so that the next piece replaces it."""
        self._is_deaf = False
        """Whether pieces are missing, so that none is sent until the message is whole."""

    def opening(self) -> bytes:
        """Return the task."""
        return self._event("task", self._now)

    def of(self, numbered: Numbered) -> bytes:
        """Return the events for an event, often none."""
        match event := numbered.event:
            case events.TextDelta(text):
                return self._piece(text)
            case events.MessageAdded(message):
                return self._added(message)
            case events.TextReset():
                self._is_over, shown = True, "" if self._is_over else "".join(self._shown)
                return self._becomes("") if shown else b""
            case events.RunQueued() | events.RunPosition():
                return b"" if self._has_begun else self._waits(event, numbered.at)
            case events.RunStarted():
                self._has_begun = True
                return self._status(Step(run_id=self._run_id, status=RunStatus.RUNNING, at=numbered.at))
            case events.RunRestarted(messages=messages):
                return self._restarted(messages, numbered.at)
            case events.StreamGap():
                self._is_deaf = True
            case events.RunFinished():
                return self._end(event, numbered.at)
        return b""

    def closing(self) -> bytes:
        """Return nothing: a task that continues later is not over."""
        return b""

    # -- text -----------------------------------------------------------------------------------------

    def _piece(self, text: str) -> bytes:
        if self._is_deaf or not text:
            return b""
        if self._is_over:
            self._is_over, self._shown = False, [text]
            return self._artifact(text, append=False)
        self._shown.append(text)
        return self._around[0] + encode(text) + self._around[1]

    def _added(self, message: Message) -> bytes:
        """Complete the current message: what its pieces lack is sent, and text that differs replaces them."""
        if message["role"] != "assistant":
            return b""
        self._is_deaf = False
        text = text_of(message)
        if self._is_over:
            self._shown = []
        data = self._completed(text) if text.strip() else b""
        self._is_over = True
        return data

    def _completed(self, text: str) -> bytes:
        shown = "".join(self._shown)
        if text == shown:
            return b""
        if not (shown and text.startswith(shown)):
            return self._becomes(text)
        self._shown.append(text[len(shown) :])
        return self._around[0] + encode(self._shown[-1]) + self._around[1]

    def _becomes(self, text: str) -> bytes:
        """Replace what was sent."""
        self._shown = [text]
        return self._artifact(text, append=False)

    def _restarted(self, messages: list[Message], at: float) -> bytes:
        self._has_begun, self._is_over, self._is_deaf = True, True, False
        said = [text for message in messages if message["role"] == "assistant" and (text := text_of(message)).strip()]
        data = self._status(Step(run_id=self._run_id, status=RunStatus.RUNNING, at=at))
        return data + self._completed(said[-1] if said else "")

    # -- the task -------------------------------------------------------------------------------------

    def _waits(self, event: events.RunQueued | events.RunPosition, at: float) -> bytes:
        step = Step(run_id=self._run_id, status=RunStatus.QUEUED, at=at, position=event.position)
        return self._status(step, estimated_wait_s=event.estimated_wait_s)

    def _end(self, end: events.RunFinished, at: float) -> bytes:
        text = said_by(end)
        # Some clients take each piece for a paragraph of its own, so at the end there is one.
        data = self._becomes(text) if text and self._shown != [text] else self._completed(text)
        return data + self._status(Step(run_id=self._run_id, status=end.status, outcome=end, at=at), final=True)

    def _status(self, step: Step, *, final: bool = False, estimated_wait_s: float | None = None) -> bytes:
        version, about = self._tasks.version, self._tasks.about(step)
        if estimated_wait_s is not None:
            about = Metadata(run_id=step.run_id, position=about.position, estimated_wait_s=estimated_wait_s)
        update = StatusUpdate(
            kind="status-update" if version.has_kinds else UNSET,
            task_id=self._tasks.task_id,
            context_id=self._tasks.context_id,
            status=self._tasks.status(step),
            final=final if version.has_kinds else UNSET,
            metadata={"strandline": about},
        )
        return self._event("statusUpdate", update)

    def _artifact(self, text: str, *, append: bool) -> bytes:
        update = ArtifactUpdate(
            kind="artifact-update" if self._tasks.version.has_kinds else UNSET,
            task_id=self._tasks.task_id,
            context_id=self._tasks.context_id,
            artifact=self._tasks.artifact(self._run_id, text),
            append=append,
        )
        return self._event("artifactUpdate", update)

    def _event(self, name: Any, value: Task | StatusUpdate | ArtifactUpdate) -> bytes:
        return b"%b%b}\n\n" % (self._head, encode(self._tasks.version.sent(name, value)))
