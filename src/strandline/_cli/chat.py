"""`strandline chat`: talk to a server, from a terminal or a pipe."""

import sys
from typing import Annotated

import typer

from strandline._cli import say
from strandline._cli.address import KeyFile, address, api_key
from strandline._cli.complete import SESSIONS
from strandline._model import IfBusy, OnQuestion


def chat(
    url: Annotated[
        str | None, typer.Argument(help="Server address [from this folder's settings]", metavar="URL")
    ] = None,
    session: Annotated[
        str,
        typer.Option("--session", "-s", help="Session to talk in.", metavar="NAME", autocompletion=SESSIONS),
    ] = "default",
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this, print the answer, and exit.", metavar="TEXT")
    ] = None,
    history: Annotated[int, typer.Option(help="Past turns to show at the start.", metavar="N", min=0, max=1000)] = 3,
    on_question: Annotated[
        OnQuestion | None,
        typer.Option(
            help="What a message does while the agent waits for an answer: wait, answer, or dismiss the question"
            " [the server's setting].",
            metavar="wait|answer|dismiss",
        ),
    ] = None,
    if_busy: Annotated[
        IfBusy | None,
        typer.Option(
            help="What the message of -m or a pipe does if the session is busy: wait its turn (enqueue), reach the"
            " agent that works (steer), or be one turn with others that wait (collect).",
            metavar="enqueue|reject|interrupt|rollback|steer|collect",
        ),
    ] = None,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Talk to a server, by default the one at http://127.0.0.1:8080.

    In a pipe, the input is one message: `echo hello | strandline chat` prints the answer.
    """
    with say.errors_reported():
        from strandline._model import session_id

        session_id(session)
        where, key = address(url), api_key(key_file)
        talks = message is None and sys.stdin.isatty() and sys.stdout.isatty()
        if talks and as_json:
            say.fail("--json prints one answer: give the question with -m TEXT, or in a pipe")
        if talks and if_busy is not None:
            say.fail("--if-busy is for one message, while another one is answered: give it with -m TEXT, or in a pipe")
        from strandline._chat.program import Program, ask_once

        if talks:
            code = Program(where, session, history, key=key, on_question=on_question).run()
        else:
            text = _piped() if message is None else message
            if not text.strip():
                say.fail("there is no question: write it to the standard input, or use -m TEXT")
            code = ask_once(where, session, text, key=key, as_json=as_json, on_question=on_question, if_busy=if_busy)
    raise typer.Exit(code)


def _piped() -> str:
    if sys.stdin.isatty():
        say.err().print("What do you want to ask? (Ctrl-D ends it)")
    return sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\r\n")
