"""The commands of `strandline journal`: back up, verify, prune and fill a journal; `journal_copy` has the others.

They print results to the standard output, progress and errors to the standard error. `strandline._journal` does the
work. Exit codes: 0 done and sound, 1 faults found or a session refused, 2 failed.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypedDict

import typer
from msgspec.structs import asdict

from strandline._cli import say
from strandline._cli.journal_copy import copy, migrate
from strandline._cli.journal_options import (
    FAULTS,
    AsJson,
    Config,
    FilesFolder,
    OptionalPath,
    Step,
    progress,
    say_faults,
    size_of,
)
from strandline._cli.locations import (
    Database,
    Location,
    backup_of_database,
    driver_needed,
    files_of,
    journal_at,
)
from strandline._model import ANONYMOUS
from strandline._older_names import by_both_names
from strandline.errors import JournalError

if TYPE_CHECKING:
    from strandline._journal.findings import Findings, OnStep

journal_app = typer.Typer(
    help="Back up, verify, prune, migrate, copy and fill the journal.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_UNITS: Final = {"": 86_400.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}


@journal_app.command(no_args_is_help=True, short_help="Copy it to a file, even while a server runs.")
def backup(
    files: Annotated[
        list[str],
        typer.Argument(help="The journal [from the settings], and the file to create.", metavar="[PATH] TO"),
    ],
    folder: FilesFolder = None,
    config: Config = None,
) -> None:
    """Copy a consistent snapshot of the journal to a file, even while a server runs.

    Its uploaded files are copied to the folder TO.files (linked, on the same disk),
    and compared with their hashes. Nothing is overwritten. To restore it, stop the
    server, remove the journal's -wal and -shm files if there are any, and put the
    copy and its folder in the places of the journal and its folder. Exit code: 1 if
    files are missing or changed; all others are in the backup then.
    For a database it says which command of PostgreSQL makes a backup, and exits
    with code 2: it has made none.

    Example: strandline journal backup .strandline/journal.db monday.db
    """
    from strandline._journal.backup import backup as copy_file

    if len(files) > 2:
        say.fail(f"{len(files)} files were named: name the journal and the file to create.")
    with say.errors_reported(), progress("pages") as step:
        journal = journal_at(files[0] if len(files) == 2 else None, config)
        if isinstance(journal, Database):
            raise backup_of_database(journal, files[-1])
        made = copy_file(
            journal,
            Path(files[-1]),
            step,
            files=files_of(journal, config, folder),
            on_file=lambda what, done, total: step(done, total, what),
        )
    say.out().print(f"{files[-1]}: {size_of(made.size)}, verified and on disk.", soft_wrap=True)
    if made.files:
        count, at_fault = f"{made.files:,} file{'s' * (made.files != 1)}", "verified and on disk."
        if made.faults:
            at_fault = "of which some are missing or changed in the journal's folder as well:"
        say.out().print(f"{files[-1]}.files: {count}, {at_fault}", soft_wrap=True)
    say_faults(made.faults)


@journal_app.command(short_help="Check everything in it, and change nothing.")
def verify(
    path: OptionalPath = None, folder: FilesFolder = None, as_json: AsJson = False, config: Config = None
) -> None:
    """Check everything in the journal, even while a server runs, and change nothing.

    Uploaded files are read, and compared with their hashes.

    Exit code: 0 if it is sound, 1 if there are faults, 2 if it cannot be read.

    Example: strandline journal verify .strandline/journal.db --json
    """
    from rich.markup import escape
    from rich.table import Table

    from strandline._encoding import encode

    with say.errors_reported(), driver_needed(), progress("pages") as step:
        journal = journal_at(path, config)
        files = files_of(journal, config, folder)
        findings = _check(journal, files, lambda what, done, total: step(done, total, what))
    console = say.out()
    if as_json:
        found = {**asdict(findings), "locked_sessions": findings.held}
        sys.stdout.write(encode(by_both_names(found, "journal verify")).decode() + "\n")
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        table.add_row("journal", escape(findings.journal))
        table.add_row("size", size_of(findings.bytes))
        table.add_row("sessions", f"{findings.sessions:,}")
        summary = ", ".join(f"{count:,} {status}" for status, count in findings.runs.items() if count)
        table.add_row("runs", f"{sum(findings.runs.values()):,}" + (f" ({summary})" if summary else ""))
        table.add_row("locked sessions", f"{findings.held:,}")
        table.add_row("messages", f"{findings.messages:,}")
        hidden = f"{findings.discarded_messages:,}"
        if findings.discarded_messages:
            hidden += f", in {findings.discarded_in_sessions:,} session{'s' * (findings.discarded_in_sessions != 1)}"
        table.add_row("of discarded runs", hidden)
        if findings.files:
            unchecked = " (not read: name their folder with --files)" if findings.unchecked_files else ""
            table.add_row("files", f"{findings.files:,}{unchecked}")
        count = len(findings.faults) + findings.more_faults
        table.add_row("faults", "[green]none: it is sound[/]" if findings.sound else f"[bold red]{count:,}[/]")
        console.print(table)
        for fault in findings.faults:
            console.print(f"[red]-[/] {escape(fault)}")
        if findings.more_faults:
            console.print(f"[red]-[/] and {findings.more_faults:,} more")
    if not findings.sound:
        raise typer.Exit(FAULTS)


def _check(journal: Location, files: Path | None, on_step: "OnStep") -> "Findings":
    if isinstance(journal, Database):
        from strandline._journal.postgres.verify import verify

        return verify(journal.address, on_step, files=files)
    from strandline._journal.verify import verify as verify_file

    return verify_file(journal, on_step, files=files)


@journal_app.command()
def prune(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Delete runs that ended longer ago: days, or with a unit `30d`, `12h`, `90m`.",
            metavar="AGE",
        ),
    ],
    path: OptionalPath = None,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Shrink the file; this needs as much free space again.")
    ] = False,
    config: Config = None,
) -> None:
    """Delete runs that ended long ago. Their messages stay in history.

    No server may use the journal meanwhile: a server prunes by itself (setting `run_retention`).

    Example: strandline journal prune --older-than 30d --vacuum
    """
    import asyncio

    from strandline._clock import SystemClock
    from strandline._journal import pruning

    age_s = _seconds(older_than)
    clock = SystemClock()
    with say.errors_reported(), driver_needed():
        journal = journal_at(path, config)
        if isinstance(journal, Database):
            if vacuum:
                raise JournalError(
                    "--vacuum is for files: PostgreSQL uses freed space again by itself (autovacuum), and `VACUUM FULL`"
                    " in psql shrinks its tables."
                )
            from strandline._journal.postgres.pruning import prune as prune_database

            with progress("runs deleted") as step:
                deleted = prune_database(journal.address, clock, age_s, lambda count: step(count, None))
            say.out().print(f"{deleted:,} runs deleted.")
            return
        with progress("runs deleted") as step:
            forgotten = asyncio.run(pruning.prune(journal, clock, age_s, lambda count: step(count, None)))
        say.out().print(f"{forgotten:,} runs deleted.")
        if vacuum:
            freed = asyncio.run(pruning.vacuum(journal, clock))
            say.out().print(f"{size_of(max(freed, 0))} freed.")


class _Import(TypedDict):
    """How sessions are imported, into a file or a database."""

    prefix: str
    principal: str
    skip_existing: bool
    dry_run: bool
    on_step: Step
    named: str | None


@journal_app.command("import", short_help="Import sessions of Strands' FileSessionManager.")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder with `session_ID` folders, or one of them.", metavar="FOLDER")],
    path: OptionalPath = None,
    session_prefix: Annotated[
        str, typer.Option("--session-prefix", help="Prefix for all session ids.", metavar="TEXT", show_default=False)
    ] = "",
    named: Annotated[
        str | None, typer.Option("--as", help="New session id, if there is only one session.", metavar="ID")
    ] = None,
    caller: Annotated[
        str | None,
        typer.Option("--caller", help="The caller who will own the sessions [anonymous]", metavar="NAME"),
    ] = None,
    principal: Annotated[str | None, typer.Option("--principal", hidden=True)] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip sessions that are already in the journal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Import the conversations of Strands' FileSessionManager.

    Each session is imported whole or not at all, with its agent's state.

    If a run had failed midway, its messages are completed so that the conversation
    can continue. Nothing is left out, and each repair is reported.

    No server may use the journal meanwhile. Exit code: 1 if a session was refused.

    Example: strandline journal import ~/.strands/sessions .strandline/journal.db --dry-run
    """
    import asyncio

    from rich.markup import escape
    from rich.table import Table

    from strandline._clock import SystemClock
    from strandline._encoding import encode
    from strandline._journal.importing import import_sessions

    if named is not None and session_prefix:
        say.fail("--as and --session-prefix cannot be combined: use one of them.")
    if None not in (caller, principal) and caller != principal:
        say.fail(f"--caller is {caller!r}, and by its older name --principal it is {principal!r}. Set one of the two.")
    owners = [each for each in (caller, principal) if each is not None]
    with say.errors_reported(), driver_needed(), progress("sessions") as step:
        journal, clock = journal_at(path, config), SystemClock()
        how = _Import(
            prefix=session_prefix, principal=owners[0] if owners else ANONYMOUS, skip_existing=skip_existing,
            dry_run=dry_run, on_step=step, named=named,
        )  # fmt: skip
        if isinstance(journal, Database):
            from strandline._journal.postgres.importing import import_sessions as import_into_database

            results = import_into_database(folder.expanduser(), journal.address, clock, **how)
        else:
            results = asyncio.run(import_sessions(folder.expanduser(), journal, clock, **how))
    console = say.out()
    if as_json:
        sys.stdout.write(encode(results).decode() + "\n")
    else:
        table = Table(box=None, pad_edge=False)
        for name in ("session", "result"):
            table.add_column(name, overflow="fold")
        table.add_column("messages", justify="right")
        table.add_column("remarks", overflow="fold")
        colours = {"imported": "green", "skipped": "yellow", "refused": "red"}
        for each in results:
            remarks = "\n".join([each.reason] if each.reason else each.repairs)
            messages = f"{each.messages:,}" if each.result == "imported" else ""
            table.add_row(
                escape(each.session_id), f"[{colours[each.result]}]{each.result}[/]", messages, escape(remarks)
            )
        console.print(table)
        counts = {name: sum(each.result == name for each in results) for name in colours}
        summary = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        console.print(f"{summary}{' (nothing was written)' if dry_run else ''}")
    if any(each.result == "refused" for each in results):
        raise typer.Exit(FAULTS)


journal_app.command(short_help="Bring its tables to this version.")(migrate)
journal_app.command(no_args_is_help=True, short_help="Copy it between SQLite and PostgreSQL.")(copy)


def _seconds(age: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([dhms]?)", age.strip())
    if found is None:
        say.fail(
            f"--older-than is {age!r}, which is not an age. Write days (`30`) or a number with a unit (`30d`, `12h`)."
        )
    return float(found[1]) * _UNITS[found[2]]
