"""`strandline again` and `strandline restore`: replace a run, and have what was superseded back."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from strandline._cli import run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import RUNS
from strandline._cli.runs import Json, print_json, server_of
from strandline._exits import REFUSED
from strandline._printable import clean

RunId = Annotated[str, typer.Argument(help="The id of a run, or its start or end.", metavar="RUN", autocompletion=RUNS)]


def again(
    run: RunId,
    interrupt: Annotated[
        bool, typer.Option("--interrupt", help="End what executes in its session first, instead of being refused.")
    ] = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Replace a run by a new one with the same input.

    The conversation continues from where that run began. What came later is
    superseded: kept, and hidden from the agent. `strandline restore` has it back.

    Example: strandline again run_...
    """
    made = _answer_about(
        run, url, key_file, lambda server, run_id: server.again(run_id, "interrupt" if interrupt else None)
    )
    if as_json:
        print_json(made)
        return
    _say(f"{made['run_id']} replaces it; `strandline runs {made['run_id']}` shows its progress.")
    _say_effects(made)


def restore(run: RunId, url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Have the conversation continue with a superseded run.

    It ends where it ended when that run was last in it; what replaced it is
    superseded then.

    Example: strandline restore run_...
    """
    done = _answer_about(run, url, key_file, lambda server, run_id: server.restore(run_id))
    if as_json:
        print_json(done)
        return
    session = done["session_id"]
    if not done["changed"]:
        _say(f"Session {session} continues with it already.")
        return
    _say(f"Session {session} continues with it; superseded now: {', '.join(done['superseded']) or 'no run'}.")
    _say_effects(done)


def _answer_about(
    run: str, url: str | None, key_file: Any, ask: Callable[[Any, str], dict[str, Any]]
) -> dict[str, Any]:
    """Return a server's answer about a run."""
    with say.errors_reported(), server_of(url, key_file) as server:
        from strandline._remote.server import TooLate, UnknownId

        try:
            return ask(server, run_ids.found(server, run))
        except (UnknownId, TooLate) as error:
            say.say_error(str(error))
            raise typer.Exit(REFUSED) from None


def _say_effects(body: dict[str, Any]) -> None:
    """Say which tools of superseded runs have acted: none of that is undone."""
    effects = body.get("effects", [])
    if effects is None:
        _say("What tools of superseded runs have done cannot be seen, and is not undone.")
    elif effects:
        _say(f"Not undone is what these tools have done: {', '.join(each['name'] for each in effects)}.")


def _say(sentence: str) -> None:
    say.out().print(clean(sentence), markup=False, soft_wrap=True)
