"""`strandline cancel` and `strandline move`: change the runs of a server."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from strandline._cli import run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import RUNS, SESSIONS
from strandline._cli.runs import Json, print_json, server_of, session_named, why_of
from strandline._exits import REFUSED

if TYPE_CHECKING:
    from strandline._remote.server import RemoteServer

RunIds = Annotated[
    list[str],
    typer.Argument(help="Run ids, or the start or end of each.", metavar="RUN...", autocompletion=RUNS),
]


def cancel(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run ids, or the start or end of each.",
            metavar="RUN...",
            show_default=False,
            autocompletion=RUNS,
        ),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            "--session", "-s", help="All waiting runs of this session.", metavar="NAME", autocompletion=SESSIONS
        ),
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="With --session: the executing run too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Release the session at once, even if a tool of the run is still executing.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Cancel runs, or all waiting runs of a session.

    A waiting run ends at once. An executing run is asked to stop: history keeps
    what it has done, and the next run follows.

    Example: strandline cancel --session ada --running
    """
    if bool(run) == (session is not None):
        say.fail("say what to cancel: run ids, or --session NAME for all its waiting runs")
    if running and session is None:
        say.fail("--running needs --session; a run named by its id is cancelled in any state")
    with say.errors_reported(), server_of(url, key_file) as server:
        if session is not None:
            done = server.cancel_session(session_named(session), running=running, force=force)
            print_json(done) if as_json else _print_cancelled(server, session, done)
            return
        _each(server, run or [], as_json, lambda run_id: _cancel(server, run_id, force=force), _after_cancel)


def move(
    run: RunIds,
    front: Annotated[bool, typer.Option("--front", help="To the front of the queue.")] = False,
    priority: Annotated[
        int | None,
        typer.Option(help="To this priority: 1 (first) to 5.", metavar="N", min=1, max=5),
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Move waiting runs to the front, or to another priority.

    Example: strandline move run_... --front
    """
    if front == (priority is not None):
        say.fail("say where to: --front, or --priority N (1 to 5, 1 first)")
    with say.errors_reported(), server_of(url, key_file) as server:
        _each(server, run, as_json, lambda run_id: server.move(run_id, priority=priority), _after_move)


def _each(
    server: "RemoteServer",
    typed: list[str],
    as_json: bool,
    change: Callable[[str], dict[str, Any]],
    sentence: Callable[[dict[str, Any]], str],
) -> None:
    """Change each run and print the result; a run that cannot be changed is reported, and the others still are."""
    from strandline._remote.server import TooLate, UnknownId

    failed = False
    for text in typed:
        try:
            run = change(run_ids.found(server, text))
        except (UnknownId, TooLate) as error:
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
    """Cancel a run and return it. Raises `RemoteError`; for a held run it says how to release it."""
    from strandline._remote.server import TooLate

    refusal: TooLate | None = None
    try:
        run = server.cancel(run_id, force=force)
    except TooLate as error:
        refusal, run = error, server.run(run_id)
    if run["held"] and not force:
        raise TooLate(
            f"run {run_id} has ended: {why_of(run) or 'a tool of it is still executing'}. To release session"
            f" {run['session_id']} now: strandline cancel {run_id} --force"
        )
    if refusal is not None:
        raise refusal
    return run


def _after_cancel(run: dict[str, Any]) -> str:
    if run["status"] == "running":
        return f"{run['run_id']} is executing ({run['phase']}) and was asked to stop."
    if run["status"] == "needs_input":
        return f"{run['run_id']} asks no more: its question was dismissed, and the session continues."
    if run["status"] != "cancelled":
        return f"{run['run_id']} ended."
    return f"{run['run_id']} was cancelled{'; it never started' if run['started_at'] is None else ''}."


def _after_move(run: dict[str, Any]) -> str:
    return f"{run['run_id']} is now at position {run['position']} of session {run['session_id']}."


def _print_cancelled(server: "RemoteServer", session: str, done: dict[str, Any]) -> None:
    ended, cancelling = done["cancelled"], done["cancelling"]
    console = say.out()
    for run_id in ended:
        console.print(f"{run_id} was cancelled.", markup=False, soft_wrap=True)
    for run_id in cancelling:
        console.print(f"{run_id} is executing and was asked to stop.", markup=False, soft_wrap=True)
    dismissed = done.get("dismissed", False)
    if dismissed:
        console.print(
            f"The question of session {session} was dismissed; the session continues.", markup=False, soft_wrap=True
        )
    if not ended and not cancelling and not dismissed:
        found = server.session(session)
        held = f"; {why_of(found)}. To release it: strandline cancel {found['held']} --force" if found["held"] else "."
        say.err().print(f"Nothing waits in session {session}{held}", markup=False, soft_wrap=True)
