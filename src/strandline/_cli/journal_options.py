"""What the commands of `strandline journal` share: options, sizes and progress."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from strandline._cli import say
from strandline._cli.complete import JOURNALS, TOML

FAULTS: Final = 1
"""The exit code of a command that found faults, or refused something."""
Step = Callable[..., None]

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file with settings [strandline.toml]", metavar="FILE", autocompletion=TOML),
]
FilesFolder = Annotated[
    Path | None,
    typer.Option(
        "--files",
        help="The folder of its uploaded files [beside it, or from the settings]",
        metavar="FOLDER",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OptionalPath = Annotated[
    str | None,
    typer.Argument(
        help="The journal: a file, `sqlite:FILE` or `postgresql://...` [from the settings]",
        metavar="PATH",
        show_default=False,
        autocompletion=JOURNALS,
    ),
]


def size_of(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def say_faults(faults: Sequence[str]) -> None:
    """Print what is wrong with contents of files, and exit with code 1, if anything is."""
    for fault in faults:
        say.err().print(f"- {fault}", soft_wrap=True, markup=False, highlight=False)
    if faults:
        raise typer.Exit(FAULTS)


@contextmanager
def progress(what: str) -> Iterator[Step]:
    """Yield `step(done, total, what)`, which draws a progress bar on a terminal until the block ends."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    console = say.err()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task: TaskID = shown.add_task(what, total=None)

        def step(done: int, total: int | None, named: str = what) -> None:
            shown.update(task, completed=done, total=total, description=named)

        yield step
