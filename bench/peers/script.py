"""The fake model's answers, for every framework, and its ledger of calls.

It answers at once, after `wait SECONDS`, or fails (`fail`), by the last thing that the user said. It refuses a
conversation whose roles do not alternate, as Amazon Bedrock does. With `BENCH_LEDGER` in the environment each call
leaves a line when it begins and one when it ends or fails, so that a judge sees what the *model* received. Knows
no framework.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Final

LEDGER: Final = os.environ.get("BENCH_LEDGER")
PIECE: Final = 16
"""How many characters of an answer are streamed at a time."""

_WAIT = re.compile(r"wait ([\d.]+) ")

Said = Sequence[tuple[str, str]]
"""A conversation: roles and texts, the oldest first."""


class Refused(Exception):
    """The model refuses a conversation."""


class OutOfOrder(Exception):
    """The model's provider fails."""


def well_formed(said: Said) -> bool:
    """Return whether user and assistant take turns, and the user began and ended."""
    return (
        bool(said)
        and all(role == ("assistant" if number % 2 else "user") for number, (role, _) in enumerate(said))
        and said[-1][0] == "user"
    )


def text_of(message: str) -> str:
    """Return the answer to a message."""
    return f"Answer to {message}"


async def answer(said: Said) -> str:
    """Return what the model says to a conversation. Raises `Refused` and `OutOfOrder`."""
    _note("begin", said)
    try:
        text = await _answer(said)
    except Exception:
        _note("fail", said)
        raise
    _note("end", said)
    return text


async def _answer(said: Said) -> str:
    prompt = said[-1][1] if said else ""
    if not well_formed(said):
        raise Refused("roles must alternate between user and assistant")
    found = _WAIT.match(prompt)
    await asyncio.sleep(float(found[1]) if found else 0)  # others run meanwhile, as during any model's call
    if prompt.startswith("fail "):
        raise OutOfOrder("the provider is out of order")
    return text_of(prompt)


def pieces(text: str) -> list[str]:
    """Cut an answer as it is streamed."""
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def _note(what: str, said: Said) -> None:
    if LEDGER is None:
        return
    line = json.dumps({"what": what, "at_s": time.monotonic(), "said": list(said)})
    with open(LEDGER, "a") as ledger:
        ledger.write(line + "\n")
