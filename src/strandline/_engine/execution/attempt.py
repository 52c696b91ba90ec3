"""One executing attempt of a run: its messages, results and text so far, checkpointed and published as they come.

It also measures how long each tool and each model call took, and when a call's first piece came. The session agent
writes it on the agent loop and the runner reads it on the serving loop; every field is either set once or replaced
whole, so that the reader always sees a consistent value. Once it is frozen, code that still executes for the run cannot
change what is stored or published. Knows nothing of kinds of agents.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from strandline._agents.port import Finished, RunContext, RunStopped, Signal
from strandline._clock import Clock, is_over
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
from strandline._engine.execution.retry import Retries
from strandline._engine.loops import adopt_current_task
from strandline._engine.requests import client_options_in, without_client_options
from strandline._engine.streams import EventRecorder, truncate_arguments, truncate_message, truncate_result
from strandline._files.blocks import FILE, copied
from strandline._history import (
    UNKNOWN_WAITING,
    Progress,
    Waiting,
    as_read,
    blocks_of,
    effective_sender,
    prompt_message,
    sender_of,
    waiting_of,
    with_joined,
)
from strandline._history.waiting import MOST_READ, MOST_RUNS
from strandline._journal.port import Journal, WaitingQuery
from strandline._model import (
    Block,
    Claim,
    Input,
    JoinedInput,
    Message,
    RoundDone,
    RoundStarted,
    RunId,
    Sender,
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
        retries: Retries,
        files_root: str | None = None,
    ) -> None:
        run = claim.run
        self.claim = claim
        self.context = RunContext(
            run_id=run.run_id,
            session_id=run.key.session_id,
            principal=run.key.principal,
            attempt=run.attempt,
            metadata=without_client_options(run.metadata),
            client=client_options_in(run.metadata),
            workspace=workspace,
            sender=run.sender,
            files_root=files_root,
        )
        self.progress = progress
        self.messages: list[Message] = list(progress.messages_to_resume())
        self.results: dict[str, ToolResult] = dict(progress.results)
        self.signal = signal
        self.phase = "model"
        self.last_progress = clock.monotonic()
        self.stopping = False
        """Whether the run is to end: no further tool is started."""
        self.begun = progress.begun
        """Whether tools may have run; False for an answer whose round has not begun again."""
        self.repeated: Sequence[JoinedInput] = ()
        """Runs that joined and are said again by the run that replaces this one: they end with it, heard or not."""
        self.joined = progress.joined
        """The runs that joined and whose messages are among those that it has `closed`."""
        self._steered: list[tuple[Message, tuple[RunId, ...]]] = []
        """Messages that have what runs say that joined, each as soon as it is among `messages`."""
        self.sender_template: str | None = None
        self.has_joins = False
        """Whether more runs wait to join."""
        self._on_joins: Callable[[], object] | None = None
        self._not_done = frozenset(progress.not_done)
        """Tools that do nothing until their round begins again."""
        self._frozen = False
        self._partial: list[str] = []
        self._checkpointed = len(progress.messages)
        self._journal = journal
        self._clock = clock
        self._recorder = recorder
        self._retries = retries
        self._tools: dict[str, tuple[str, float]] = {}
        """The name of each executing tool, and since when."""
        self._called_at: float | None = None
        """When the current model call began."""
        self._first_s: float | None = None
        """How many seconds later its first piece came."""

    @property
    def prompt(self) -> Input | None:
        """The run's input, unless an earlier attempt has sent it; or the answers, while the agent needs them."""
        is_needed = self.progress.takes_answers or not self.progress.messages
        return self.claim.run.input if is_needed else None

    def note_joins(self) -> None:
        """Note that a run waits to join; called on the serving loop."""
        self.has_joins = True
        if self._on_joins is not None:
            self._on_joins()

    def forward_joins(self, on_joins: Callable[[], object]) -> None:
        """Call `on_joins` when a run waits to join, or now if one does."""
        self._on_joins = on_joins
        if self.has_joins:
            on_joins()

    async def take_joins(self) -> list[Block]:
        """Have the runs join that wait for that: checkpoint it, and add what they say to the last message."""
        if self._frozen or self.stopping or not self.messages or self.messages[-1]["role"] != "user":
            return []
        self.has_joins = False  # before the journal is asked: one that comes from now on sets it again
        fresh, self._checkpointed, checkpointed = self._normalized(), len(self.messages), self._checkpointed
        try:
            joined = await self._journal.apply_joins(self.claim.token, fresh, self._as_read)
        except JournalUnavailable as error:
            _log.warning("runs that join %s wait for its next model call: %s", self.context.run_id, error)
            self._checkpointed, self.has_joins = checkpointed, True
            return []
        if not joined:
            self._checkpointed = checkpointed
            return []
        said, last = blocks_of(joined), self.messages[-1]
        runs = (*self._joined_in([last]), *(run.run_id for run in joined))
        (steered,) = with_joined([last], joined)
        self.begun, self.results = True, {}
        self._steered.append((steered, runs))  # before it is there: the run's end has both, or neither
        self.messages[-1] = steered
        if self._is_frozen():
            return []  # (if the end lacks them, they become the next runs)
        self._recorder.record_joins(joined, self._is_frozen)
        self.touch()
        await self.copy_files(said)
        return said

    async def read_waiting(self, messages: int) -> Waiting:
        """Return what waits in the session at this moment, as stored; not known once the run has ended."""
        if self._frozen:
            return UNKNOWN_WAITING
        query = WaitingQuery(self.claim.run.key, runs=MOST_RUNS, inputs=messages, most_bytes=MOST_READ)
        try:
            found = await self._journal.read(query)
        except JournalUnavailable as error:
            _log.warning("run %s cannot know what waits: %s", self.context.run_id, error)
            return UNKNOWN_WAITING
        return waiting_of(found.count, found.runs, found.inputs, self.context.principal)

    def _as_read(self, given: Input, sender: Sender | None) -> Input:
        return as_read(given, effective_sender(sender, self.context.principal), self.sender_template)

    def _is_frozen(self) -> bool:
        return self._frozen

    def _joined_in(self, messages: Sequence[Message]) -> tuple[RunId, ...]:
        """Return the runs that have joined in this attempt and whose messages are among these."""
        if not self._steered:
            return ()
        return tuple(
            run for steered, runs in self._steered if any(each is steered for each in messages) for run in runs
        )

    def add(self, message: Message) -> None:
        """Add a message that joined the conversation."""
        if not self._frozen:
            self.messages.append(message)
            self._partial = []
            self._recorder.record(self._added(message))
            self.touch()

    def _added(self, message: Message) -> MessageAdded:
        sender = sender_of(message, self.context.principal)
        return MessageAdded(*truncate_message(message, self._recorder.cut), UNSET if sender is None else sender)

    def amend(self, index: int, content: list[Block]) -> None:
        """Replace the content of a message."""
        if not self._frozen:
            self.messages[index]["content"] = content

    def add_text(self, delta: str) -> None:
        """Add a piece of text."""
        if not self._frozen:
            self._partial.append(delta)
            self._record_piece(TextDelta(delta))
        self.last_progress = self._clock.monotonic()

    def add_reasoning(self, delta: str) -> None:
        """Add a piece of reasoning: published now, and part of the message that follows."""
        if not self._frozen:
            self._record_piece(ReasoningDelta(delta))
        self.touch()

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Add the usage of one model call."""
        if not self._frozen:
            called_at, self._called_at = self._called_at, None
            model_s = None if called_at is None else self._clock.monotonic() - called_at
            self._recorder.record(Usage(tokens, _rounded(model_s), _rounded(self._first_s)))

    def begin_model(self) -> None:
        """Note that a model call starts (again): the partial text is void."""
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
        """Note what the run does now, and that the calling task works for it.

        Every tool, model call and node passes here before it starts. Raises `RunStopped` if this server may have lost
        the run to another one, which it does not know before its next commit if it was frozen.
        """
        if is_over(self._journal.owned_until(), self._clock):
            raise RunStopped
        self.phase = phase
        adopt_current_task()
        self.touch()

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Note that a tool starts, in the task that executes it; one that a hook starts again is published once."""
        self.enter(f"tool {name}")
        if not self._frozen and tool_use_id not in self._tools:
            self._tools[tool_use_id] = (name, self._clock.monotonic())
            self._recorder.record(ToolStarted(tool_use_id, name, *truncate_arguments(given, self._recorder.cut)))

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Publish that a tool has ended."""
        if self._frozen:
            return
        result = normalize_result(result, tool_use_id)
        name, started = self._tools.pop(tool_use_id, ("", None))
        duration_s = None if started is None else self._clock.monotonic() - started
        shown, cut = truncate_result(result, self._recorder.cut)
        status = str(result["status"])
        self._recorder.record(ToolFinished(tool_use_id, name, status, _rounded(duration_s), shown, cut))

    async def copy_files(self, given: Input) -> None:
        """Copy the files that an input names into the workspace, for tools. What cannot be copied is logged."""
        root, named = self.context.files_root, [] if isinstance(given, str) else [b for b in given if FILE in b]
        if root is None or not named:
            return
        copies = await asyncio.to_thread(copied, root, self.claim.run.key, self.context.workspace, named)
        self.context = replace(self.context, files={**(self.context.files or {}), **copies})

    def touch(self) -> None:
        """Note progress."""
        self.last_progress = self._clock.monotonic()

    async def begin_round(self) -> None:
        """Checkpoint the round; from here on its tools may have run. Raises `RunStopped` while the run is being
        stopped.

        A round that an earlier attempt has checkpointed stays as it is, with its known results; so does the round of a
        question that is answered, or one with a tool that had done nothing: it begins again here. A full journal is
        tried again until it has room, or the run is to end.
        """

        async def begin() -> None:
            if self.stopping or self._frozen:
                raise RunStopped
            checkpointed, results, begun, not_done = self._checkpointed, self.results, self.begun, self._not_done
            if not (fresh := self._fresh()) and begun and not not_done:
                return
            self.results = {} if fresh else {each: done for each, done in results.items() if each not in not_done}
            self.begun, self._not_done = True, frozenset()
            try:
                await self._journal.checkpoint(self.claim.token, RoundStarted(fresh))
            except JournalUnavailable:
                self._checkpointed, self.results, self.begun, self._not_done = checkpointed, results, begun, not_done
                self.enter("waiting for the journal")
                raise

        await self._retries.until_stored(begin, "run %s waits before its tools", self.context.run_id)

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Checkpoint one result."""
        if self._frozen:
            return
        result = normalize_result(result, tool_use_id)
        self.results = {**self.results, tool_use_id: result}
        self.publish_tool_end(tool_use_id, result)
        self.touch()
        await self._journal.checkpoint(self.claim.token, ToolDone(tool_use_id, result))

    async def end_round(self, state: StateRecord | None) -> None:
        """Checkpoint the end of the round."""
        if self._frozen:
            return
        self.phase = "model"
        await self._journal.checkpoint(self.claim.token, RoundDone(self._fresh(), state))

    def freeze(self) -> None:
        """Ignore further reports: the run is about to be finished."""
        self._frozen = True

    def checkpoint(self) -> Progress:
        """Return what the journal has of the run, as a later attempt would find it."""
        return Progress(
            messages=self.messages[: self._checkpointed],
            results=self.results,
            question_state=self.progress.question_state,
            begun=self.begun,
            joined=(*self.progress.joined, *self._joined_in(self.messages)),
        )

    def so_far(self) -> list[Message]:
        """Return the run's messages for `close`: its prompt first, partial text last."""
        messages = list(self.messages)
        if self.progress.question_state is None and (not messages or messages[0]["role"] != "user"):
            messages.insert(0, prompt_message(self.claim.run.input, self.claim.run.sender))
        if text := "".join(self._partial):
            messages.append({"role": "assistant", "content": [{"text": text}]})
        return messages

    def closed(self, finished: Finished) -> tuple[list[Message], bool]:
        """Return the messages that the run leaves in history, and whether its agent has exactly these; `joined` are
        then the runs whose messages are among them.

        They are closed once: by an agent that must know its closed messages, or here.
        """
        so_far, answers = self.so_far(), self.progress.question_state is not None
        known = so_far[1:] if answers else so_far
        heard = (*self.progress.joined, *self._joined_in(so_far))
        self.joined = heard
        if self.repeated and (unheard := [each for each in self.repeated if each.run_id not in heard]):
            self.joined = (*heard, *(each.run_id for each in unheard))
            so_far = with_joined(so_far, unheard)
        elif finished.closed and len(so_far) == len(self.messages):
            return known, True
        left = closed(self.claim, so_far, self.results, finished.ending, begun=self.begun)
        return left, left == known

    def _fresh(self) -> list[Message]:
        """Return the messages that have no checkpoint yet, in the form in which they are read back."""
        fresh = self._normalized()
        self._checkpointed = len(self.messages)
        return fresh

    def _normalized(self) -> list[Message]:
        return [normalize_message(message) for message in self.messages[self._checkpointed :]]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
