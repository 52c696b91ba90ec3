"""Imports conversations of Strands' `FileSessionManager` into a journal.

A session's folder is `session_ID/agents/agent_ID/{agent.json,messages/message_N.json}` (strands-agents 1.62.0). What
such a manager stores of a failed run may not be a conversation that a provider accepts: each run's messages are closed
like those of a run here, and every change is reported. A session is imported whole or not at all, and read back before
that is committed. `import_sessions` is for a file; `postgres/importing.py` does the same work on a database.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from msgspec import MsgspecError, Struct, field

from strandline._clock import Clock
from strandline._encoding import decoder, encode_messages
from strandline._history import EMPTY_MESSAGE, close
from strandline._journal import reader
from strandline._journal.changes import AddHistory, AddSession, Change, ChangeSession, SessionRef, StoreAgent
from strandline._journal.database import Database
from strandline._journal.driver import connect, create, tighten, unreadable
from strandline._journal.integrity import check_current, guard
from strandline._journal.ownership import Ownership, check_openable, explained, locate, prepare_folder
from strandline._journal.port import HistoryQuery
from strandline._journal.sqlite_rows import SqliteRows
from strandline._journal.transitions import NO_RUN
from strandline._model import (
    NO_AGENT,
    WHOLE_HISTORY,
    Inline,
    Message,
    Principal,
    Range,
    SessionKey,
    StateRecord,
    Succeeded,
    Window,
    session_id,
)
from strandline._normalize import as_text, holds, normalize_message
from strandline.errors import Invalid, JournalError, JournalLocked, RecordDamaged

T = TypeVar("T")

OWNER: Final = "strandline journal import"
SESSION: Final = "session_"
AGENT: Final = "agent_"
MESSAGE: Final = "message_"


class _AgentFile(Struct, frozen=True):
    state: dict[str, Any] = {}
    conversation_manager_state: dict[str, Any] = {}
    internal: dict[str, Any] = field(name="_internal_state", default_factory=dict)


class _MessageFile(Struct, frozen=True):
    message: dict[str, Any]
    redact_message: dict[str, Any] | None = None


_agent_file: Final[Callable[[bytes], _AgentFile]] = decoder(_AgentFile)
_message_file: Final[Callable[[bytes], _MessageFile]] = decoder(_MessageFile)


class Unusable(Exception):
    """Why one session cannot be imported."""


class Conversation(Struct, frozen=True, kw_only=True):
    """A session to import: the messages of each of its runs, window, state, and the repairs that it needed."""

    runs: list[list[Message]]
    window: Window | None
    state: StateRecord | None
    repairs: list[str]


class Imported(Struct, kw_only=True):
    """The result for one session: `imported`, `skipped` (it exists already) or `refused`, and why."""

    session_id: str
    result: str
    messages: int = 0
    repairs: list[str] = field(default_factory=list)
    reason: str = ""


# -- reading a folder -------------------------------------------------------------------------------------


def sessions_in(folder: Path) -> list[Path]:
    """Return the folders of sessions in `folder`, or that one itself. Raises `JournalError` if there are none."""
    if folder.name.startswith(SESSION) and (folder / "agents").is_dir():
        return [folder]
    with explained(f"The folder {folder} cannot be read", "Name another one."):
        found = sorted(each for each in folder.iterdir() if each.name.startswith(SESSION) and each.is_dir())
    if not found:
        raise JournalError(
            f"There are no sessions in {folder}. Name the folder that holds those of Strands' FileSessionManager"
            f" (`{SESSION}ID/`), or one of them."
        )
    return found


def read_session(folder: Path) -> Conversation:
    """Return the conversation in a session's folder. Raises `Unusable` with the reason."""
    try:
        agents = sorted(each for each in (folder / "agents").iterdir() if each.name.startswith(AGENT) and each.is_dir())
    except FileNotFoundError:
        agents = []
    except OSError as error:
        raise Unusable(f"{folder / 'agents'} cannot be read: {error.strerror}") from error
    if any((folder / "multi_agents").glob("*")):
        raise Unusable("it belongs to several agents (a Graph or Swarm); only single agents can be imported")
    if len(agents) != 1:
        names = ", ".join(each.name.removeprefix(AGENT) for each in agents)
        raise Unusable(
            f"it has {len(agents)} agents ({names}), but a session here has one: copy the folder and leave one agent in"
            " each copy"
            if agents
            else "it has no agent"
        )
    record = _read(agents[0] / "agent.json", _agent_file)
    messages, repairs = _messages(agents[0] / "messages")
    manager = record.conversation_manager_state
    interrupts = record.internal.get("interrupt_state")
    if isinstance(interrupts, dict) and interrupts.get("activated"):
        repairs.append("it waited for an answer to a question of its agent, which cannot be given any more")
    state: StateRecord = {"state": record.state}
    if manager:
        state["conversation_manager_state"] = manager
    if record.internal.get("model_state"):
        state["model_state"] = record.internal["model_state"]
    runs, starts = _closed(messages, repairs)
    return Conversation(runs=runs, window=_window(runs, starts, manager), state=state, repairs=repairs)


def _read(file: Path, decode: Callable[[bytes], T]) -> T:
    try:
        return decode(file.read_bytes())
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}") from error
    except (MsgspecError, ValueError, RecursionError) as error:
        raise Unusable(f"{file} is not what it should be: {error}") from error


def _messages(folder: Path) -> tuple[list[Message], list[str]]:
    """Return the messages in order, and a remark on missing ones."""
    numbers: dict[int, Path] = {}
    try:
        files = [each for each in folder.iterdir() if each.name.startswith(MESSAGE) and each.suffix == ".json"]
    except OSError as error:
        raise Unusable(f"{folder} cannot be read: {error.strerror}") from error
    for file in files:
        number = file.stem.removeprefix(MESSAGE)
        if not number.isdecimal() or str(int(number)) != number:
            raise Unusable(f"{file} has no number")
        numbers[int(number)] = file
    repairs = []
    if missing := list(_missing(sorted(numbers))):
        repairs.append(f"messages are missing in the folder: {', '.join(missing)}")
    messages = []
    for _, file in sorted(numbers.items()):
        record = _read(file, _message_file)
        messages.append(normalize_message(record.redact_message or record.message))
    return messages, repairs


def _missing(numbers: Sequence[int]) -> Iterator[str]:
    """Yield the gaps in rising numbers that begin at 0."""
    for before, number in pairwise([-1, *numbers]):
        if number - before == 2:
            yield str(before + 1)
        elif number - before > 2:
            yield f"{before + 1} to {number - 1}"


# -- closing what was left open ---------------------------------------------------------------------------


def _closed(messages: Sequence[Message], repairs: list[str]) -> tuple[list[list[Message]], list[int]]:
    """Return the messages of each run, closed, and the number of the first original message of each."""
    runs, starts = [], []
    for start, run in _by_run(messages):
        repaired = _without_stray_blocks(run, start, repairs)
        if repaired[0]["role"] != "user":
            repaired.insert(0, {"role": "user", "content": [{"text": EMPTY_MESSAGE}]})
            repairs.append(f"message {start} was the assistant's and answered nothing: a question was put before it")
        closed = close(repaired, {}, Succeeded())
        if closed != repaired:
            how = (
                "did not come to its end"
                if closed[: len(repaired)] == repaired
                else "is malformed or did not come to its end"
            )
            repairs.append(f"the run from message {start} on {how}: it was closed")
        runs.append(closed)
        starts.append(start)
    return runs, starts


def _by_run(messages: Sequence[Message]) -> Iterator[tuple[int, list[Message]]]:
    """Yield each prompt with all messages up to the next one, and its number."""
    start = 0
    for index, message in enumerate(messages):
        is_question = message["role"] == "user" and not any("toolResult" in block for block in message["content"])
        if is_question and index > start:
            yield start, list(messages[start:index])
            start = index
    if messages:
        yield start, list(messages[start:])


def _without_stray_blocks(run: Sequence[Message], start: int, repairs: list[str]) -> list[Message]:
    """Return messages in which misplaced tool blocks are turned into text, so that nothing is lost."""
    repaired: list[Message] = []
    open_uses: list[str] = []
    for index, message in enumerate(run, start):
        own = "toolUse" if message["role"] == "assistant" else "toolResult"
        content = []
        for block in message["content"]:
            kind = next((each for each in ("toolUse", "toolResult") if holds(block, each)), None)
            if kind is None or (kind == own == "toolUse"):
                content.append(block)
            elif kind == own and block[kind]["toolUseId"] in open_uses:
                open_uses.remove(block[kind]["toolUseId"])
                content.append(block)
            else:
                repairs.append(f"message {index} had a {kind} that belongs to nothing: it was kept as text")
                content.append({"text": f"({kind} of a conversation that was cut off: {as_text(block[kind])})"})
        if message["role"] == "assistant":
            open_uses = [block["toolUse"]["toolUseId"] for block in content if holds(block, "toolUse")]
        changed = any(new is not old for new, old in zip(content, message["content"], strict=True))
        repaired.append({**message, "content": content} if changed else message)
    return repaired


def _window(runs: Sequence[Sequence[Message]], starts: Sequence[int], manager: dict[str, Any]) -> Window | None:
    """Return the agent's last window: from the run with the first message that its conversation manager had not
    removed, after the summary if there is one."""
    removed = manager.get("removed_message_count") or 0
    if not isinstance(removed, int) or removed <= 0 or not runs:
        return None
    count = sum(len(run) for run, end in zip(runs, [*starts[1:], removed + 1], strict=True) if end <= removed)
    summary = manager.get("summary_message")
    return (*([Inline(normalize_message(summary))] if summary else []), Range(count, None))


# -- writing ----------------------------------------------------------------------------------------------


def names_of(folder: Path, prefix: str, named: str | None) -> dict[Path, str]:
    """Return the folders of sessions in `folder`, each with its new name. Raises a `JournalError` with what to do."""
    found = {each: prefix + each.name.removeprefix(SESSION) for each in sessions_in(folder)}
    if named is None:
        return found
    if len(found) > 1:
        raise JournalError(
            f"{folder} has {len(found)} sessions, and only one can be called {named}. Name the folder of that one."
        )
    return dict.fromkeys(found, named)


class Store(Protocol):
    """A journal to import sessions into, which no server has."""

    def has(self, key: SessionKey) -> bool:
        """Return whether there is a session of this name."""
        ...

    def keep(self, key: SessionKey, conversation: Conversation, now: float) -> None:
        """Store a session in one transaction. Raises `Unusable` if it cannot be read back."""
        ...


async def import_sessions(
    folder: Path,
    file: Path,
    clock: Clock,
    *,
    prefix: str,
    principal: str,
    skip_existing: bool,
    dry_run: bool,
    on_step: Callable[[int, int], None],
    named: str | None = None,
) -> list[Imported]:
    """Import every session of `folder` into the journal at `file`, which is created if it does not exist.

    `named` is the new name of the only session. Returns a result for each, in order of their names. Raises a
    `JournalError` that says what to do; sessions imported so far stay then.
    """
    found = names_of(folder, prefix, named)
    work = Work(found, Principal(principal), skip_existing, dry_run, clock.now(), on_step)
    path = locate(file)
    if not check_openable(path) and dry_run:
        return await asyncio.to_thread(work.all, None)
    prepare_folder(path)
    ownership = Ownership(path, clock)
    try:
        await ownership.acquire(OWNER)
    except JournalLocked as error:
        raise JournalLocked(f"{error} Import while no server runs on it.") from error
    task = asyncio.create_task(asyncio.to_thread(work.into, path, ownership))
    try:
        return await asyncio.shield(task)
    except sqlite3.Error as error:
        raise unreadable(path, error) from error
    finally:
        # Cancelled: let the thread finish its session before anything else may open the journal.
        work.stop.set()
        await asyncio.wait([task])
        ownership.release()


class Work(Struct):
    """The import of folders, each as the session of its name. Runs on one thread, and has one session in memory."""

    found: Mapping[Path, str]
    principal: Principal
    skip_existing: bool
    dry_run: bool
    now: float
    on_step: Callable[[int, int], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def into(self, path: Path, ownership: Ownership) -> list[Imported]:
        if not check_openable(path):
            create(path)
        ownership.hold_file()
        tighten(path)
        with closing(guard(path)) as reading:
            check_current(path, reading)
            connection = connect(path)
        # Nothing else has the file open now, so closing it leaves no WAL with the sessions.
        with closing(connection):
            if self.dry_run:
                connection.execute("PRAGMA query_only = ON")
            return self.all(_File(connection))

    def all(self, journal: Store | None) -> list[Imported]:
        """Import them into a journal, None if there is none yet; return a result for each, in their order."""
        results: list[Imported] = []
        for folder, named in self.found.items():
            self.on_step(len(results), len(self.found))
            if self.stop.is_set():
                return results  # nobody awaits them
            results.append(self._one(folder, named, journal))
        self.on_step(len(results), len(self.found))
        return results

    def _one(self, folder: Path, named: str, journal: Store | None) -> Imported:
        try:
            key = SessionKey(self.principal, session_id(named))
            if journal is not None and journal.has(key):
                if self.skip_existing:
                    return Imported(session_id=named, result="skipped", reason="it is in the journal already")
                raise Unusable("a session of this name is in the journal already")
            conversation = read_session(folder)
            if journal is not None and not self.dry_run:
                journal.keep(key, conversation, self.now)
        except (Unusable, Invalid) as error:
            return Imported(session_id=named, result="refused", reason=str(error))
        count = sum(map(len, conversation.runs))
        return Imported(session_id=named, result="imported", messages=count, repairs=conversation.repairs)


class _File:
    """A file. Implements `Store`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def has(self, key: SessionKey) -> bool:
        """Return whether there is a session of this name."""
        return is_there(self._connection, key)

    def keep(self, key: SessionKey, conversation: Conversation, now: float) -> None:
        """Store a session in one transaction."""
        connection = self._connection
        with connection, closing(SqliteRows(connection)) as rows:
            connection.execute("BEGIN IMMEDIATE")
            no, _, row = rows.next_numbers()
            rows.write(rows_of(SessionRef.of(no, key), count(row).__next__, conversation, now))
            check_stored(connection, key, conversation)


def is_there(database: Database, key: SessionKey) -> bool:
    """Return whether there is a session of this name."""
    found = database.execute("SELECT 1 FROM sessions WHERE principal = ? AND session_id = ?", key)
    return found.fetchone() is not None


def check_stored(database: Database, key: SessionKey, conversation: Conversation) -> None:
    """Raise `Unusable` unless a session that was just written reads as it should."""
    messages = [message for run in conversation.runs for message in run]
    try:
        page = reader.history(database, HistoryQuery(key, limit=max(1, len(messages))))
        record = reader.load(database, key)
    except RecordDamaged as error:
        raise Unusable(f"it could not be read back: {error}") from error
    stored = (page.messages, record.window, record.state)
    wanted = (messages, WHOLE_HISTORY if conversation.window is None else conversation.window, conversation.state)
    if any(encode_messages(each) != encode_messages(other) for each, other in zip(stored, wanted, strict=True)):
        raise Unusable("it could not be read back as it is in the folder")


def rows_of(
    session: SessionRef, next_row: Callable[[], int], conversation: Conversation, now: float
) -> Iterator[Change]:
    """Yield the rows of a session. `next_row` draws the number of a row of its history."""
    yield AddSession(session)
    yield ChangeSession(session.no, paused=False, closed_since=None, rests_since=now)
    first, previous = 0, None
    window, state = (
        None if each is None else encode_messages(each) for each in (conversation.window, conversation.state)
    )
    agent = NO_AGENT if window is None and state is None else None
    for nth, messages in enumerate(conversation.runs, start=1):
        row = next_row()
        yield AddHistory(
            session, row, nth, first, len(messages), previous, NO_RUN, discarded=False,
            messages=encode_messages(messages), rests_since=now, agent=agent,
        )  # fmt: skip
        first, previous = first + len(messages), row
    if window is not None or state is not None:
        yield StoreAgent(session, None, window, state)
