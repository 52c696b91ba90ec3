"""`strandline doctor`: check everything that a server needs, and say how to fix what is wrong."""

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from strandline._cli import say
from strandline._cli.complete import TARGETS, TOML
from strandline._exits import INTERRUPTED

if TYPE_CHECKING:
    from strandline._doctor.agent import Trial
    from strandline._doctor.finding import Finding

PROBLEMS: Final = 1
"""The exit code if there is a problem."""
_COLOURS: Final = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            help="The agent to check [agent.py]", metavar="TARGET", show_default=False, autocompletion=TARGETS
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with settings [strandline.toml]", metavar="FILE", autocompletion=TOML),
    ] = None,
) -> None:
    """Check everything that a server needs: machine, settings, journal, agent, models.

    The agent is imported and built once, in a process of its own. Nothing is
    changed, and a running server is not affected.

    Exit code: 0, or 1 if there is a problem.

    Example: strandline doctor agent.py
    """
    from strandline._doctor.finding import Level

    trials: list[Trial] = []

    def leave(*signalled: object) -> None:
        # No exception: it would mostly interrupt an import, where Python loses some.
        for trial in trials:
            trial.kill()
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
    findings = list(_findings(target, config, trials))
    if as_json:
        from msgspec.structs import asdict

        from strandline._encoding import encode
        from strandline._older_names import by_both_names

        sys.stdout.write(encode([by_both_names(asdict(each), "doctor") for each in findings]).decode() + "\n")
    else:
        _print(findings)
    if any(each.level is Level.PROBLEM for each in findings):
        raise typer.Exit(PROBLEMS)


def _findings(target: str | None, config: Path | None, trials: list["Trial"]) -> Iterator["Finding"]:
    from strandline._config import DEFAULT, FIELDS, survey
    from strandline._doctor import keys, machine, network, servers, storage
    from strandline._doctor.agent import Trial
    from strandline._doctor.finding import note, ok, problem
    from strandline._settings import Settings

    found = survey(os.environ, toml=config)
    settings = Settings(**{FIELDS[each.name]: each.value for each in found.settings if not each.error})
    trial = Trial(target, settings)  # takes the longest, so it runs meanwhile
    trials.append(trial)
    try:
        yield machine.python()
        yield from machine.packages()
        for error in found.errors:
            yield problem("settings", error)
        for remark in found.remarks:
            yield note("settings", remark)
        if not found.errors:
            changed = [each.name for each in found.settings if each.origin != DEFAULT]
            yield ok("settings", f"{', '.join(changed)} changed" if changed else "all have their default values")
        yield network.exposure(settings)
        yield from keys.keys(settings, os.environ)
        yield network.port(settings)
        from strandline._config import journal_file

        yield from storage.journal(settings)
        yield from servers.servers(settings)
        yield storage.workspace(settings)
        yield machine.open_files(settings)
        yield machine.clock(journal_file(settings))
        yield from machine.model_providers()
        yield trial.finding()
    finally:
        trial.stop()


def _print(findings: list["Finding"]) -> None:
    from rich.text import Text

    from strandline._printable import clean

    console = say.out()
    about = max(len(each.about) for each in findings)
    margin = " " * (about + 11)
    for each in findings:
        lines = [*clean(each.message).splitlines(), *([f"-> {each.fix}"] if each.fix else [])]
        if console.is_terminal:
            wrapped = (
                textwrap.wrap(line, max(30, console.width - len(margin)), break_on_hyphens=False) for line in lines
            )
            lines = [part for whole in wrapped for part in whole or [""]]
        level = Text(f"{each.level.value:9}", style=_COLOURS[each.level.value])
        console.print(Text.assemble(level, f"{each.about:{about}}  {lines[0]}"), soft_wrap=True)
        for line in lines[1:]:
            console.print(Text(f"{margin}{line}" if line else ""), soft_wrap=True)
    count = sum(each.level == "problem" for each in findings)
    console.print(f"\n{count} problem{'s' * (count != 1)}." if count else "\nNo problems.", style="bold")
