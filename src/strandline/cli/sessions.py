"""`strandline sessions` and `strandline history`: the sessions of a server, and what was said in one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from strandline.cli import rows, say
from strandline.cli.address import Url, address
from strandline.cli.runs import Json, more, print_json

if TYPE_CHECKING:
    from strandline.chat.turns import Turn


def sessions(
    limit: Annotated[int, typer.Option(help="Sessions to show at most.", metavar="N", min=1)] = 100,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the sessions of a server: how much was said, what waits, what executes.

    Example: strandline sessions
    """
    with say.told():
        from strandline.remote.server import RemoteServer

        with RemoteServer(address(url)) as server:
            found = server.sessions(limit)
        if as_json:
            print_json(found)
            return
        if not found["sessions"]:
            say.err().print("There are no sessions yet. One is made by the first run in it.", soft_wrap=True)
            return
        rows.show(
            ["SESSION", "MESSAGES", "WAITING", "NOW"],
            [
                [each["session_id"], str(each["messages"]), str(each["queue_depth"]), _now(each)]
                for each in found["sessions"]
            ],
        )
        more(found, limit)


def history(
    session: Annotated[str, typer.Argument(help="The session.", metavar="SESSION", show_default=False)] = "default",
    limit: Annotated[int, typer.Option(help="Messages to show at most, the last ones.", metavar="N", min=1)] = 100,
    discarded: Annotated[
        bool, typer.Option("--discarded", help="Also what was discarded, and the agent does not see.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what was said in a session: questions, tools and answers.

    Without SESSION it is that named default.

    Example: strandline history ada --limit 10
    """
    with say.told():
        from strandline.chat.turns import turns_of
        from strandline.model import session_id
        from strandline.remote.server import RemoteServer

        with RemoteServer(address(url)) as server:
            found = server.history(session_id(session), limit, discarded=discarded)
        if as_json:
            print_json(found)
            return
        if not found["messages"]:
            say.err().print(f"Nothing has been said in session {session} yet.", markup=False, soft_wrap=True)
            return
        for turn in turns_of(found["messages"]):
            _print_turn(turn)
        more(found, limit)


def _print_turn(turn: "Turn") -> None:
    from rich.text import Text

    from strandline.chat.turns import ToolCall, brief
    from strandline.printable import clean

    console = say.out()
    mark = ("(discarded) ", "yellow") if turn.discarded else ("", "")
    console.print(Text.assemble(("> ", "bold cyan"), mark, (clean(turn.question), "bold")), soft_wrap=True)
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


def _now(session: dict[str, Any]) -> str:
    if session.get("input_requests"):
        return f"waits for an answer: {', '.join(str(each['name']) for each in session['input_requests'])}"
    if session.get("paused"):
        paused = "paused"
        return f"{paused}, {session['running']} executes" if session["running"] else paused
    if session["running"]:
        return f"{session['running']} executes"
    return f"{session['held']} has ended, something of it still works" if session["held"] else ""
