"""`strandline sessions show`, `change` and `delete`: one session of a server."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import SESSIONS, one_of
from strandline._cli.runs import Json, print_json, server_of, session_named
from strandline._exits import REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from strandline._remote.server import RemoteServer

Session = Annotated[
    str, typer.Argument(help="The session.", metavar="SESSION", show_default=False, autocompletion=SESSIONS)
]
IF_BUSY = ("enqueue", "reject", "interrupt", "rollback", "steer", "collect")
ON_QUESTION = ("wait", "answer", "dismiss")
ON_DISCONNECT = ("continue", "cancel_if_queued", "cancel")
NAMES = (
    "if_busy", "on_question", "priority", "timeout", "queue_timeout", "on_disconnect", "metadata", "sender", "webhook",
    "collect",
)  # fmt: skip
"""The options that a session may have."""


def show(session: Session, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show a session: what it does now, and the default options of its runs.

    Example: strandline sessions show ada
    """
    _print(_requested(session, url, key_file, lambda server, name: server.session(name)), as_json=as_json)


def change(
    session: Session,
    if_busy: Annotated[
        str | None,
        typer.Option(help="What a run does while others execute or wait.", autocompletion=one_of(*IF_BUSY)),
    ] = None,
    on_question: Annotated[
        str | None, typer.Option(help="What it does while a question is open.", autocompletion=one_of(*ON_QUESTION))
    ] = None,
    priority: Annotated[int | None, typer.Option(help="1 (first) to 5.", metavar="N", min=1, max=5)] = None,
    timeout: Annotated[float | None, typer.Option(help="How long a run may take.", metavar="SECONDS")] = None,
    queue_timeout: Annotated[float | None, typer.Option(help="How long it may wait.", metavar="SECONDS")] = None,
    on_disconnect: Annotated[
        str | None, typer.Option(help="What it does without clients.", autocompletion=one_of(*ON_DISCONNECT))
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Any other one, as JSON: 'collect={\"quiet\": 1}'; repeatable.", metavar="NAME=JSON"),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(help="Remove one; repeatable.", metavar="NAME", autocompletion=one_of(*NAMES)),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Change the default options of a session's runs: they count for those that are accepted from now on.

    Example: strandline sessions change ada --if-busy interrupt --unset timeout
    """
    given = {
        "if_busy": if_busy,
        "on_question": on_question,
        "priority": priority,
        "timeout": timeout,
        "queue_timeout": queue_timeout,
        "on_disconnect": on_disconnect,
    }
    named: list[tuple[str, Any]] = [(name, value) for name, value in given.items() if value is not None]
    named += [*map(parsed_option, option or ()), *((name.replace("-", "_"), None) for name in unset or ())]
    names = [name for name, _ in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        say.fail(f"say once what becomes of {', '.join(twice)}")
    if clear and named:
        say.fail("--clear removes all options: say it alone")
    if not clear and not named:
        say.fail("say what to change: --if-busy, --priority, ..., --option, --unset or --clear")
    options = None if clear else dict(named)
    found = _requested(session, url, key_file, lambda server, name: server.set_options(name, options))
    _print(found, as_json=as_json)


def delete(session: Session, url: Url = None, key_file: KeyFile = None) -> None:
    """Delete a session with its history, runs, files and schedules. Nothing of it can execute, wait or be locked.

    Example: strandline sessions delete ada
    """
    _requested(session, url, key_file, lambda server, name: server.delete_session(name))
    say.out().print(f"Session {session} is deleted.", markup=False, soft_wrap=True)


def _requested(
    session: str, url: Url, key_file: KeyFile, ask: "Callable[[RemoteServer, str], dict[str, Any]]"
) -> dict[str, Any]:
    from strandline._remote.server import TooLate, UnknownId

    with say.errors_reported(), server_of(url, key_file) as server:
        try:
            return ask(server, session_named(session))
        except (UnknownId, TooLate) as error:
            say.say_error(str(error))
            raise typer.Exit(REFUSED) from None


def parsed_option(given: str) -> tuple[str, Any]:
    """Return the name and the value of an option that is given as NAME=JSON."""
    from msgspec import DecodeError, json

    name, is_given, value = given.partition("=")
    try:
        return name.replace("-", "_"), json.decode(value if is_given else "")
    except DecodeError:
        say.fail(f'--option {name} needs a value as JSON, such as --option \'metadata={{"team": "blue"}}\'')


def _print(session: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(session)
        return
    from msgspec import json

    from strandline._cli.sessions import now

    forked = session.get("forked_from")
    shown = {
        "session": session["session_id"],
        "caller": session.get("principal", ""),
        "messages": str(session["messages"]),
        "waiting": str(session["queue_depth"]),
        "now": now(session),
        "forked": "" if forked is None else f"from {forked['session_id']}",
    }
    options = {name: json.encode(value).decode() for name, value in session["options"].items()}
    for name, value in (*shown.items(), *(("option", f"{name} {value}") for name, value in options.items())):
        if value:
            say.out().print(f"{name:8}  {rows.clean(value)}", markup=False, soft_wrap=True)
