"""Ids of runs as people type them: the start or the end is enough, if only one run has it."""

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from strandline._remote.server import RemoteServer

RUN: Final = "run_"
"""The prefix of run ids."""
SHOWN: Final = 8
"""How many last characters of an id are shown in narrow lists; the random part is at the end."""
LOOKED_AT: Final = 500
"""How many of the latest runs are searched."""
_NAMED: Final = 5
_WHOLE: Final = re.compile(r"run_[0-9a-f]{28}")
_PART: Final = re.compile(r"(?:run_)?[0-9a-f]{4,}")


def is_part(text: str) -> bool:
    """Return whether a text can be the start or end of an id, and is not a whole one."""
    return _PART.fullmatch(text) is not None and _WHOLE.fullmatch(text) is None


def short(run_id: str) -> str:
    """Return the short form of an id, which commands accept."""
    return run_id[-SHOWN:] if _WHOLE.fullmatch(run_id) else run_id


def found(server: "RemoteServer", text: str) -> str:
    """Return the id that starts or ends with a text; other text is returned unchanged.

    Raises `UnknownId` if no run or several runs match.
    """
    if not is_part(text):
        return text
    from strandline._remote.server import UnknownId

    known = [(str(run["run_id"]), str(run["session_id"])) for run in server.all_runs(LOOKED_AT)["runs"]]
    beginning = text if text.startswith(RUN) else RUN + text
    same = [each for each in known if each[0].startswith(beginning) or each[0].endswith(text)]
    if not same:
        raise UnknownId(
            f"none of your latest {LOOKED_AT} runs has an id that begins or ends with {text}; `strandline runs SESSION`"
            " lists those of a session"
        )
    if len(same) > 1:
        named = ", ".join(f"{run_id} (session {session})" for run_id, session in same[:_NAMED])
        more = f" and {len(same) - _NAMED} more" if len(same) > _NAMED else ""
        raise UnknownId(f"{len(same)} runs have an id that begins or ends with {text}: {named}{more}. Type more of it")
    return same[0][0]
