"""`strandline tree`: draw the branches of a session and its forks."""

from collections.abc import Iterator
from typing import Any, Final

from strandline._cli import run_ids, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.runs import Json, print_json, server_of
from strandline._cli.session import Session

_NEXT: Final = ("|- ", "|  ")
_LAST: Final = ("`- ", "   ")


def tree(session: Session = "default", url: Url = None, key_file: KeyFile = None, as_json: Json = False) -> None:
    """Draw the branches of a session's history, and the sessions that were forked from it.

    Without SESSION, draw those of the session named default.

    Example: strandline tree ada
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        from strandline._model import session_id

        found = server.tree(session_id(session))
    if as_json:
        print_json(found)
        return
    for line in lines(found):
        say.out().print(line, markup=False, soft_wrap=True)
    if found["truncated"]:
        say.err().print("There are more: only the last branches and forks are shown.", soft_wrap=True)


def lines(tree: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a drawing: each branch below the one that it continues, and each fork below its branch."""
    origin = tree.get("forked_from")
    yield f"{tree['session_id']}{'' if origin is None else ', forked from ' + origin['session_id']}"
    shown = {each["start"] for each in tree["branches"]}
    roots = [each for each in tree["branches"] if each["parent"] not in shown]
    yield from _drawn([_below(tree, each) for each in roots])


def _below(tree: dict[str, Any], branch: dict[str, Any]) -> tuple[str, list[Any]]:
    """Return the line of a branch, and what is below it, in the order of its messages."""
    own = branch["start"]
    branches = [each for each in tree["branches"] if each["parent"] == own]
    parts = [(-1 if each["after"] is None else each["after"], _below(tree, each)) for each in branches]
    parts += [(each["messages"] - 1, (_fork(each), [])) for each in tree["forks"] if each["branch"] == own]
    return _branch(branch), [part for _, part in sorted(parts, key=lambda part: part[0])]


def _drawn(parts: list[Any], before: str = "") -> Iterator[str]:
    for number, (line, below) in enumerate(parts):
        first, others = _LAST if number == len(parts) - 1 else _NEXT
        yield before + first + line
        yield from _drawn(below, before + others)


def _branch(branch: dict[str, Any]) -> str:
    start, count, left = branch["start"], branch["messages"], branch["superseded_from"]
    if not count:
        line = "no messages yet"
    else:
        end = start + count - 1
        named = [each for each in (branch["first_run_id"], branch["last_run_id"]) if each is not None]
        runs = " to ".join(run_ids.short(each) for each in dict.fromkeys(named))
        line = f"messages {start} to {end}" if count > 1 else f"message {start}"
        line += f", {runs}" if runs else ""
    if branch["parent"] is not None:
        after = branch["after"]
        line += ", from the beginning" if after is None else f", after message {after}"
    if left is None:
        return line
    return f"{line}, superseded" if left == start else f"{line}, superseded from {left} on"


def _fork(fork: dict[str, Any]) -> str:
    count = fork["messages"]
    return f"fork {fork['session_id']}, {'empty' if not count else f'after message {count - 1}'}"
