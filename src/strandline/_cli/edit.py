"""`strandline edit`: change what a waiting run of a server says."""

from typing import Annotated

import typer

from strandline._cli import run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import RUNS
from strandline._cli.runs import Json, print_json, server_of
from strandline._exits import REFUSED


def edit(
    run: Annotated[str, typer.Argument(help="A run id, or its start or end.", metavar="RUN", autocompletion=RUNS)],
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="What it is to say instead.", metavar="TEXT")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Its priority: 1 (first) to 5.", metavar="N", min=1, max=5)
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Change what a waiting run says, or its priority.

    Example: strandline edit run_... -m "add 3 and 4"
    """
    from strandline._remote.server import TooLate, UnknownId

    if message is None and priority is None:
        say.fail("say what to change: --message TEXT, --priority N, or both")
    given = {"input": message, "priority": priority}
    body = {name: each for name, each in given.items() if each is not None}
    with say.errors_reported(), server_of(url, key_file) as server:
        try:
            found = server.edit(run_ids.found(server, run), body)
        except (UnknownId, TooLate) as error:
            say.say_error(str(error))
            raise typer.Exit(REFUSED) from None
        if as_json:
            print_json(found)
        else:
            where = f" at position {found['position']}" if found["position"] else ""
            say.out().print(f"{found['run_id']} was edited; it waits{where}.", markup=False, soft_wrap=True)
