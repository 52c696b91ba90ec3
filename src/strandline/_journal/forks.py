"""What a forked session begins with, as stored: the rows of another one up to a place, and what belongs to them.

A copy has the rows as they are, with the same indices: whatever is before the place in storage, also what is discarded
or superseded. So a window is the same one there. Decides only whether a place can end a history.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from msgspec import Struct

from strandline._encoding import decoder, encode_messages
from strandline._history import dismissed, open_tool_uses
from strandline._journal import checksums, reader
from strandline._journal.changes import SessionRef
from strandline._journal.database import Database
from strandline._journal.defaults import options_of
from strandline._journal.files import named_files
from strandline._journal.port import AgentState, Unreachable
from strandline._journal.records import ForkRecord, ForkSource, RunLocation, Turn
from strandline._journal.rules import Branch
from strandline._journal.state import SessionState
from strandline._lifecycle import ENDED
from strandline._model import NO_AGENT, WHOLE_HISTORY, ForkedFrom, Message, RunId, SessionId, SessionKey

SIZE: Final = f"{reader.CHAIN} SELECT coalesce(sum(length(messages)), 0) FROM chain CROSS JOIN history USING (no)"
"""How many bytes the messages of a history are, up to a row."""
FORK: Final = "SELECT record FROM forks WHERE session = ?"
_LIVE: Final = "SELECT status FROM runs WHERE seq = ?"
_AGENT: Final = 'SELECT "window", state FROM agents_after WHERE session = ? AND run = ?'
_AGENT_NOW: Final = 'SELECT "window", state FROM agents WHERE session = ?'


class _Record(Struct, frozen=True, omit_defaults=True):
    """A fork, as stored."""

    session_id: SessionId
    messages: int
    run_id: RunId | None = None
    forgotten: bool = False
    key: str | None = None
    fingerprint: bytes = b""


_decoded: Final[Callable[[bytes], _Record]] = decoder(_Record)


def stored_fork(record: ForkRecord) -> bytes:
    """Return the record of a fork, as it is stored without its checksum."""
    origin = record.origin
    return encode_messages(
        _Record(origin.session_id, record.messages, origin.run_id, record.forgotten, record.named, record.fingerprint)
    )


def decoded_fork(session: SessionRef, stored: bytes) -> ForkRecord:
    """Return a stored record of a fork. Raises `RecordDamaged`."""
    what = f"the record of where session {session.key.session_id} was copied from"
    found = checksums.read_checked(_decoded, stored, what, checksums.fork_owner(session.crc), is_new=True)
    origin = ForkedFrom(session_id=found.session_id, run_id=found.run_id)
    return ForkRecord(origin, found.messages, found.forgotten, found.key, found.fingerprint)


def fork_of(connection: Database, session: SessionRef) -> ForkRecord | None:
    """Return where a session was copied from; None if it was not."""
    row = connection.execute(FORK, (session.no,)).fetchone()
    return None if row is None else decoded_fork(session, row[0])


class Turns(Protocol):
    """Finds turns in histories."""

    def locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return where a run is; None if it is not stored."""
        ...

    def turn(self, session: SessionRef, last: int, seq: int) -> Turn | None:
        """Return what history has of an ended run, or of the one that it joined."""
        ...

    def copied_turn(self, session: SessionRef, last: int, run_id: RunId) -> Turn | None:
        """Return what the history of a copied session has of a run of its source."""
        ...

    def turn_with(self, session: SessionRef, last: int, index: int) -> Turn | None:
        """Return the turn that has a message."""
        ...


class _End(NamedTuple):
    """A place where a copy can end: after a row, its number in the session, and `length` messages."""

    row: int | None
    nth: int
    length: int
    agent: int | None
    next_run: RunId | None = None
    """The next run that left messages, if it is kept."""


def source_of(
    turns: Turns, connection: Database, key: SessionKey, after: RunId | int | None
) -> ForkSource | Unreachable | None:
    """Return what to copy of a session up to a place, or why nothing ends there; None if there is no session."""
    session = reader.find_session(connection, key)
    if session is None:
        return None
    end = _end(turns, connection, session, after)
    if isinstance(end, Unreachable):
        return end
    run_id, closing = _said_last(connection, session, end)
    if closing is None:
        return Unreachable("answered", end.next_run)
    branches = [Branch(*row) for row in connection.execute(reader.BRANCHES, (session.no,)).fetchall()]
    if after is not None:  # (else the last one may have no message yet)
        branches = [each for each in branches if each.start < end.length]
    (size,) = (0,) if end.row is None else connection.execute(SIZE, (end.row, session.no, -1)).fetchone()
    agent = _agent(connection, session, end.agent)
    return ForkSource(
        session.ref,
        end.row,
        end.nth,
        end.length,
        size,
        branches,
        closing,
        None if agent is None else end.agent,
        None if agent is None or agent.window == WHOLE_HISTORY else agent.window,
        None if agent is None else agent.state,
        options_of(session.ref, session.options),
        run_id,
        named_files(connection, session.ref),
    )


def _end(turns: Turns, connection: Database, session: SessionState, after: RunId | int | None) -> _End | Unreachable:
    """Return the end of a copy of a session."""
    last, turn = session.end, None
    if after is None:
        return _End(last.row, last.nth, last.length, last.agent)
    if last.row is not None and isinstance(after, int):
        turn = turns.turn_with(session.ref, last.row, after)
    elif last.row is not None and not isinstance(after, int):
        located = turns.locate_run(after)
        if located is None or located.key != session.key:
            turn = turns.copied_turn(session.ref, last.row, after)
        elif _is_live(connection, located.seq):
            return Unreachable("not_ended")
        else:
            turn = turns.turn(session.ref, last.row, located.seq)
    elif not isinstance(after, int):
        located = turns.locate_run(after)
        if located is not None and located.key == session.key:
            return Unreachable("not_ended")
    if turn is None:
        return Unreachable("unknown")
    if turn.discarded:
        return Unreachable("discarded")
    if turn.first == turn.end:
        return Unreachable("left_nothing")
    return _End(turn.last, turn.nth, turn.end + turn.closing, turn.agent, turn.next_run)


def _is_live(connection: Database, seq: int) -> bool:
    row = connection.execute(_LIVE, (seq,)).fetchone()
    return row is not None and row[0] not in ENDED


def _said_last(connection: Database, session: SessionState, end: _End) -> tuple[RunId | None, list[Message] | None]:
    """Return the run of the last message before a place, if it is kept, and what closes the round that is open there;
    None if another run continues that round."""
    if not end.length:
        return None, []
    ((run_id, message),) = list(reader.messages_of_runs(connection, session, end.length - 1, end.length))
    if not open_tool_uses([message]):
        return run_id, []
    open_round = session.round
    if open_round is None or end.length != session.end.length:
        return run_id, None
    return run_id, dismissed(reader.question_of(connection, session.ref, open_round.run, open_round.until))


def _agent(connection: Database, session: SessionState, agent: int | None) -> AgentState | None:
    """Return window and state as they were after a run changed them; None if that is not kept."""
    if agent is None:
        return None
    if agent == session.end.agent:
        row: Any = connection.execute(_AGENT_NOW, (session.no,)).fetchone()
        return reader.decoded_state(session.ref, *(row or (None, None)))
    if agent == NO_AGENT:
        return AgentState(WHOLE_HISTORY, None)
    row = connection.execute(_AGENT, (session.no, agent)).fetchone()
    return None if row is None else reader.decoded_state(session.ref, *row)
