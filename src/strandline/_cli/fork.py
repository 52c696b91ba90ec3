"""`strandline fork`: make a session that begins with the history of another one."""

from typing import Annotated, Literal

import typer

from strandline._cli import run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.runs import Json, print_json, server_of
from strandline._cli.session import Session
from strandline._exits import REFUSED
from strandline._printable import clean


def fork(
    session: Session,
    new: Annotated[
        str | None,
        typer.Argument(help="The id of the new session; without one it gets one.", metavar="NEW", show_default=False),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            help="The last run to copy (its id, or the start or end of it), or with # the index of a message of it.",
            metavar="RUN",
        ),
    ] = None,
    workspace: Annotated[
        Literal["empty", "copy"],
        typer.Option(help="What its workspace begins with: nothing, or a copy of the other one's as it is now."),
    ] = "empty",
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Make a session that begins with the history of another one.

    It is a copy: what happens in one of them is not seen in the other.

    Example: strandline fork ada plan-b --after run_...
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        from strandline._model import session_id
        from strandline._remote.server import TooLate, UnknownId

        try:
            place: str | int | None = after
            if after is not None:
                index = after.removeprefix("#")
                is_index = after.startswith("#") and index.isascii() and index.isdecimal() and len(index) < 16
                place = int(index) if is_index else run_ids.found(server, after)
            made = server.fork(session_id(session), None if new is None else session_id(new), place, workspace)
        except (UnknownId, TooLate) as error:
            say.say_error(str(error))
            raise typer.Exit(REFUSED) from None
    if as_json:
        print_json(made)
        return
    count = made["messages"]
    begins = "no messages" if not count else f"{count} message{'s' if count > 1 else ''} of session {session}"
    say.out().print(clean(f"Session {made['session_id']} begins with {begins}."), markup=False, soft_wrap=True)
    if made.get("workspace") == "kept":
        said = "Its workspace is not a copy: there was one for a session of this id, which stays as it is."
        say.out().print(said, markup=False, soft_wrap=True)
    if made["agent_state"] == "forgotten":
        said = "Its agent has all of these messages and no state: what it had by then is not kept any more."
        say.out().print(said, markup=False, soft_wrap=True)
