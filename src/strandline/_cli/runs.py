"""`strandline runs`: show the runs of a server; and what all commands about runs share."""

from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from strandline._cli import rows, run_ids, say
from strandline._cli.address import KeyFile, Url, address, api_key
from strandline._cli.complete import SESSIONS_AND_RUNS, STATUSES
from strandline._printable import clean

if TYPE_CHECKING:
    from pathlib import Path

    from strandline._remote.server import RemoteServer

USUAL: Final = 3
"""The default priority, which is not shown."""

BEHIND: Final = "behind"
"""The reason that a position already implies."""

HEAD_OF_ALL: Final = ("RUN", "SESSION", "STATUS", "ACCEPTED", "TOOK", "WHAT")
HEAD_WATCHED: Final = ("RUN", "SESSION", "STATUS", "FOR", "WHAT")
NARROW: Final = 120
"""Below this width a watched list shows short ids and names."""
NAME_SHOWN: Final = 16
ENDED_SHOWN: Final = 20
"""How many ended runs are watched besides the waiting and executing ones."""
HEAD: Final = ("RUN", "STATUS", "ACCEPTED", "TOOK", "WHAT")
WATCH_S: Final = 1.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
All = Annotated[bool, typer.Option("--all", help="Show all.")]


def runs(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A session, or a run id.",
            metavar="SESSION|RUN",
            show_default=False,
            autocompletion=SESSIONS_AND_RUNS,
        ),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="The runs of all sessions with this status; repeatable.",
            metavar="STATUS",
            autocompletion=STATUSES,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Runs to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every second, until Ctrl-C.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the runs of a session: executing, waiting in their order, ended.

    Without SESSION, show the session named default; with a run id, all about
    that run. --status and --watch alone show the runs of all sessions.

    Example: strandline runs ada
    """
    if status and (what is not None or watch):
        say.fail("--status shows runs of all sessions: it cannot be combined with SESSION, RUN or --watch")
    with say.errors_reported(), server_of(url, key_file) as server:
        if watch:
            _watch(server, what, limit, as_json=as_json)
        if what is not None and what.startswith(run_ids.RUN):
            _show_run(server, what, as_json=as_json)
            return
        session = session_named("default" if what is None else what)
        limited = most(limit, everything=everything)
        found = server.all_runs(limited, status) if status else server.runs(session, limited)
        if not found["runs"] and "damaged" not in found and run_ids.is_part(session):
            _show_run(server, session, as_json=as_json)
        elif as_json:
            print_json(found)
        elif not found["runs"] and "damaged" not in found:
            others = "" if what is not None else " `strandline sessions` lists the sessions."
            message = "No runs match." if status else f"Session {session} has no runs.{others}"
            say.err().print(message, markup=False, soft_wrap=True)
        else:
            rows.show(HEAD_OF_ALL, _rows_of_all(found["runs"])) if status else rows.show(HEAD, _rows(found))
            more(found)


def describe(run: dict[str, Any]) -> str:
    """Return a run's state on one line."""
    text = _now(run)
    extras = []
    if run["priority"] != USUAL and run["status"] == "queued":
        extras.append(f"priority {run['priority']}")
    if run["attempt"] > 1:
        extras.append(f"attempt {run['attempt']}")
    if run["held"]:
        return f"{why_of(run) or 'a tool of it is still executing'}{'; ' if text else ''}{text}"
    if run["cancel_requested"] and run["status"] == "running":
        extras.append("asked to stop")
    return f"{text} ({', '.join(extras)})" if extras and text else text or ", ".join(extras)


def most(limit: int, *, everything: bool) -> int:
    """Return how many entries of a list to show."""
    import sys

    return sys.maxsize if everything else limit


def more(found: dict[str, Any]) -> None:
    """Report that the list was cut, and what is damaged."""
    if damaged := found.get("damaged"):
        say.err().print(
            f"Not shown, because damaged in the journal: {clean(', '.join(damaged))}. `strandline journal verify`"
            " has details.",
            markup=False,
            soft_wrap=True,
        )
    if found.get("next_cursor") is not None:
        say.err().print("There are more; --all shows them.", soft_wrap=True)


def print_json(body: Any) -> None:
    """Print a server's answer as JSON."""
    import sys

    from strandline._encoding import encode

    sys.stdout.write(encode(body).decode() + "\n")


def _show_run(server: "RemoteServer", text: str, *, as_json: bool) -> None:
    run = server.run(run_ids.found(server, text))
    print_json(run) if as_json else _print_run(run)


def _watch(server: "RemoteServer", session: str | None, limit: int, *, as_json: bool) -> NoReturn:
    """Show the runs of a session, or of all, in place, until Ctrl-C."""
    console = say.out()
    if as_json or (session or "").startswith(run_ids.RUN) or not console.is_terminal:
        say.fail("--watch shows the runs of all sessions, or of one, on a terminal; programs can poll GET /v1/runs")
    import time

    from rich.console import Group
    from rich.live import Live

    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            narrow = console.width < NARROW
            if session is None:
                watched = _watched(server, limit)
                shown = rows.lines(HEAD_WATCHED, [_row_watched(run, narrow=narrow) for run in watched], console)
            else:
                listed = _rows(server.runs(session_named(session), limit), narrow=narrow)
                shown = rows.lines(HEAD, listed, console)
            live.update(Group(*shown), refresh=True)
            time.sleep(WATCH_S)


def _watched(server: "RemoteServer", limit: int) -> list[dict[str, Any]]:
    """Return executing and waiting runs, oldest first, then the latest ended ones."""
    executing = server.all_runs(limit, ("running",))[
        "runs"
    ]  # (a request of its own: executing runs are older than waiting ones)
    waiting = server.all_runs(limit, ("queued",))["runs"]
    active = {run["run_id"]: run for run in (*executing[::-1], *waiting[::-1])}
    latest = [run for run in server.all_runs(min(ENDED_SHOWN, limit))["runs"] if run["run_id"] not in active]
    return [*active.values(), *latest]


def _row_watched(run: dict[str, Any], *, narrow: bool) -> list[str]:
    session = run["session_id"]
    if narrow and len(session) > NAME_SHOWN:
        session = f"{session[: NAME_SHOWN - 1]}…"
    run_id = run_ids.short(run["run_id"]) if narrow else run["run_id"]
    since = rows.took(run) if run["started_at"] else rows.seconds(rows.age_s(run["created_at"]))
    return [run_id, session, run["status"], since, describe(run)]


def _rows(found: dict[str, Any], *, narrow: bool = False) -> list[list[str]]:
    from strandline._remote.server import display_order

    return [
        [
            run_ids.short(r["run_id"]) if narrow else r["run_id"],
            *(r["status"], rows.clock_time(r["created_at"]), rows.took(r), describe(r)),
        ]
        for r in display_order(found["runs"])
    ]


def _rows_of_all(runs: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [r["run_id"], r["session_id"], r["status"], rows.clock_time(r["created_at"]), rows.took(r), describe(r)]
        for r in runs
    ]


def _now(run: dict[str, Any]) -> str:
    match run["status"]:
        case "queued" if run["position"] is None and run.get("joined"):
            return why_of(run) or f"joins {run['joined']}"
        case "running" if run.get("joined"):
            return f"has joined {run['joined']}"
        case "queued":
            position = "next" if run["position"] == 1 else f"position {run['position']}"
            if (why := why_of(run)) and run["why"]["code"] != BEHIND:
                return f"{position}: {why}"
            wait_s = run.get("estimated_wait_s")
            return f"{position}, about {rows.seconds(wait_s)}" if wait_s else position
        case "running":
            return str(run["phase"] or "")
        case "failed":
            error = run["error"] or {"code": "failed", "detail": ""}
            return f"{error['code']}: {error['detail']}" if error.get("detail") else str(error["code"])
        case "needs_input":
            names = ", ".join(str(each.get("name", each)) for each in run.get("input_requests") or [])
            return f"{names}: {why}" if (why := why_of(run)) else names
        case _:
            return str(run["output"])


def why_of(run: dict[str, Any]) -> str:
    """Return why a run waits, in the server's words; empty if it does not wait, or the server does not say."""
    why = run.get("why")
    return str(why["text"]) if why else ""


def _print_run(run: dict[str, Any]) -> None:
    """Print one run: a line for each field that has a value, then its answer."""
    console = say.out()
    shown = {
        "run": run["run_id"],
        "session": run["session_id"],
        "status": run["status"],
        "now": _now(run) if run["status"] not in ("succeeded", "cancelled") else "",
        "accepted": rows.clock_time(run["created_at"]),
        "due": rows.clock_time(run["not_before"]) if run.get("not_before") else "",
        "started": rows.clock_time(run["started_at"]) if run["started_at"] else "",
        "ended": rows.clock_time(run["ended_at"]) if run["ended_at"] else "",
        "took": rows.took(run) if run["started_at"] else "",
        "priority": str(run["priority"]) if run["priority"] != USUAL else "",
        "joined": run.get("joined") or "",
        "attempt": str(run["attempt"]) if run["attempt"] > 1 else "",
        "held": (why_of(run) or "a tool of it is still executing") if run["held"] else "",
        "cancel": "it was asked to stop" if run["cancel_requested"] and not run["ended_at"] else "",
        "usage": ", ".join(f"{name} {number}" for name, number in (run["usage"] or {}).items()),
        "metadata": ", ".join(f"{name}={value}" for name, value in run["metadata"].items()),
    }
    for name, value in shown.items():
        if value:
            console.print(f"{name:8}  {rows.clean(value)}", markup=False, soft_wrap=True)
    if run["output"]:
        from strandline._printable import clean

        console.print(f"\n{clean(run['output'])}", markup=False, soft_wrap=True)


def session_named(name: str) -> str:
    """Return the id of a session. Raises `Invalid`."""
    from strandline._model import session_id

    return session_id(name)


def server_of(url: str | None, key_file: "Path | None") -> "RemoteServer":
    """Return the server at `url`, else the one of this folder's settings."""
    from strandline._remote.server import RemoteServer

    return RemoteServer(address(url), api_key(key_file))
