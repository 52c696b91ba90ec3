"""`strandline demo`: what Strandline does, shown in a terminal."""

from pathlib import Path
from typing import Annotated

import typer

from strandline._cli import say
from strandline._exits import INTERRUPTED

demo_app = typer.Typer(
    help="Show what Strandline does.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@demo_app.callback()
def _demo() -> None:
    """Show what Strandline does."""


@demo_app.command(short_help="Five requests at once: without Strandline, and with it.")
def race(
    as_json: Annotated[bool, typer.Option("--json", help="Print measurements and verdicts as JSON.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Also draw it to a file.", metavar="FILE")] = None,
    saved: Annotated[
        Path | None,
        typer.Option("--from", help="Show a race saved with --json, instead of running one.", metavar="FILE"),
    ] = None,
) -> None:
    """Race five requests to one session against four servers.

    Strands as it comes, Strands with concurrent calls allowed, a lock per session, and Strandline.
    Three scenarios: five at once, one of them fails midway, kill -9 midway. All servers are real processes on
    this machine and serve the same agent. It takes about 15 seconds, and needs neither network nor key.

    Example: strandline demo race
    """
    import msgspec

    from strandline._demo.race.command import show
    from strandline._demo.race.processes import NotPlayed

    if svg is not None and not svg.absolute().parent.is_dir():
        say.fail(f"the picture cannot be written: there is no folder {svg.parent}. Make it, or name another file.")
    try:
        done = show(say.out(), saved=saved, as_json=as_json)
        if svg is not None:
            from strandline._demo.race.picture import draw

            svg.write_text(draw(done), encoding="utf-8")
            say.err().print(f"Drawn to {svg}.", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        say.err().print("Interrupted; all servers were stopped.")
        raise typer.Exit(INTERRUPTED) from None
    except NotPlayed as error:
        say.fail(f"the race could not be run: {error}")
    except OSError as error:
        say.fail(f"{error.filename}: {error.strerror}. Name another file.")
    except msgspec.MsgspecError:
        say.fail(f"{saved} is not a saved race. `strandline demo race --json > FILE` saves one.")
