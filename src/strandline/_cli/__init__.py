"""The `strandline` command, composed of its subcommands; each has a module of its own.

A subcommand imports what it needs when it runs, so `strandline --help` and shell completion are quick.
"""

import io
import os
import sys
from typing import Annotated

import typer

from strandline import __version__
from strandline._cli import say
from strandline._cli.again import again, restore
from strandline._cli.answer import answer
from strandline._cli.cancel import cancel, move
from strandline._cli.chat import chat
from strandline._cli.check import check
from strandline._cli.cluster import cluster_app
from strandline._cli.demo import demo_app
from strandline._cli.doctor import doctor
from strandline._cli.edit import edit
from strandline._cli.export import export
from strandline._cli.files import files
from strandline._cli.fork import fork
from strandline._cli.init import init
from strandline._cli.journal import journal_app
from strandline._cli.keys import keys_app
from strandline._cli.resolve import resolve
from strandline._cli.runs import runs
from strandline._cli.schedules import schedules_app
from strandline._cli.serve import serve
from strandline._cli.sessions import history, pause, resume, sessions_app
from strandline._cli.settings import settings
from strandline._cli.stacks import stacks
from strandline._cli.tree import tree
from strandline._cli.webhooks import webhooks_app
from strandline._exits import INTERRUPTED

app = typer.Typer(
    help="Put a stateful agent behind HTTP. Requests to one conversation wait their turn; they never race.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _strandline(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


app.command()(init)
app.command("serve")(serve)
app.command()(chat)
app.add_typer(sessions_app, name="sessions", short_help="Show the sessions of a server; change or delete one.")
app.command(short_help="Show the runs of a session.")(runs)
app.command()(history)
app.command(short_help="Show, upload and download the files of a session.")(files)
app.command(short_help="Write all of a session into a zip.")(export)
app.command()(cancel)
app.command(short_help="Move waiting runs.")(move)
app.command(short_help="Change what a waiting run says.")(edit)
app.command(short_help="Pause a session: accept runs, start none.")(pause)
app.command()(resume)
app.command(short_help="Show or answer an agent's questions.")(answer)
app.command(short_help="Replace a run by one with the same input.")(again)
app.command(short_help="Have the conversation continue with a superseded run.")(restore)
app.command(short_help="Make a session that begins with the history of another one.")(fork)
app.command(short_help="Draw the branches of a session and its forks.")(tree)
app.command(short_help="Continue a crashed run with what its tools have done.")(resolve)
app.command(short_help="Show every setting: its value, its origin, its meaning.")(settings)
app.command(short_help="Find problems before a server starts, and how to fix them.")(doctor)
app.command()(stacks)
app.command(short_help="Test how any agent server behaves under stress.")(check)
app.add_typer(schedules_app, name="schedules", short_help="Show and make schedules: runs at the times of a calendar.")
app.add_typer(webhooks_app, name="webhooks", short_help="Show events for webhooks; send them again; test one.")
app.add_typer(journal_app, name="journal")
app.add_typer(cluster_app, name="cluster", short_help="Show the servers over one database; take one out.")
app.add_typer(keys_app, name="keys")
app.add_typer(demo_app, name="demo")


def _open_what_is_closed() -> None:
    """Reopen closed standard streams on /dev/null: otherwise the next opened file or socket would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # (open until the process ends)


def _replace_what_cannot_be_written() -> None:
    """Print a replacement for each character that the terminal cannot encode, instead of failing.

    `surrogateescape` is what Python uses for the standard output in the locale C: it fails too, for every character
    that is not an escaped byte.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Run the command; usage errors and bugs are reported in one paragraph too."""
    _open_what_is_closed()
    _replace_what_cannot_be_written()
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = INTERRUPTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = say.say_unforeseen(error)
    sys.exit(code)
