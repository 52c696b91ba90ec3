"""`strandline chat`: talk to a server, from a terminal or a pipe."""

import os
import sys
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from strandline.cli import say

if TYPE_CHECKING:
    from strandline.config import Settings


def chat(
    url: Annotated[
        str | None, typer.Argument(help="Address of the server [from this folder's settings]", metavar="URL")
    ] = None,
    session: Annotated[str, typer.Option("--session", "-s", help="Session to talk in.", metavar="NAME")] = "default",
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Ask this, print the answer, and leave.", metavar="TEXT")
    ] = None,
    history: Annotated[int, typer.Option(help="Turns of the past to show at first.", metavar="N", min=0, max=1000)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer, as JSON.")] = False,
) -> None:
    """Talk to a server, http://127.0.0.1:8080 if no other is named.

    In a pipe, what comes in is one question: `echo hello | strandline chat` prints the answer.
    """
    with say.told():
        from strandline.model import session_id

        session_id(session)
        address = _address(url)
        talks = message is None and sys.stdin.isatty() and sys.stdout.isatty()
        if talks and as_json:
            say.fail("--json prints one answer: say what to ask with -m TEXT, or in a pipe")
        from strandline.chat.program import Program, ask_once

        if talks:
            code = Program(address, session, history).run()
        else:
            asked = _piped() if message is None else message
            if not asked.strip():
                say.fail("there is nothing to ask: write it to the standard input, or say -m TEXT")
            code = ask_once(address, session, asked, as_json=as_json)
    raise typer.Exit(code)


def _piped() -> str:
    if sys.stdin.isatty():
        say.err().print("What do you want to ask? (Ctrl-D ends it)")
    return sys.stdin.buffer.read().decode("utf-8", "replace").rstrip("\r\n")


def _address(url: str | None) -> str:
    """Return the server's address, without a slash at its end."""
    if url is None:
        from strandline.config import resolve

        return _own_address(resolve({}, os.environ).settings)
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        say.fail(f"{url!r} is no address of a server; write it as http://HOST:PORT")
    return full.rstrip("/")


def _own_address(settings: "Settings") -> str:
    """Return where a server with these settings is reached from this machine."""
    if settings.port == 0:
        say.fail("the port of these settings is 0, so the server's is not known; name its address: http://HOST:PORT")
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
