"""`strandline sessions`, `history`, `pause` and `resume`: the sessions of a server."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url, address, api_key
from strandline._cli.runs import All, Json, more, most, print_json
from strandline._cli.session import Session, change, delete, show

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from strandline._chat.turns import Turn
    from strandline._remote.server import RemoteServer


sessions_app = typer.Typer(rich_markup_mode=None)
sessions_app.command(short_help="Show all about a session.")(show)
sessions_app.command(short_help="Change the default options of a session's runs.")(change)
sessions_app.command(short_help="Delete a session.")(delete)


@sessions_app.callback(invoke_without_command=True)
def sessions(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="Sessions to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the sessions of a server: their messages, waiting and executing runs.

    An operator's key shows the sessions of all callers.

    Example: strandline sessions
    """
    if context.invoked_subcommand is not None:
        return
    with say.errors_reported():
        from strandline._remote.server import RemoteServer

        with RemoteServer(address(url), api_key(key_file)) as server:
            found = server.sessions(most(limit, everything=everything))
        if as_json:
            print_json(found)
            return
        if not found["sessions"]:
            say.err().print("There are no sessions yet. The first run in one creates it.", soft_wrap=True)
            return
        of_all = "principal" in found["sessions"][0]
        rows.show(
            [*(["PRINCIPAL"] if of_all else []), "SESSION", "MESSAGES", "WAITING", "NOW"],
            [
                [
                    *([each["principal"]] if of_all else []),
                    *(each["session_id"], str(each["messages"]), str(each["queue_depth"]), now(each)),
                ]
                for each in found["sessions"]
            ],
        )
        more(found)


def history(
    session: Session = "default",
    limit: Annotated[int, typer.Option(help="Show at most the last N messages.", metavar="N", min=1)] = 100,
    everything: All = False,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="Include discarded messages, which the agent does not see.")
    ] = False,
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Include superseded messages, from before a run was taken up again.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the history of a session: messages, tools and answers.

    Without SESSION, show the session named default.

    Example: strandline history ada --limit 10
    """
    with say.errors_reported():
        from strandline._chat.turns import turns_of
        from strandline._model import session_id
        from strandline._remote.server import RemoteServer

        with RemoteServer(address(url), api_key(key_file)) as server:
            found = server.history(
                session_id(session), most(limit, everything=everything), discarded=discarded, superseded=superseded
            )
        if as_json:
            print_json(found)
            return
        if not found["messages"]:
            say.err().print(f"Session {session} has no messages yet.", markup=False, soft_wrap=True)
            return
        for turn in turns_of(found["messages"]):
            _print_turn(turn)
        more(found)


def pause(session: Session, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Pause a session: accept runs, start none, until it is resumed.

    An executing run continues to its end. The pause outlasts a restart.

    Example: strandline pause ada
    """
    from strandline._remote.server import RemoteServer

    _change(RemoteServer.pause, session, url, key_file, as_json=as_json)


def resume(session: Session, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Resume a paused session.

    Example: strandline resume ada
    """
    from strandline._remote.server import RemoteServer

    _change(RemoteServer.resume, session, url, key_file, as_json=as_json)


def _change(
    change: "Callable[[RemoteServer, str], dict[str, Any]]",
    session: str,
    url: str | None,
    key_file: "Path | None",
    *,
    as_json: bool,
) -> None:
    """Pause or resume a session, and print its new state."""
    with say.errors_reported():
        from strandline._model import session_id
        from strandline._remote.server import RemoteServer

        with RemoteServer(address(url), api_key(key_file)) as server:
            found = change(server, session_id(session))
        if as_json:
            print_json(found)
            return
        count = found["queue_depth"]
        waiting = f"; {count} {'waits' if count == 1 else 'wait'}" if count else ""
        executing = f"; {found['running']} executes" if found["running"] else ""
        paused = "is paused" if found["paused"] else "is resumed"
        say.out().print(f"Session {found['session_id']} {paused}{executing}{waiting}.", markup=False, soft_wrap=True)


def _print_turn(turn: "Turn") -> None:
    from rich.text import Text

    from strandline._chat.turns import ToolCall, brief
    from strandline._printable import clean

    console = say.out()
    mark = ("(discarded) " if turn.discarded else "(superseded) " if turn.superseded else "", "yellow")
    sender = (f"{rows.clean(turn.sender)}: " if turn.sender else "", "cyan")
    console.print(Text.assemble(("> ", "bold cyan"), mark, sender, (clean(turn.question), "bold")), soft_wrap=True)
    for said in turn.said:
        if isinstance(said, ToolCall):
            line = Text(f"  * {rows.clean(brief(said))}", "red" if said.failed else "dim")
            if console.is_terminal:
                line.truncate(console.width, overflow="ellipsis")
            console.print(line, soft_wrap=True)
        else:
            for each in clean(said).splitlines():
                console.print(Text(f"  {each}"), soft_wrap=not console.is_terminal)
    console.print()


def now(session: dict[str, Any]) -> str:
    """Return what a session does."""
    if session.get("input_until"):
        names = ", ".join(
            str(each["name"]) for each in session["input_requests"]
        )  # (hidden for sessions of other callers)
        until = rows.clock_time(session["input_until"])
        return f"waits for an answer: {names} (until {until})" if names else "waits for an answer"
    if session.get("paused"):
        paused = "paused"
        return f"{paused}, {session['running']} executes" if session["running"] else paused
    if session["running"]:
        return f"{session['running']} executes"
    if (why := session.get("why")) is not None:
        return str(why["text"])
    return f"{session['held']} has ended, but a tool of it is still executing" if session["held"] else ""
