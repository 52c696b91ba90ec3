"""The command line: `strandline serve TARGET`. Every error is one paragraph that says what to do."""

import inspect
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from strandline import __version__
from strandline.cli_journal import journal_app
from strandline.config import Settings, default_of, descriptions, resolve
from strandline.errors import SetupError

app = typer.Typer(
    help="Put a stateful agent behind HTTP. Requests to one conversation wait their turn; they never race.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def _strandline(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def serve(target: str, config: Path | None = None, verbose: bool = False, **flags: Any) -> None:
    """Serve TARGET over HTTP until SIGTERM or Ctrl-C.

    TARGET is `path/file.py`, `path/file.py:name` or `package.module:name`. It names a factory that makes a Strands
    agent for a session, or an async function that answers a message. Without `:name`, `make_agent` is looked for.
    """
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("strandline").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("strands").setLevel(logging.INFO if verbose else logging.CRITICAL)
    try:
        resolved = resolve(flags, os.environ, toml=config)
        from strandline.agents.load import load_target
        from strandline.serve import run

        served = load_target(target, history=resolved.settings.history)
        code = run(served, resolved.settings, announce=lambda line: console.print(line, soft_wrap=True))
    except SetupError as error:
        console.print(f"[bold red]strandline:[/] {_escaped(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


@app.command()
def stacks(
    journal: Annotated[str | None, typer.Option(help="The server's journal \\[from its settings]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings")] = None,
) -> None:
    """Show what every run of a running server does at this moment: its phase, and where its code is.

    Asks the server that has the journal open, on this machine. For one in a container: docker exec CONTAINER strandline
    stacks.
    """
    console = Console(stderr=True)
    try:
        kind, _, place = resolve({"journal": journal}, os.environ, toml=config).settings.journal.partition(":")
        if kind != "sqlite":
            raise SetupError("only a server with a `sqlite:PATH` journal can be asked: name it with --journal")
        from strandline.stacks import ask

        sys.stdout.write(ask(Path(place)))
    except SetupError as error:
        console.print(f"[bold red]strandline:[/] {_escaped(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(2) from None


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _flag(name: str, meaning: str) -> inspect.Parameter:
    """Return the flag of a setting, as Typer reads it; values are checked where all settings are."""
    default = default_of(name)
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{meaning} [dim]\\[{_shown(default)}][/]"
    if isinstance(default, bool):
        kind: Any = bool | None
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text, show_default=False)
    else:
        kind = str | None
        option = typer.Option(flag, help=help_text, metavar=_metavar(default))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _shown(default: object) -> str:
    match default:
        case bool():
            return "yes" if default else "no"
        case None:
            return "none"
        case list():
            return ", ".join(default) or "none"
        case _:
            return f"{default:g}" if isinstance(default, float) else str(default)


def _metavar(default: object) -> str:
    if isinstance(default, float):
        return "SECONDS"
    if isinstance(default, int):
        return "N"
    return "LIST" if isinstance(default, list) else "TEXT"


def _register() -> None:
    """Give `serve` one flag per setting, from the one place where settings are written down."""
    parameters = [
        inspect.Parameter(
            "target",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=Annotated[str, typer.Argument(help="What to serve.", metavar="TARGET")],
        ),
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None, typer.Option("--config", help="TOML file with settings [dim]\\[strandline.toml][/]")
            ],
        ),
        inspect.Parameter(
            "verbose",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")],
        ),
        *(_flag(name, meaning) for name, meaning in descriptions().items()),
    ]
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command()(serve)


_register()
app.add_typer(journal_app, name="journal")
assert set(descriptions()) == set(Settings.__struct_fields__)


def main() -> None:
    """Run the command."""
    app()
