"""The contents of a session's files: the records of Strands' `FileSessionManager` (strands-agents 1.62.0). Pure.

`session.json` has one more key, which Strands ignores: the mark, which says how far into the journal's history the
files go. It is written last, so that it is true.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from strandline._encoding import decoder, encode_messages
from strandline._journal.port import AgentState
from strandline._model import Message, Principal, Range, SessionId, SessionKey

AGENT: Final = "agents/agent_default"
"""The folder of the agent: `default` is the id of an agent without one."""
SESSION_FILE: Final = "session.json"
AGENT_FILE: Final = f"{AGENT}/agent.json"
_MANAGER: Final = {"__name__": "SlidingWindowConversationManager", "removed_message_count": 0, "model_call_count": 0}
"""The default conversation manager of Strands."""
_NO_INTERRUPTS: Final = {"interrupts": {}, "context": {}, "activated": False}


class Mark(Struct, frozen=True, kw_only=True):
    """How far the files go: to message `length` of history, without the ranges in `left_out`.

    `last` is the digest of the last message before `length`, even if it is left out. `branch` is the message with which
    the last branch of history began: with another one, other messages are left out.
    """

    principal: Principal
    session_id: SessionId
    length: int = 0
    left_out: list[tuple[int, int]] = []
    last: str = ""
    branch: int | None = None

    @property
    def key(self) -> SessionKey:
        """The key of the session."""
        return SessionKey(self.principal, self.session_id)

    def files_before(self, index: int) -> int:
        """Return how many messages before `index` have a file."""
        return index - sum(min(end, index) - min(start, index) for start, end in self.left_out)


class SessionFile(Struct, frozen=True, kw_only=True):
    """The keys of `session.json` that are read. Without a mark it was not written by Strandline."""

    created_at: str = ""
    strandline: Mark | None = None


_session_file: Final[Callable[[bytes], SessionFile]] = decoder(SessionFile)


def read_session_file(data: bytes) -> SessionFile:
    """Decode a `session.json`; one that Strandline did not write has no mark."""
    try:
        return _session_file(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return SessionFile()


def time_of(at: float) -> str:
    """Return a time (seconds since the epoch) as Strands writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def message_file(number: int) -> str:
    """Return the name of a message's file."""
    return f"{AGENT}/messages/message_{number}.json"


def session_record(name: str, mark: Mark, created_at: str, now: str) -> bytes:
    """Return the content of `session.json`."""
    return _written(
        {"session_id": name, "session_type": "AGENT", "created_at": created_at, "updated_at": now, "strandline": mark}
    )


def agent_record(agent_state: AgentState, mark: Mark, created_at: str, now: str) -> bytes:
    """Return the content of `agent.json`."""
    state = agent_state.state or {}
    manager = {**(state.get("conversation_manager_state") or _MANAGER)}
    manager["removed_message_count"] = _removed(agent_state, mark)
    return _written(
        {
            "agent_id": "default",
            "state": state.get("state") or {},
            "conversation_manager_state": manager,
            "_internal_state": {"interrupt_state": _NO_INTERRUPTS, "model_state": state.get("model_state") or {}},
            "created_at": created_at,
            "updated_at": now,
        }
    )


def message_record(message: Message, number: int, now: str) -> bytes:
    """Return the content of a message's file."""
    return _written(
        {"message": message, "message_id": number, "redact_message": None, "created_at": now, "updated_at": now}
    )


def digest(message: Message) -> str:
    """Return the digest of a message."""
    return hashlib.sha256(encode_messages(message)).hexdigest()


def with_left_out(spans: Sequence[tuple[int, int]], index: int) -> list[tuple[int, int]]:
    """Return the spans with message `index` added, which comes after all of them."""
    if spans and spans[-1][1] == index:
        return [*spans[:-1], (spans[-1][0], index + 1)]
    return [*spans, (index, index + 1)]


def _removed(agent_state: AgentState, mark: Mark) -> int:
    """Return how many of the messages with files come before the agent's window."""
    ends = agent_state.window[-1:]
    match ends:
        case (Range(start, None),):
            return mark.files_before(min(start, mark.length))
        case _:  # its last message was rewritten and is in no file; keep all rather than too few
            return 0


def _written(record: dict[str, Any]) -> bytes:
    return msgspec.json.format(encode_messages(record), indent=2)
