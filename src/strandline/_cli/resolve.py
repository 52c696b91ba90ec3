"""`strandline resolve`: what the tools of a crashed run have done, and the run that continues with it."""

from typing import Annotated, Any

import typer

from strandline._cli import rows, run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import RUNS
from strandline._cli.runs import Json, print_json, server_of
from strandline._exits import REFUSED


def resolve(
    run: Annotated[
        str,
        typer.Argument(help="The id of a crashed run, or its start or end.", metavar="RUN", autocompletion=RUNS),
    ],
    done: Annotated[
        list[str] | None,
        typer.Option("--done", help="This tool call has taken effect; repeat for each.", metavar="ID[=RESULT]"),
    ] = None,
    not_done: Annotated[
        list[str] | None,
        typer.Option("--not-done", help="This one has done nothing, and starts again; repeat for each.", metavar="ID"),
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show which tools of a crashed run have an unknown outcome, or continue it.

    Find out first what each tool has done: the run takes your word for it, and
    history says so.

    Example: strandline resolve run_... --done call_1
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        from strandline._remote.server import TooLate, UnknownId

        try:
            run_id = run_ids.found(server, run)
            if not done and not not_done:
                tools = server.open_tools(run_id)
                print_json(tools) if as_json else _print_tools(tools)
                return
            continues = server.resolve(run_id, _checked(done or [], not_done or []))
        except (UnknownId, TooLate) as error:
            say.say_error(str(error))
            raise typer.Exit(REFUSED) from None
    if as_json:
        print_json(continues)
    else:
        sentence = f"{continues['run_id']} continues it; `strandline runs {continues['run_id']}` shows its progress."
        say.out().print(sentence, markup=False, soft_wrap=True)


def _checked(done: list[str], not_done: list[str]) -> list[dict[str, Any]]:
    checked: list[dict[str, Any]] = [{"tool_use_id": each, "outcome": "not_done"} for each in not_done]
    for each in done:
        tool_use_id, sign, result = each.partition("=")
        checked.append({"tool_use_id": tool_use_id, "outcome": "done", **({"result": result} if sign else {})})
    return checked


def _print_tools(tools: list[dict[str, Any]]) -> None:
    from strandline._encoding import encode

    shown = [[each["tool_use_id"], each["name"], encode(each["input"]).decode()] for each in tools]
    rows.show(["ID", "TOOL", "INPUT"], shown, whole=True)  # never cut: people look for what it did
