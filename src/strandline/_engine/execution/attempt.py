"""One attempt of one run while it executes: what it has done, said and checkpointed so far, published as it goes on.

What a run takes apart is measured here: how long a tool and a call of the model took, and when the first piece came.
Written on the agent loop by the session agent, read on the serving loop by the runner; every field is either set
once or replaced whole, so that the reader sees a consistent value at any time. Once it is frozen nothing that still
works for the run can change what is told of it. Knows nothing of kinds of agents.
"""

import asyncio
import logging

from strandline._agents.port import Finished, RunContext, RunStopped, Signal
from strandline._clock import Clock
from strandline._engine.events import (
    MessageAdded,
    ReasoningDelta,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
    Usage,
)
from strandline._engine.execution.completion import closed
from strandline._engine.execution.retry import RETRY_S
from strandline._engine.loops import adopt_current_task
from strandline._engine.streams import EventRecorder, truncate_arguments, truncate_message, truncate_result
from strandline._history import Progress, prompt_message
from strandline._journal.port import Journal
from strandline._model import (
    Block,
    Claim,
    Input,
    Message,
    RoundDone,
    RoundStarted,
    StateRecord,
    ToolDone,
    ToolResult,
)
from strandline._normalize import normalize_message, normalize_result
from strandline.errors import JournalUnavailable

_log = logging.getLogger("strandline.runner")


class LiveAttempt:
    """The engine's side of `strandline._agents.port.Attempt`."""

    def __init__(
        self,
        claim: Claim,
        progress: Progress,
        journal: Journal,
        signal: Signal,
        workspace: str,
        clock: Clock,
        recorder: EventRecorder,
    ) -> None:
        run = claim.run
        self.claim = claim
        self.context = RunContext(
            run_id=run.run_id,
            session_id=run.key.session_id,
            principal=run.key.principal,
            attempt=run.attempt,
            metadata=run.metadata,
            workspace=workspace,
        )
        self.progress = progress
        self.messages: list[Message] = list(progress.messages_to_resume())
        self.results: dict[str, ToolResult] = dict(progress.results)
        self.signal = signal
        self.phase = "model"
        self.last_progress = clock.monotonic()
        self.stopping = False
        """Whether the run was asked to end: no further tool is started."""
        self.begun = progress.begun
        """Whether tools may have run; False for an answer whose round has not begun again."""
        self._frozen = False
        self._partial: list[str] = []
        self._checkpointed = len(progress.messages)
        self._journal = journal
        self._clock = clock
        self._recorder = recorder
        self._tools: dict[str, tuple[str, float]] = {}
        """The name of each tool that works, and since when."""
        self._called_at: float | None = None
        """When the call of the model began whose end is to come."""
        self._first_s: float | None = None
        """How many seconds after that its first piece came."""

    @property
    def prompt(self) -> Input | None:
        """The question, unless an earlier attempt has asked it; or the answers to one, as long as they are wanted."""
        is_asked = self.progress.takes_answers or not self.progress.messages
        return self.claim.run.input if is_asked else None

    def add(self, message: Message) -> None:
        """Take a message that joined the conversation."""
        if not self._frozen:
            self.messages.append(message)
            self._partial = []
            self._recorder.record(MessageAdded(*truncate_message(message, self._recorder.cut)))
            self.touch()

    def amend(self, index: int, content: list[Block]) -> None:
        """Take another content of a message."""
        if not self._frozen:
            self.messages[index]["content"] = content

    def add_text(self, delta: str) -> None:
        """Take a piece of text."""
        if not self._frozen:
            self._partial.append(delta)
            self._record_piece(TextDelta(delta))
        self.last_progress = self._clock.monotonic()

    def add_reasoning(self, delta: str) -> None:
        """Take a piece of reasoning: told to whoever listens, and part of the message that comes."""
        if not self._frozen:
            self._record_piece(ReasoningDelta(delta))
        self.touch()

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Take what one call of the model has used."""
        if not self._frozen:
            called_at, self._called_at = self._called_at, None
            model_s = None if called_at is None else self._clock.monotonic() - called_at
            self._recorder.record(Usage(tokens, _rounded(model_s), _rounded(self._first_s)))

    def begin_model(self) -> None:
        """Note that a call of the model starts (again): the partial text counts no more."""
        self.reset_text()
        self.enter("model")
        self._called_at = self._clock.monotonic()
        self._first_s = None

    def _record_piece(self, piece: TextDelta | ReasoningDelta) -> None:
        if self._first_s is None and self._called_at is not None:
            self._first_s = self._clock.monotonic() - self._called_at
        self._recorder.record(piece)

    def reset_text(self) -> None:
        """Forget the partial text."""
        if self._partial and not self._frozen:
            self._recorder.record(TextReset())
            self._partial = []

    def enter(self, phase: str) -> None:
        """Note what the run does now, and that the task which says so works for it."""
        self.phase = phase
        adopt_current_task()
        self.touch()

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Note that a tool starts, in the task that executes it; one that a hook has start again is told once."""
        self.enter(f"tool {name}")
        if not self._frozen and tool_use_id not in self._tools:
            self._tools[tool_use_id] = (name, self._clock.monotonic())
            self._recorder.record(ToolStarted(tool_use_id, name, *truncate_arguments(given, self._recorder.cut)))

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Have whoever listens told that a tool has ended."""
        if self._frozen:
            return
        result = normalize_result(result, tool_use_id)
        name, started = self._tools.pop(tool_use_id, ("", None))
        duration_s = None if started is None else self._clock.monotonic() - started
        kept, cut = truncate_result(result, self._recorder.cut)
        status = str(result["status"])
        self._recorder.record(ToolFinished(tool_use_id, name, status, _rounded(duration_s), kept, cut))

    def touch(self) -> None:
        """Note that something went on."""
        self.last_progress = self._clock.monotonic()

    async def begin_round(self) -> None:
        """Stage the round; from here on its tools may have run. Raises `RunStopped` while the run is being stopped.

        A round that an earlier attempt has staged stays as it is, with the results known of it; so does the one of a
        question that is answered, which begins again here. A journal that has no
        room is asked again until it has, or the run is to end.
        """
        while not (self.stopping or self._frozen):
            kept, results, begun = self._checkpointed, self.results, self.begun
            if not (fresh := self._fresh()) and begun:
                return None
            if fresh:
                self.results = {}
            self.begun = True
            try:
                return await self._journal.checkpoint(self.claim.token, RoundStarted(fresh))
            except JournalUnavailable as error:
                _log.error("run %s waits before its tools: %s", self.context.run_id, error)
            self._checkpointed, self.results, self.begun = kept, results, begun
            self.enter("waiting for the journal")
            await asyncio.sleep(RETRY_S)
        raise RunStopped

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Stage one result."""
        if self._frozen:
            return
        result = normalize_result(result, tool_use_id)
        self.results = {**self.results, tool_use_id: result}
        self.publish_tool_end(tool_use_id, result)
        self.touch()
        await self._journal.checkpoint(self.claim.token, ToolDone(tool_use_id, result))

    async def end_round(self, state: StateRecord | None) -> None:
        """Stage the end of the round."""
        if self._frozen:
            return
        self.phase = "model"
        await self._journal.checkpoint(self.claim.token, RoundDone(self._fresh(), state))

    def freeze(self) -> None:
        """Take no further report: the run is about to be finished."""
        self._frozen = True

    def checkpoint(self) -> Progress:
        """Return what the journal has of the run, as a later attempt would find it."""
        return Progress(
            messages=self.messages[: self._checkpointed],
            results=self.results,
            question_state=self.progress.question_state,
            begun=self.begun,
        )

    def so_far(self) -> list[Message]:
        """Return the run's messages, its question first, partial text last: what `close` takes."""
        messages = list(self.messages)
        if self.progress.question_state is None and (not messages or messages[0]["role"] != "user"):
            messages.insert(0, prompt_message(self.claim.run.input))
        if text := "".join(self._partial):
            messages.append({"role": "assistant", "content": [{"text": text}]})
        return messages

    def closed(self, finished: Finished) -> tuple[list[Message], bool]:
        """Return the messages that the run leaves in history, and whether they are those that its agent knows.

        They are closed once: by an agent that has to know what is made of its own, or here.
        """
        so_far, answers = self.so_far(), self.progress.question_state is not None
        known = so_far[1:] if answers else so_far
        if finished.closed and len(so_far) == len(self.messages):
            return known, True
        left = closed(self.claim, so_far, self.results, finished.ending, begun=self.begun)
        return left, left == known

    def _fresh(self) -> list[Message]:
        """Return the messages that are not staged yet, in the form that they are read back in."""
        fresh = [normalize_message(message) for message in self.messages[self._checkpointed :]]
        self._checkpointed = len(self.messages)
        return fresh


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
