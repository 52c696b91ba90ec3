"""One attempt of one run while it executes: what it has done, said and staged so far.

Written on the agent loop by the session agent, read on the serving loop by the runner; every field is either set
once or replaced whole, so that the reader sees a consistent value at any time. Knows nothing of kinds of agents.
"""

from strandline.agents.port import RunContext, RunStopped, Signal
from strandline.clock import Clock
from strandline.form import formed, formed_result
from strandline.history import Progress, question
from strandline.journal.port import Journal
from strandline.model import (
    Claim,
    Input,
    Message,
    RoundDone,
    RoundStarted,
    StateRecord,
    ToolDone,
    ToolResult,
)


class LiveAttempt:
    """The engine's side of `strandline.agents.port.Attempt`."""

    def __init__(
        self, claim: Claim, progress: Progress, journal: Journal, signal: Signal, workspace: str, clock: Clock
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
        self.messages: list[Message] = list(progress.to_go_on())
        self.results: dict[str, ToolResult] = dict(progress.results)
        self.signal = signal
        self.phase = "model"
        self.last_progress = clock.monotonic()
        self.stopping = False
        self._partial: list[str] = []
        self._staged = len(progress.messages)
        self._journal = journal
        self._clock = clock

    @property
    def prompt(self) -> Input | None:
        """The question, unless an earlier attempt has asked it."""
        return None if self.progress.messages else self.claim.run.input

    def add(self, message: Message) -> None:
        """Take a message that joined the conversation."""
        self.messages.append(message)
        self._partial = []
        self.last_progress = self._clock.monotonic()

    def add_text(self, delta: str) -> None:
        """Take a piece of text."""
        self._partial.append(delta)
        self.last_progress = self._clock.monotonic()

    def reset_text(self) -> None:
        """Forget the partial text."""
        self._partial = []

    def enter(self, phase: str) -> None:
        """Note what the run does now."""
        self.phase = phase
        self.last_progress = self._clock.monotonic()

    def touch(self) -> None:
        """Note that something went on."""
        self.last_progress = self._clock.monotonic()

    async def begin_round(self) -> None:
        """Stage the round; from here on its tools may have run. Raises `RunStopped` while the run is being stopped.

        A round that an earlier attempt has staged stays as it is, with the results known of it.
        """
        if self.stopping:
            raise RunStopped
        if fresh := self._fresh():
            self.results = {}
            await self._journal.stage(self.claim.token, RoundStarted(fresh))

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Stage one result."""
        result = formed_result(result, tool_use_id)
        self.results = {**self.results, tool_use_id: result}
        self.last_progress = self._clock.monotonic()
        await self._journal.stage(self.claim.token, ToolDone(tool_use_id, result))

    async def end_round(self, state: StateRecord | None) -> None:
        """Stage the end of the round."""
        self.phase = "model"
        await self._journal.stage(self.claim.token, RoundDone(self._fresh(), state))

    def _fresh(self) -> list[Message]:
        """Return the messages that are not staged yet, in the form that they are read back in."""
        fresh = [formed(message) for message in self.messages[self._staged :]]
        self._staged = len(self.messages)
        return fresh

    def tool_in_the_middle(self) -> bool:
        """Tell whether something may have been done that is not staged: an open tool, or an opaque run."""
        if self.claim.run.opaque:
            return True
        staged = Progress(messages=self.messages[: self._staged], results=self.results)
        return bool(staged.open_tools())

    def so_far(self) -> list[Message]:
        """Return the run's messages, its question first, partial text last: what `close` takes."""
        messages = list(self.messages)
        if not messages or messages[0]["role"] != "user":
            messages.insert(0, question(self.claim.run.input))
        if text := "".join(self._partial):
            messages.append({"role": "assistant", "content": [{"text": text}]})
        return messages
