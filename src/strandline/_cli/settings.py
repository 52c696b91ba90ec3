"""`strandline settings`: the value, origin and meaning of each setting.

A terminal gets a layout for reading, a pipe one line per setting, for grep. Wrong values are marked in place, and
explained on the standard error.
"""

import os
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec.structs import replace

from strandline._cli import say
from strandline._cli.complete import TOML
from strandline._config import DEFAULT, SettingState, Survey, survey
from strandline._config import shown as showable
from strandline._exits import REFUSED
from strandline._older_names import SETTINGS

WIDE: Final = 120
"""From this width on the meanings are beside the values."""
WRONG: Final = "WRONG"


def settings(
    changed: Annotated[bool, typer.Option("--changed", help="Only settings that differ from their default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with settings [strandline.toml]", metavar="FILE", autocompletion=TOML),
    ] = None,
) -> None:
    """Show every setting: its value, its origin, and its meaning.

    A value comes from a flag of serve, else from the environment (STRANDLINE_PORT),
    else from strandline.toml (port = 8080), else it is the default.

    Exit code: 0, or 2 if a server would refuse a value.

    Example: strandline settings --changed
    """
    found = survey(os.environ, toml=config)
    shown = [showable(each) for each in found.settings if not changed or each.origin != DEFAULT]
    if as_json:
        from strandline._encoding import encode

        sys.stdout.write(encode(Survey(by_both_names(shown), found.faults, found.remarks)).decode() + "\n")
    else:
        _print(shown)
        if changed and not shown:
            say.err().print("Every setting has its default value.")
    for remark in [] if as_json else found.remarks:
        err = say.err()
        err.print(f"note: {remark}", markup=False, soft_wrap=not err.is_terminal)
    for error in [] if as_json else found.errors:
        say.say_error(error)
    if found.errors:
        raise typer.Exit(REFUSED)


def by_both_names(shown: list[SettingState]) -> list[SettingState]:
    """Return settings for programs: one that has an older name follows under that name too."""
    older = ([replace(each, name=SETTINGS[each.name])] if each.name in SETTINGS else [] for each in shown)
    return [each for setting, same in zip(shown, older, strict=True) for each in (setting, *same)]


def text_of(value: Any) -> str:
    """Return a value as shown; nothing is `none`."""
    match value:
        case None | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(text_of, value))
        case float():
            return f"{value:.15g}"
        case _:
            return str(value)


def _print(shown: list[SettingState]) -> None:
    if not shown:
        return
    console = say.out()
    cells = [
        (each.name, text_of(each.value), f"{each.origin}, {WRONG}" if each.error else each.origin) for each in shown
    ]
    name_width, value_width = (max(len(row[at]) for row in cells) for at in (0, 1))
    origin_width = max(len(row[2]) for row in cells)
    if console.is_terminal:  # on a narrow terminal a long value may push its origin to the right
        value_width = min(value_width, console.width - name_width - origin_width - 2)
    margin = name_width + value_width + origin_width + 6
    for each, (name, value, origin) in zip(shown, cells, strict=True):
        gap = " " if console.is_terminal and margin - 2 > console.width else "  "
        head = f"{name:{name_width}}{gap}{value:{value_width}}{gap}{origin}"
        if not console.is_terminal:
            console.print(f"{head:{margin - 2}}  {each.meaning}", markup=False, soft_wrap=True)
            continue
        style = "bold red" if each.error else "bold" if each.origin != DEFAULT else ""
        if console.width >= max(WIDE, margin + 40):
            lines = textwrap.wrap(each.meaning, console.width - margin)
            console.print(f"{head:{margin - 2}}", style=style, markup=False, end="  ", soft_wrap=True)
            console.print(f"\n{'':{margin}}".join(lines), style="dim", markup=False, soft_wrap=True)
        else:
            console.print(head, style=style, markup=False, soft_wrap=True)
            for line in textwrap.wrap(each.meaning, console.width - 4):
                console.print(f"    {line}", style="dim", markup=False)
