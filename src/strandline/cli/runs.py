"""`strandline runs`, `strandline cancel` and `strandline move`: the runs of a server, looked at and changed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from strandline.cli import rows, say
from strandline.cli.address import KeyFile, Url, address, api_key
from strandline.exits import REFUSED
from strandline.printable import clean

if TYPE_CHECKING:
    from pathlib import Path

    from strandline.remote.server import RemoteServer

RUN: Final = "run_"
"""How the ids of runs begin."""
USUAL: Final = 3
"""The priority that is not worth telling."""

BEHIND: Final = "behind"
"""The reason that a place in the line says already."""

HEAD: Final = ("RUN", "STATUS", "ACCEPTED", "TOOK", "WHAT")
WATCH_S: Final = 1.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
All = Annotated[bool, typer.Option("--all", help="Show all, however many there are.")]
RunIds = Annotated[list[str], typer.Argument(help="Ids of runs.", metavar="RUN...")]


def runs(
    what: Annotated[
        str, typer.Argument(help="A session, or one run by its id.", metavar="SESSION|RUN", show_default=False)
    ] = "default",
    limit: Annotated[int, typer.Option(help="Runs to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing them, anew every second; Ctrl-C ends it.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the runs of a session: what executes, what waits in its order, what has ended.

    Without SESSION it is that named default; with the id of a run, all about that run.

    Example: strandline runs ada
    """
    with say.told(), _server(url, key_file) as server:
        if watch:
            _watch(server, what, limit, as_json=as_json)
        if what.startswith(RUN):
            run = server.run(what)
            print_json(run) if as_json else _print_run(run)
            return
        found = server.runs(_session(what), most(limit, everything=everything))
        if as_json:
            print_json(found)
            return
        if not found["runs"] and "damaged" not in found:
            say.err().print(f"Session {what} has no runs.", markup=False, soft_wrap=True)
            return
        rows.show(HEAD, _rows(found))
        more(found)


def cancel(
    run: Annotated[list[str] | None, typer.Argument(help="Ids of runs.", metavar="RUN...", show_default=False)] = None,
    session: Annotated[
        str | None, typer.Option("--session", "-s", help="All that waits in this session.", metavar="NAME")
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="With --session: what executes, too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait for what still works of a run: its session goes on at once.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Cancel runs, or all that waits in a session.

    A run that waits has ended by that. One that executes is asked to end, and
    keeps in its history what it has done; the next one goes on after it.

    Example: strandline cancel --session ada --running
    """
    if bool(run) == (session is not None):
        say.fail("say what to cancel: the ids of runs, or --session NAME for all that waits there")
    if running and session is None:
        say.fail("--running belongs to --session; a run that is named by its id is cancelled whatever it does")
    with say.told(), _server(url, key_file) as server:
        if session is not None:
            done = server.cancel_session(_session(session), running=running, force=force)
            print_json(done) if as_json else _print_cancelled(server, session, done)
            return
        _each(run or [], as_json, lambda run_id: _cancel(server, run_id, force=force), _after_cancel)


def move(
    run: RunIds,
    front: Annotated[bool, typer.Option("--front", help="Before all that waits.")] = False,
    priority: Annotated[
        int | None,
        typer.Option(help="To the place of this priority: 1 to 5, 1 first.", metavar="N", min=1, max=5),
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Move runs that wait: to the front, or to the place of another priority.

    Example: strandline move run_... --front
    """
    if front == (priority is not None):
        say.fail("say where to: --front, or --priority N (1 to 5, 1 first)")
    with say.told(), _server(url, key_file) as server:
        _each(run, as_json, lambda run_id: server.move(run_id, priority=priority), _after_move)


def told(run: dict[str, Any]) -> str:
    """Return what there is to say of a run, on one line."""
    text = _now(run)
    extras = []
    if run["priority"] != USUAL and run["status"] == "queued":
        extras.append(f"priority {run['priority']}")
    if run["attempt"] > 1:
        extras.append(f"attempt {run['attempt']}")
    if run["held"]:
        return f"{_why(run) or 'something of it still works'}{'; ' if text else ''}{text}"
    if run["cancel_requested"] and run["status"] == "running":
        extras.append("asked to end")
    return f"{text} ({', '.join(extras)})" if extras and text else text or ", ".join(extras)


def most(limit: int, *, everything: bool) -> int:
    """Return how many entries of a list to show."""
    import sys

    return sys.maxsize if everything else limit


def more(found: dict[str, Any]) -> None:
    """Say that there is more than was asked for, and what cannot be shown."""
    if damaged := found.get("damaged"):
        say.err().print(
            f"Damaged in the journal's file, so not shown: {clean(', '.join(damaged))}. `strandline journal verify`"
            " says more.",
            markup=False,
            soft_wrap=True,
        )
    if found.get("next_cursor") is not None:
        say.err().print("There are more; --all shows them.", soft_wrap=True)


def print_json(body: Any) -> None:
    """Print what the server answered."""
    import sys

    from strandline.encoding import encode

    sys.stdout.write(encode(body).decode() + "\n")


def _watch(server: "RemoteServer", session: str, limit: int, *, as_json: bool) -> NoReturn:
    """Show the runs of a session in place, until Ctrl-C."""
    console = say.out()
    if as_json or session.startswith(RUN) or not console.is_terminal:
        say.fail("--watch shows the runs of a session on a terminal; a program asks GET /v1/sessions/SESSION/runs")
    import time

    from rich.console import Group
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            shown = rows.lines(HEAD, _rows(server.runs(_session(session), limit)), console)
            live.update(Group(*shown), refresh=True)
            time.sleep(WATCH_S)


def _rows(found: dict[str, Any]) -> list[list[str]]:
    from strandline.remote.server import in_line

    return [
        [r["run_id"], r["status"], rows.clock_time(r["created_at"]), rows.took(r), told(r)]
        for r in in_line(found["runs"])
    ]


def _now(run: dict[str, Any]) -> str:
    match run["status"]:
        case "queued":
            place = "next" if run["position"] == 1 else f"place {run['position']}"
            if (why := _why(run)) and run["why"]["code"] != BEHIND:
                return f"{place}: {why}"
            wait_s = run.get("estimated_wait_s")
            return f"{place}, about {rows.seconds(wait_s)}" if wait_s else place
        case "running":
            return str(run["phase"] or "")
        case "failed":
            error = run["error"] or {"code": "failed", "detail": ""}
            return f"{error['code']}: {error['detail']}" if error.get("detail") else str(error["code"])
        case "needs_input":
            names = ", ".join(str(each.get("name", each)) for each in run.get("input_requests") or [])
            return f"{names}: {why}" if (why := _why(run)) else names
        case _:
            return str(run["output"])


def _why(run: dict[str, Any]) -> str:
    """Return why a run waits, in the server's words; empty if it does not, or the server does not say it."""
    why = run.get("why")
    return str(why["text"]) if why else ""


def _print_run(run: dict[str, Any]) -> None:
    """Print all about one run: a line for each thing that is worth one, then its answer."""
    console = say.out()
    shown = {
        "run": run["run_id"],
        "session": run["session_id"],
        "status": run["status"],
        "now": _now(run) if run["status"] not in ("succeeded", "cancelled") else "",
        "accepted": rows.clock_time(run["created_at"]),
        "started": rows.clock_time(run["started_at"]) if run["started_at"] else "",
        "ended": rows.clock_time(run["ended_at"]) if run["ended_at"] else "",
        "took": rows.took(run) if run["started_at"] else "",
        "priority": str(run["priority"]) if run["priority"] != USUAL else "",
        "attempt": str(run["attempt"]) if run["attempt"] > 1 else "",
        "held": (_why(run) or "something of it still works") if run["held"] else "",
        "cancel": "it was asked to end" if run["cancel_requested"] and not run["ended_at"] else "",
        "usage": ", ".join(f"{name} {number}" for name, number in (run["usage"] or {}).items()),
        "metadata": ", ".join(f"{name}={value}" for name, value in run["metadata"].items()),
    }
    for name, value in shown.items():
        if value:
            console.print(f"{name:8}  {rows.clean(value)}", markup=False, soft_wrap=True)
    if run["output"]:
        from strandline.printable import clean

        console.print(f"\n{clean(run['output'])}", markup=False, soft_wrap=True)


def _each(
    run_ids: list[str],
    as_json: bool,
    change: Callable[[str], dict[str, Any]],
    sentence: Callable[[dict[str, Any]], str],
) -> None:
    """Change each run and say what became of it; one that cannot be changed is told, and keeps no other from it."""
    from strandline.remote.server import Late, Unknown

    failed = False
    for run_id in run_ids:
        try:
            run = change(run_id)
        except (Unknown, Late) as error:
            say.say_error(str(error))
            failed = True
            continue
        if as_json:
            print_json(run)
        else:
            say.out().print(sentence(run), markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(REFUSED)


def _cancel(server: "RemoteServer", run_id: str, *, force: bool) -> dict[str, Any]:
    """Cancel a run and return it. Raises `RemoteError`; of one that is held it says what would end that."""
    from strandline.remote.server import Late

    try:
        return server.cancel(run_id, force=force)
    except Late:
        run = server.run(run_id)
        if force or not run["held"]:
            raise
        raise Late(
            f"run {run_id} has ended: {_why(run) or 'something of it still works'}. To let session {run['session_id']}"
            f" go on without it: strandline cancel {run_id} --force"
        ) from None


def _after_cancel(run: dict[str, Any]) -> str:
    if run["status"] == "running":
        return f"{run['run_id']} executes ({run['phase']}) and was asked to end."
    if run["status"] == "needs_input":
        return f"{run['run_id']} asks no more: its session goes on without an answer."
    return f"{run['run_id']} was cancelled; it never began." if run["started_at"] is None else f"{run['run_id']} ended."


def _after_move(run: dict[str, Any]) -> str:
    return f"{run['run_id']} is at place {run['position']} of session {run['session_id']} now."


def _print_cancelled(server: "RemoteServer", session: str, done: dict[str, Any]) -> None:
    ended, asked = done["cancelled"], done["cancelling"]
    console = say.out()
    for run_id in ended:
        console.print(f"{run_id} was cancelled.", markup=False, soft_wrap=True)
    for run_id in asked:
        console.print(f"{run_id} executes and was asked to end.", markup=False, soft_wrap=True)
    dismissed = done.get("dismissed", False)
    if dismissed:
        console.print(f"Session {session} asks no more: it goes on without an answer.", markup=False, soft_wrap=True)
    if not ended and not asked and not dismissed:
        found = server.session(session)
        held = f"; {_why(found)}. To let it go on: strandline cancel {found['held']} --force" if found["held"] else "."
        say.err().print(f"Nothing waits in session {session}{held}", markup=False, soft_wrap=True)


def _session(name: str) -> str:
    from strandline.model import session_id

    return session_id(name)


def _server(url: str | None, key_file: "Path | None") -> "RemoteServer":
    from strandline.remote.server import RemoteServer

    return RemoteServer(address(url), api_key(key_file))
