"""`strandline cluster`: the servers that share a journal in PostgreSQL, which one has a session, how to take one out.

It asks the database, not a server: so it also shows servers that do not answer.
"""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strandline._cli import rows, say
from strandline._cli.journal_options import Config
from strandline._printable import without_passwords

if TYPE_CHECKING:
    from strandline._journal.postgres.roster import Roster, ServerRow

cluster_app = typer.Typer(rich_markup_mode=None)

WATCH_S = 0.5
"""How often `drain` looks."""

Journal = Annotated[
    str | None,
    typer.Option("--journal", help="The database, as postgresql://... [from the settings]", metavar="URL"),
]
ServerId = Annotated[int, typer.Argument(help="The server's id, as `strandline cluster` shows it.", metavar="SERVER")]
Session = Annotated[str, typer.Argument(help="The session.", metavar="SESSION")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@cluster_app.callback(invoke_without_command=True)
def cluster(context: typer.Context, journal: Journal = None, as_json: AsJson = False, config: Config = None) -> None:
    """Show the servers that share the journal: what each owns, and for how long its lease lasts.

    A server whose lease is over is taken over by the others. Settings name the
    database, or --journal does.

    Example: strandline cluster --json
    """
    if context.invoked_subcommand is not None:
        return
    with say.errors_reported():
        from strandline._journal.postgres.roster import roster

        found = roster(_database(journal, config))
    if as_json:
        _print_json(found)
        return
    _show(found)


@cluster_app.command(short_help="Have a server hand over its sessions.")
def drain(
    server: ServerId,
    journal: Journal = None,
    wait_s: Annotated[
        float, typer.Option("--wait", help="Seconds to wait until it owns nothing; 0: do not wait.", min=0)
    ] = 120.0,
    config: Config = None,
) -> None:
    """Have a server hand over its sessions to the others, and take no more.

    It keeps answering: it passes requests on. A session with an executing run is
    handed over when that has ended. To stop the server, end its process (SIGTERM
    drains it anyway); to have it take its share again, use `fill`.

    Example: strandline cluster drain 3
    """
    with say.errors_reported():
        from strandline._journal.postgres.roster import roster

        database = _database(journal, config)
        _leave(database, server, leaving=True)
        until = time.monotonic() + wait_s

        def left() -> int:
            return next((each.partitions for each in roster(database).servers if each.id == server), 0)

        with say.err().status(f"Server {server} hands over its sessions ..."):
            while (owned := left()) and time.monotonic() < until:
                time.sleep(WATCH_S)
    if owned and wait_s:
        say.fail(
            f"Server {server} still owns {owned} of 256 partitions after {wait_s:g} s: runs execute there, or it is the"
            " only one. It continues to hand over."
        )
    say.out().print(f"Server {server} takes no more sessions" + (", and has none." if not owned else "."))


@cluster_app.command(short_help="Have a drained server take its share again.")
def fill(server: ServerId, journal: Journal = None, config: Config = None) -> None:
    """Have a server that was drained take its share of the sessions again.

    Example: strandline cluster fill 3
    """
    with say.errors_reported():
        _leave(_database(journal, config), server, leaving=False)
    say.out().print(f"Server {server} takes its share again.")


@cluster_app.command(short_help="Show which server has a session.")
def owner(
    session: Session,
    caller: Annotated[
        str, typer.Option("--caller", help="The caller whose session it is: the name of its API key.", metavar="NAME")
    ] = "anonymous",
    journal: Journal = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show which server has a session: its runs execute there, and are in its log.

    Any server answers for the session; this one decides. It need not exist yet.
    Exit code: 0, also if no server has it at the moment.

    Example: strandline cluster owner ada --caller web-frontend
    """
    with say.errors_reported():
        from strandline._journal.postgres.roster import owner_of
        from strandline._model import session_key

        found = owner_of(_database(journal, config), session_key(session, principal=caller))
    if as_json:
        _print_json(found)
        return
    server = found.server
    rows.show(
        ["SESSION", "PART", "SERVER", "LEASE", "ADDRESS", "PROCESS"],
        [
            [
                *(found.session_id, str(found.partition)),
                *([rows.BARE] * 4 if server is None else [str(server.id), _lease(server), *_place(server)]),
            ]
        ],
    )
    if server is None:
        say.err().print("No server has it at the moment: one takes it over within seconds, if any is there.")
    if not found.exists:
        say.err().print(
            f"{caller} has no such session yet: its first request makes it there.", soft_wrap=True, markup=False
        )


def _leave(database: str, server: int, *, leaving: bool) -> None:
    from strandline._journal.postgres.roster import set_leaving

    if not set_leaving(database, server, leaving=leaving):
        say.fail(f"There is no server {server}. `strandline cluster` shows those that are there.")


def _database(journal: str | None, config: Path | None) -> str:
    """Return where the database is. Exits if the journal is none, or its driver is missing."""
    from strandline._config import journal_database, resolve
    from strandline.errors import SettingsError

    flags = {} if journal is None else {"journal": journal}
    settings = resolve(flags, os.environ, toml=config).settings
    database = journal_database(settings)
    if database is None:
        raise SettingsError(
            f"the journal is {without_passwords(settings.journal)}, which only one server can use: several servers"
            " share one in PostgreSQL. Name it with --journal postgresql://..."
        )
    try:
        import strandline._journal.postgres.roster  # noqa: F401
    except ImportError as error:
        raise SettingsError("this needs PostgreSQL's driver: pip install 'strandline[postgres]'") from error
    return database


def _show(found: "Roster") -> None:
    if not found.servers:
        say.err().print("No server is there.", soft_wrap=True)
    else:
        rows.show(
            ["SERVER", "OWNS", "OPEN RUNS", "LEASE", "UP", "VERSION", "ADDRESS", "PROCESS"],
            [
                [
                    str(each.id),
                    f"{each.partitions} of {found.partitions}" + (", leaving" if each.leaving else ""),
                    str(each.open_runs),
                    _lease(each),
                    _age(time.time() - each.since),
                    each.version,
                    *_place(each),
                ]
                for each in found.servers
            ],
        )
    if found.free:
        say.err().print(f"{found.free} of {found.partitions} partitions have no server.", soft_wrap=True)


def _lease(server: "ServerRow") -> str:
    return f"{server.lease_left_s:.0f} s" if server.lease_left_s > 0 else "over"


def _place(server: "ServerRow") -> tuple[str, str]:
    """Return where a server is, and which process."""
    return server.address or rows.BARE, server.name


def _print_json(found: object) -> None:
    from strandline._encoding import encode

    sys.stdout.write(encode(found).decode() + "\n")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
