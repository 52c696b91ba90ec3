"""Plain async functions and generators `f(message, session)`, for every other framework.

The function returns or yields text. Prompt and answer become two messages. Its tools are invisible, so its runs are not
resumable: after a crash each counts as if a tool had been executing.
"""

import copy
import inspect
import sys
import zlib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec

from strandline._agents.abnormal_exit import watch_exits
from strandline._agents.files import files_of
from strandline._agents.port import Attempt, Finished, RunContext, SessionAgent, unusable_options
from strandline._agents.waiting import live_waiting
from strandline._encoding import decoder, encode_messages
from strandline._history import Progress, answer_text, prompt_message
from strandline._model import (
    AgentRecord,
    Message,
    Principal,
    RunId,
    Sender,
    SessionId,
    SessionKey,
    StateRecord,
    Succeeded,
)
from strandline.errors import AgentFailed

PACK_LEVEL = 1
_messages = decoder(list[Message])


class Session:
    """The session of a served function: `async def answer(message: str, session: strandline.Session) -> str`."""

    def __init__(self, context: RunContext, messages: list[Message], state: dict[str, Any]) -> None:
        self.id: SessionId = context.session_id
        self.principal: Principal = context.principal
        """The caller: the name of its key, or `anonymous`. The same id of another caller is another session."""
        self.run_id: RunId = context.run_id
        self.workspace: str = context.workspace
        self.sender: Sender | None = context.said_by
        """Who sent the message: the name of the caller's key, unless the request names a sender."""
        self.context = context
        self.waiting: dict[str, Any] | None = None
        """What waits in the session, as in `invocation_state` of Strands agents: `count` and `senders`; None unless the
        setting `tell_waiting` is on."""
        self.state = state
        """A dict of JSON values, stored if the run succeeds; otherwise it stays as it was before."""
        self._messages = messages

    @property
    def messages(self) -> list[Message]:
        """A copy of the conversation before this run, oldest first."""
        return copy.deepcopy(self._messages)


class FunctionTarget:
    """An async function or async generator of a message and a `Session`."""

    resumable = False
    singleton = False
    self_managed = False

    def __init__(self, function: Callable[[str, Session], Any], *, description: str) -> None:
        self._function = function
        self.description = description

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Build an agent with the session's conversation and state."""
        return FunctionAgent(self._function, record)


def _guard_agents() -> None:
    """Guard Strands agents that the function may use, if Strands is imported."""
    if "strands" in sys.modules:
        from strandline._agents.rounds import guard_all

        guard_all()


class FunctionAgent:
    """The function with the conversation of one session."""

    def __init__(self, function: Callable[[str, Session], Any], record: AgentRecord) -> None:
        self._function = function
        self._messages = list(record.messages)
        self._state: StateRecord = record.state or {}
        self._encoded = msgspec.json.encode(self._state)
        self._packed: bytes | None = None

    async def run(self, attempt: Attempt) -> Finished:
        """Call the function and collect its answer."""
        prompt = attempt.prompt
        assert prompt is not None, "a run of a function never resumes"
        if (unusable := unusable_options(attempt.context, "a function")) is not None:
            return unusable
        if self._packed is not None:
            self._messages, self._packed = _messages(zlib.decompress(self._packed)), None
        question = prompt_message(prompt, attempt.context.sender)
        attempt.add(question)
        session = Session(attempt.context, self._messages, self._state)
        text = prompt if isinstance(prompt, str) else answer_text(question)
        with watch_exits(files_of(attempt.context)) as exits:
            if attempt.context.shows_waiting:
                exits.waiting = waiting = await live_waiting(attempt)
                session.waiting = waiting.shown
            _guard_agents()
            answer = await self._answer(attempt, self._function(text, session))
        reply: Message = {"role": "assistant", "content": [{"text": answer}]}
        if answer.strip():
            attempt.add(reply)
        self._messages += [question, reply] if answer.strip() else [question]
        ending = exits.ending(Succeeded())
        if not isinstance(ending, Succeeded):
            return Finished(ending=ending)
        return Finished(ending=ending, state=self._changed_state(session.state))

    def compact(self) -> None:
        """Compress the conversation."""
        if self._packed is None:
            self._messages, self._packed = [], zlib.compress(encode_messages(self._messages), PACK_LEVEL)

    async def _answer(self, attempt: Attempt, returned: Any) -> str:
        if inspect.isasyncgen(returned):
            pieces: list[str] = []
            async with aclosing(returned):
                async for piece in returned:
                    pieces.append(str(piece))
                    attempt.add_text(pieces[-1])
            return "".join(pieces)
        value = await returned
        return "" if value is None else str(value)

    def _changed_state(self, state: object) -> StateRecord | None:
        if not isinstance(state, dict):
            raise AgentFailed("session.state must stay a dict")
        try:
            encoded = msgspec.json.encode(state)
        except (TypeError, ValueError) as error:
            raise AgentFailed(f"session.state must hold JSON values only: {error}") from None
        if encoded != self._encoded and msgspec.json.decode(encoded) != state:
            raise AgentFailed(
                "session.state must hold JSON values only: a set, a tuple or NaN would come back as another"
            )
        self._state = state
        if encoded == self._encoded:
            return None
        self._encoded = encoded
        return state
