"""The process that tries TARGET: `python -m strandline._doctor.trial TARGET HISTORY [keys]`.

It prints one JSON object, `{"ok": bool, "message": str}`; output of the user's code goes to the standard error.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from strandline._agents.load import load_target, own_lines
from strandline._history import Progress
from strandline._model import AgentRecord, Principal, SessionId, SessionKey, Window
from strandline.errors import AgentFailed, TargetError

TRIED_WITH = SessionKey(Principal("strandline-doctor"), SessionId("strandline-doctor"))
"""A session of no real caller, so that the trial touches nobody's data."""
KEYS: Final = "keys"
"""The argument that says that API keys are in use."""


def tried(target: str, history: str, keys: str = "") -> dict[str, Any]:
    """Import TARGET and build an agent."""
    try:
        served = load_target(target, history=history, keys=keys == KEYS)
    except TargetError as error:
        return {"ok": False, "message": str(error)}
    if not served.description.startswith("factory"):
        return {"ok": True, "message": f"{served.description} can be served"}
    record = AgentRecord(messages=[], origins=[], window=Window(), length=0, state=None)
    try:
        asyncio.run(_built(served, record))
    except AgentFailed as failed:
        cause = failed.__cause__
        where = Path(target.partition(":")[0]).resolve().parent
        message = f"{served.description}: {failed}"
        if cause is not None:
            message += f": {type(cause).__name__}: {cause}{own_lines(cause, where)}"
        return {"ok": False, "message": message}
    return {"ok": True, "message": f"{served.description} was imported, and builds an agent"}


async def _built(served: Any, record: AgentRecord) -> None:
    await served.build(TRIED_WITH, record, Progress(messages=[], results={}))


def main() -> None:
    """Try the target of the arguments, then exit at once, even if the user's code has started threads."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(tried(*sys.argv[1:]), answer)
    answer.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
