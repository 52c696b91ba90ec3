"""The program: reads what a person types and does it, or asks one question and leaves.

One loop for as long as the program lives, and nothing runs in it while a person types.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from strandline.chat.conversation import Conversation
from strandline.chat.events import Answer, Event, InLine, Kept
from strandline.chat.screen import Screen
from strandline.chat.turns import Turn
from strandline.errors import Invalid
from strandline.exits import INTERRUPTED
from strandline.model import session_id
from strandline.remote.answers import RemoteError

AGENT_FAILED: Final = 1
HELP: Final = """\
  /session NAME   go on in another session
  /sessions       the sessions you were in
  /history [N]    the last N turns, in full
  /health         what goes on in the server
  /help           this
  /quit           leave (so does Ctrl-D)

Everything else is a question. End a line with \\ to go on in the next one;
text of several lines can be pasted. Ctrl-C leaves a wait: the run goes on,
and its answer will be in the history."""


def ask_once(url: str, session: str, message: str, *, as_json: bool) -> int:
    """Ask one question: the answer on the standard output, all else on the other one. Return the exit code.

    Raises `RemoteError`.
    """
    screen = Screen(plain=True)
    last: list[Event] = []
    message = _as_text(message)

    async def main() -> Answer:
        async with Conversation(url, session) as conversation:
            await conversation.health()
            async for event in conversation.ask(message):
                last[:] = [event]
                if isinstance(event, Answer):
                    return event
                screen.show(event)
        raise AssertionError("a question ends with an answer or an error")

    try:
        answer = asyncio.run(main())
    except KeyboardInterrupt:
        screen.note(_left(last))
        return INTERRUPTED
    finally:
        screen.clear_line()
    try:
        if as_json:
            screen.write(msgspec.json.encode(answer.body).decode())
        if not as_json or not answer.ok:
            screen.show(answer)
    except BrokenPipeError:  # (whoever reads has enough)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if answer.ok else AGENT_FAILED


class Program:
    """A conversation in a terminal."""

    def __init__(self, url: str, session: str, turns: int, *, read: Callable[[str], str] = input) -> None:
        self._url = url
        self._session = session
        self._turns = turns
        self._screen = Screen(plain=False)
        self._read = read
        self._names = [session]
        self._left = False

    def run(self) -> int:
        """Talk until the person leaves. Raises `RemoteError` if nobody is there at the beginning."""
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
                        self._screen.text("")  # (what was typed is dropped, as shells do)
                        continue
                    if line.strip():
                        self._act(runner, conversation, line)
            finally:
                runner.run(conversation.__aexit__())
        return 0

    async def _open(self) -> Conversation:
        conversation = Conversation(self._url, self._session)
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
        """Do what a line says, and say what goes wrong."""
        last: list[Event] = []
        try:
            if line.startswith("/"):
                runner.run(self._command(conversation, line))
            else:
                with self._screen.quiet_keys():
                    runner.run(self._ask(conversation, line, last))
        except KeyboardInterrupt:
            self._screen.note(_left(last))
        except (RemoteError, Invalid) as error:
            self._screen.error(str(error))

    async def _ask(self, conversation: Conversation, text: str, last: list[Event]) -> None:
        async for event in conversation.ask(text):
            last[:] = [event]
            if isinstance(event, Answer) and event.ok:
                with suppress(RemoteError):
                    turn = _turn_of(text, await conversation.turns(2))
                    if turn is not None:
                        self._screen.clear_line()
                        self._screen.tools(turn)
            self._screen.show(event)

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
                raise Invalid(f"{line.strip()!r} is nothing that can be done here; /help shows what is")

    async def _history(self, conversation: Conversation, turns: int, *, whole: bool) -> None:
        if turns == 0:
            return
        self._screen.turns(await conversation.turns(turns), conversation.session, whole=whole)


def _turn_of(question: str, turns: list[Turn]) -> Turn | None:
    return next((turn for turn in reversed(turns) if turn.question == question), None)


def _as_text(typed: str) -> str:
    """Return what was typed with a mark (U+FFFD) for each byte that is no text: JSON carries text only."""
    return typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _number(words: list[str], default: int) -> int:
    if not words:
        return default
    if not words[0].isascii() or not words[0].isdecimal() or not 0 < int(words[0]) <= 10_000:
        raise Invalid(f"/history {words[0]}: say how many turns, 1 to 10000")
    return int(words[0])


def _left(last: list[Event]) -> str:
    run_id = next((f" ({event.run_id})" for event in last if isinstance(event, (InLine, Kept))), "")
    return f"Left. What was accepted goes on without you{run_id}: its answer will be in the history"


def _prepare_editing() -> None:
    """Let lines be edited, and text of several lines be pasted, where the system can."""
    with suppress(ImportError):
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")
