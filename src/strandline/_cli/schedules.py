"""`strandline schedules`: show, make, change, pause, resume, run and delete the schedules of a server."""

from typing import Annotated, Any, Final

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import SESSIONS
from strandline._cli.runs import All, Json, more, most, print_json, server_of, session_named
from strandline._cli.session import parsed_option

HEAD: Final = ("SCHEDULE", "SESSION", "WHEN", "NEXT", "LAST RUN", "WHAT")
MOST_SHOWN: Final = 60
"""How many characters of an input are shown."""

OPTIONS: Final = ("priority", "timeout", "queue_timeout", "metadata", "sender", "webhook")
"""The options that its runs may have."""

Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        help=f"An option of its runs, such as 'priority=1'; repeatable. It is one of {', '.join(OPTIONS)}.",
        metavar="NAME=JSON",
    ),
]
Schedule = Annotated[str, typer.Argument(help="The id of a schedule, as `strandline schedules` shows it.")]

schedules_app = typer.Typer(rich_markup_mode=None)


@schedules_app.callback(invoke_without_command=True)
def schedules(
    context: typer.Context,
    session: Annotated[
        str | None, typer.Option(help="Only those of this session.", metavar="SESSION", autocompletion=SESSIONS)
    ] = None,
    limit: Annotated[int, typer.Option(help="Schedules to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the schedules of a server: when each fires, its last run, what it sends.

    Example: strandline schedules --session ada
    """
    if context.invoked_subcommand is not None:
        return
    with say.errors_reported(), server_of(url, key_file) as server:
        found = server.schedules(
            most(limit, everything=everything), None if session is None else session_named(session)
        )
    if as_json:
        print_json(found)
    elif not found["schedules"] and "damaged" not in found:
        say.err().print("There are no schedules. `strandline schedules add` makes one.", soft_wrap=True)
    else:
        rows.show(HEAD, [_row(each) for each in found["schedules"]])
        more(found)


@schedules_app.command(short_help="Make a schedule.")
def add(
    session: Annotated[str, typer.Argument(help="The session of its runs.", autocompletion=SESSIONS)],
    text: Annotated[str, typer.Argument(help="What each run is sent.")],
    cron: Annotated[str | None, typer.Option(help="Five fields, such as '0 9 * * MON-FRI'.")] = None,
    every: Annotated[float | None, typer.Option(help="Seconds from one run to the next.", metavar="SECONDS")] = None,
    at: Annotated[str | None, typer.Option(help="A single time with its zone, such as 2026-12-24T18:00+01:00.")] = None,
    timezone: Annotated[str | None, typer.Option(help="The zone of --cron, such as Europe/Berlin [UTC].")] = None,
    overlap: Annotated[
        str, typer.Option(help="While its run before has not ended: enqueue, skip or replace.")
    ] = "enqueue",
    missed: Annotated[str, typer.Option(help="For times without a server: once, skip or all.")] = "once",
    option: Options = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Make a schedule: runs of a session at the times of a calendar.

    Example: strandline schedules add ada "What is new?" --cron "0 9 * * MON-FRI"
    """
    body: dict[str, Any] = {"input": text, "overlap": overlap, "missed": missed}
    body |= {
        name: given
        for name, given in (("cron", cron), ("every", every), ("at", at), ("timezone", timezone))
        if given is not None
    }
    body |= _options(option)
    with say.errors_reported(), server_of(url, key_file) as server:
        made = server.add_schedule({**body, "session_id": session_named(session)})
    if as_json:
        print_json(made)
    else:
        first = f"It fires first at {rows.clock_time(made['next'][0])}." if made["next"] else "It fires no more."
        say.out().print(f"{made['schedule_id']} is made. {first}", markup=False, soft_wrap=True)


@schedules_app.command(short_help="Show all about a schedule.")
def show(schedule: Schedule, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Show all about a schedule: its next five times, its last run, what it sends.

    Example: strandline schedules show sch_...
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        found = server.schedule(schedule)
    if as_json:
        print_json(found)
        return
    shown = {
        "schedule": found["schedule_id"],
        "session": found["session_id"],
        "when": _when(found),
        "next": "paused" if found["paused"] else ", ".join(rows.clock_time(each) for each in found["next"]),
        "overlap": found["overlap"],
        "missed": f"{found['missed']}; {found['missed_count']} so far",
        "last run": found["last_run"] or "",
        "last time": rows.clock_time(found["last_at"]) if found["last_at"] else "",
        "error": found["last_error"] or "",
        "webhook": (found.get("webhook") or {}).get("url", ""),
        "metadata": ", ".join(f"{name}={value}" for name, value in found["metadata"].items()),
        "what": _text(found),
    }
    for name, value in shown.items():
        if value:
            say.out().print(f"{name:9}  {rows.clean(str(value))}", markup=False, soft_wrap=True)


@schedules_app.command(short_help="Change a schedule.")
def change(
    schedule: Schedule,
    text: Annotated[str | None, typer.Option(help="What each run is sent.", metavar="TEXT")] = None,
    cron: Annotated[str | None, typer.Option(help="Five fields, such as '0 9 * * MON-FRI'.")] = None,
    every: Annotated[float | None, typer.Option(help="Seconds from one run to the next.", metavar="SECONDS")] = None,
    at: Annotated[str | None, typer.Option(help="A single time with its zone, such as 2026-12-24T18:00+01:00.")] = None,
    timezone: Annotated[str | None, typer.Option(help="The zone of --cron, such as Europe/Berlin.")] = None,
    overlap: Annotated[
        str | None, typer.Option(help="While its run before has not ended: enqueue, skip or replace.")
    ] = None,
    missed: Annotated[str | None, typer.Option(help="For times without a server: once, skip or all.")] = None,
    option: Options = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Change what is named of a schedule. With other times it continues from now. An option that is null is removed.

    Example: strandline schedules change sch_... --cron "0 10 * * MON-FRI"
    """
    named = (
        ("input", text), ("cron", cron), ("every", every), ("at", at), ("timezone", timezone), ("overlap", overlap),
        ("missed", missed),
    )  # fmt: skip
    body = {name: given for name, given in named if given is not None} | _options(option)
    if not body:
        say.fail("say what to change: --text, --cron, --every, --at, --timezone, --overlap, --missed or --option")
    _change(schedule, body, "is changed", url, key_file, as_json=as_json)


@schedules_app.command(short_help="Have a schedule fire nothing.")
def pause(schedule: Schedule, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Have a schedule fire nothing until it is resumed. Its runs that wait stay.

    Example: strandline schedules pause sch_...
    """
    _change(schedule, {"paused": True}, "is paused", url, key_file, as_json=as_json)


@schedules_app.command(short_help="Resume a paused schedule.")
def resume(schedule: Schedule, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Resume a paused schedule: it continues from now.

    Example: strandline schedules resume sch_...
    """
    _change(schedule, {"paused": False}, "is resumed", url, key_file, as_json=as_json)


@schedules_app.command(short_help="Run a schedule now.")
def run(schedule: Schedule, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Accept a run of a schedule now, beside its times.

    Example: strandline schedules run sch_...
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        accepted = server.run_schedule(schedule)
    if as_json:
        print_json(accepted)
    else:
        where = f"session {accepted['session_id']}"
        say.out().print(f"{accepted['run_id']} was accepted in {where}.", markup=False, soft_wrap=True)


@schedules_app.command(short_help="Delete a schedule.")
def delete(schedule: Schedule, url: Url = None, key_file: KeyFile = None) -> None:
    """Delete a schedule. Its runs stay.

    Example: strandline schedules delete sch_...
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        server.delete_schedule(schedule)
    say.out().print(f"{schedule} is deleted.", markup=False, soft_wrap=True)


def _options(given: list[str] | None) -> dict[str, Any]:
    """Return the options of runs that are given as NAME=JSON."""
    options: dict[str, Any] = {}
    for name, value in map(parsed_option, given or ()):
        if name not in OPTIONS:
            say.fail(f"--option {name} is not an option of a schedule; there are {', '.join(OPTIONS)}")
        if name in options:
            say.fail(f"say once what becomes of {name}")
        options[name] = value
    return options


def _change(schedule: str, body: dict[str, Any], now: str, url: Url, key_file: KeyFile, *, as_json: bool) -> None:
    with say.errors_reported(), server_of(url, key_file) as server:
        changed = server.change_schedule(schedule, body)
    if as_json:
        print_json(changed)
        return
    following = f" It fires next at {rows.clock_time(changed['next'][0])}." if changed["next"] else ""
    say.out().print(f"{schedule} {now}.{following}", markup=False, soft_wrap=True)


def _row(schedule: dict[str, Any]) -> list[str]:
    following = schedule["next"]
    return [
        schedule["schedule_id"],
        schedule["session_id"],
        _when(schedule),
        "paused" if schedule["paused"] else rows.clock_time(following[0] if following else None),
        schedule["last_run"] or rows.BARE,
        _what(schedule),
    ]


def _when(schedule: dict[str, Any]) -> str:
    if schedule["cron"] is not None:
        return f"{schedule['cron']} {schedule['timezone']}"
    if schedule["every"] is not None:
        return f"every {rows.seconds(schedule['every'])}"
    return f"at {rows.clock_time(schedule['at'])}"


def _text(schedule: dict[str, Any]) -> str:
    given = schedule["input"]
    return given if isinstance(given, str) else " ".join(str(block.get("text", "...")) for block in given)


def _what(schedule: dict[str, Any]) -> str:
    text = _text(schedule)
    shown = text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"
    return f"{shown} ({schedule['last_error']})" if schedule["last_error"] else shown
