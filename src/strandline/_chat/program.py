"""The chat program: executes what a person types, or sends one message and exits.

It has one event loop, in which nothing runs while a person types.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from strandline._chat.conversation import Conversation
from strandline._chat.follower import Detached, Follower, GivenUp
from strandline._chat.progress import RunProgress, question
from strandline._chat.screen import Screen
from strandline._exits import INTERRUPTED
from strandline._model import IfBusy, InputRequest, OnQuestion, RunStatus, session_id
from strandline._remote.errors import RemoteError
from strandline.client._events import Event, RunFinished
from strandline.errors import Invalid

AGENT_FAILED: Final = 1
NEEDS_INPUT: Final = 3
"""The exit code if the agent answers with a question."""
WORDS: Final = {"y": "yes", "n": "no"}
HELP: Final = """\
  /session NAME   switch to another session
  /sessions       the sessions you have been in
  /history [N]    the last N turns, in full
  /health         the state of the server
  /help           this help
  /quit           exit (so does Ctrl-D)

Everything else is a message. End a line with \\ to continue it on the next;
text of several lines can be pasted. Ctrl-C cancels a run, a second one exits
at once: the run continues, and its answer will be in the history."""


def ask_once(
    url: str,
    session: str,
    message: str,
    *,
    key: str | None,
    as_json: bool,
    on_question: OnQuestion | None = None,
    if_busy: IfBusy | None = None,
) -> int:
    """Send one message: its answer goes to the standard output, all else to the standard error. Return the exit code.

    Raises `RemoteError`.
    """
    screen = Screen(plain=True)
    follower = Follower(screen)
    text = _as_text(message)
    with asyncio.Runner() as runner:
        conversation = runner.run(_opened(url, session, key, follower, on_question, if_busy))
        try:
            runner.run(conversation.health())
            progress = follower.follow(runner, conversation, conversation.ask(text))
        except GivenUp:
            return INTERRUPTED
        except Detached:
            screen.note(_left(follower.run_id))
            return INTERRUPTED
        finally:
            runner.run(conversation.__aexit__())
    end = progress.end
    assert end is not None, "the events of a run end with its end"
    answer = _as_answer(end, session, conversation.agent_id)
    try:
        if as_json:
            screen.write(msgspec.json.encode(answer).decode())
        elif end.ok:
            screen.answer(end.output)
        if not end.ok:
            _say_end(screen, end, session)
    except BrokenPipeError:  # (the reader has enough)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if follower.has_cancelled:
        return INTERRUPTED
    return 0 if end.ok else NEEDS_INPUT if end.input_requests else AGENT_FAILED


class Program:
    """A conversation in a terminal."""

    def __init__(
        self,
        url: str,
        session: str,
        turns: int,
        *,
        key: str | None = None,
        on_question: OnQuestion | None = None,
        read: Callable[[str], str] = input,
    ) -> None:
        self._url = url
        self._key = key
        self._on_question = on_question
        self._session = session
        self._turns = turns
        self._screen = Screen(plain=False)
        self._follower = Follower(self._screen)
        self._read = read
        self._names = [session]
        self._left = False
        self._code = 0

    def run(self) -> int:
        """Talk until the person exits. Raises `RemoteError` if no server answers at the start."""
        _prepare_editing()
        with asyncio.Runner() as runner:
            conversation = runner.run(self._open())
            try:
                while not self._left:
                    try:
                        line = self._read_message(conversation.session)
                    except EOFError:
                        self._screen.text("")
                        break
                    except KeyboardInterrupt:
                        self._screen.text("")  # (drops the typed text, as shells do)
                        continue
                    if line.strip():
                        self._act(runner, conversation, line)
            finally:
                runner.run(conversation.__aexit__())
        return self._code

    async def _open(self) -> Conversation:
        conversation = await _opened(self._url, self._session, self._key, self._follower, self._on_question)
        try:
            health = await conversation.health()
            self._screen.welcome(self._url, health, self._session)
            await self._history(conversation, self._turns, whole=False)
        except BaseException:
            await conversation.__aexit__()
            raise
        return conversation

    def _read_message(self, session: str) -> str:
        line = self._read(self._screen.prompt(session))
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._read("... ")
        return _as_text(line)

    def _act(self, runner: asyncio.Runner, conversation: Conversation, line: str) -> None:
        """Execute a line, and show errors."""
        try:
            if line.startswith("/"):
                runner.run(self._command(conversation, line))
            else:
                self._ask(runner, conversation, line)
        except KeyboardInterrupt:
            self._screen.text("")
        except GivenUp:
            self._screen.note("Given up; nothing was accepted")
        except Detached:
            self._screen.note(_left(self._follower.run_id))
            self._left, self._code = True, INTERRUPTED
        except (RemoteError, Invalid) as error:
            self._screen.error(str(error))

    def _ask(self, runner: asyncio.Runner, conversation: Conversation, text: str) -> None:
        """Send a message, and let the person answer questions, until the agent has answered."""
        progress = self._follow(runner, conversation, conversation.ask(text))
        while progress.input_requests and progress.run_id is not None:
            answers = self._answers(progress.input_requests, conversation.session)
            if answers is None:
                return
            progress = self._follow(runner, conversation, conversation.answer(progress.run_id, answers))

    def _follow(self, runner: asyncio.Runner, conversation: Conversation, events: AsyncIterator[Event]) -> RunProgress:
        with self._screen.quiet_keys():
            progress = self._follower.follow(runner, conversation, events)
        if progress.end is not None and not progress.end.ok and not progress.input_requests:
            _say_end(self._screen, progress.end, conversation.session)
        return progress

    def _answers(self, input_requests: list[InputRequest], session: str) -> dict[str, Any] | None:
        """Let the person answer all questions; None if they do not want to now."""
        answers: dict[str, Any] = {}
        try:
            for request in input_requests:
                self._screen.note(question(request))
                typed = ""
                while not typed:
                    typed = _as_text(self._read("y, n or a text> ")).strip()
                answers[request.id] = WORDS.get(typed.lower(), typed)
        except (EOFError, KeyboardInterrupt):
            self._screen.text("")
            self._screen.note(_open_question(session))
            return None
        return answers

    async def _command(self, conversation: Conversation, line: str) -> None:
        name, *words = line.split()
        match name, words:
            case "/quit" | "/exit", []:
                self._left = True
            case "/help", _:
                self._screen.text(HELP)
            case "/health", []:
                self._screen.table(await conversation.health())
            case "/sessions", []:
                self._screen.text(
                    "\n".join(f"{'*' if each == conversation.session else ' '} {each}" for each in self._names)
                )
            case "/session", [session]:
                conversation.session = session_id(session)
                if session not in self._names:
                    self._names.append(session)
                await self._history(conversation, self._turns, whole=False)
            case "/session", []:
                self._screen.text(conversation.session)
            case "/history", [] | [_]:
                await self._history(conversation, _number(words, default=10), whole=True)
            case _:
                raise Invalid(f"{line.strip()!r} is not a command; /help lists the commands")

    async def _history(self, conversation: Conversation, turns: int, *, whole: bool) -> None:
        if turns == 0:
            return
        self._screen.turns(await conversation.turns(turns), conversation.session, whole=whole)


async def _opened(
    url: str,
    session: str,
    key: str | None,
    follower: Follower,
    on_question: OnQuestion | None,
    if_busy: IfBusy | None = None,
) -> Conversation:
    """Return a conversation bound to the running loop."""
    return Conversation(url, session, follower.paused, key, on_question, if_busy)


def _as_answer(end: RunFinished, session: str, agent_id: str) -> dict[str, Any]:
    """Return the outcome of a run in the form of `POST /chat`."""
    answer: dict[str, Any] = {
        "status": "success",
        "response": end.output,
        "agent_id": agent_id,
        "session_id": session,
        "run_id": end.run_id,
    }
    if end.error is not None:
        answer |= {"status": "error", "response": end.error.detail or end.error.code, "error_code": end.error.code}
    elif end.status == RunStatus.NEEDS_INPUT:
        answer |= {"status": "needs_input", "input_requests": end.input_requests}
    elif not end.ok:
        answer |= {"status": "error", "response": f"the run was {end.status}", "error_code": end.status}
    return answer


def _say_end(screen: Screen, end: RunFinished, session: str) -> None:
    """Show the outcome of a run that has not succeeded."""
    if end.error is not None:
        screen.error(f"the agent failed ({end.error.code}): {end.error.detail or end.error.code}")
    elif end.input_requests:
        for request in end.input_requests:
            screen.note(f"The agent asks: {question(request)}")
        screen.note(_open_question(session))
    else:
        screen.note(f"The run was {end.status}; history has what it has done")


def _open_question(session: str) -> str:
    return f"Not answered; the session waits: strandline answer {session} TEXT"


def _as_text(typed: str) -> str:
    """Return typed text with U+FFFD for each undecodable byte: JSON carries only text."""
    return typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _number(words: list[str], default: int) -> int:
    if not words:
        return default
    if not words[0].isascii() or not words[0].isdecimal() or not 0 < int(words[0]) <= 10_000:
        raise Invalid(f"/history {words[0]}: say how many turns, 1 to 10000")
    return int(words[0])


def _left(run_id: str | None) -> str:
    known = f" ({run_id})" if run_id else ""
    return f"Exited. The accepted run continues{known}: its answer will be in the history"


def _prepare_editing() -> None:
    """Enable line editing and multi-line paste, where the system can."""
    with suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")
