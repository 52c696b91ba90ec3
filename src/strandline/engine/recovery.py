"""What becomes of a run that was executing when its process died.

A run with a tool in the middle (begun, no result staged; an opaque run counts as one from its start) fails as
`crashed`, and history says that the tool's outcome is unknown. So does a run that has used up its attempts. Any other
run goes back to the head of its queue and goes on from its last staged round: nothing that finished is done again.
"""

import logging

from strandline.engine.runner import defective, outcome_of
from strandline.errors import JournalUnavailable
from strandline.history import Progress, close, fold, question
from strandline.journal.port import Journal
from strandline.model import Claim, ErrorCode, Failed, Message, Settlement

_log = logging.getLogger("strandline.recovery")


async def recover(journal: Journal, orphan: Claim, *, max_attempts: int) -> None:
    """Settle the orphan or give it back. Its token is the fresh one that `Journal.open` gave.

    An orphan that cannot be closed as it should ends with its question alone: one run never keeps a server down.
    """
    try:
        await _recover(journal, orphan, max_attempts)
    except JournalUnavailable:
        raise
    except Exception:
        _log.exception("run %s could not be recovered as it should; it ends as failed", orphan.run.run_id)
        await journal.settle(orphan.token, defective(orphan), take=False)


async def _recover(journal: Journal, orphan: Claim, max_attempts: int) -> None:
    progress = fold(orphan.facts)
    detail = _why_it_ends(orphan, progress, max_attempts)
    if detail is None:
        await journal.release(orphan.token, counted=True, take=False)
        return
    ending = Failed(ErrorCode.CRASHED, detail)
    messages: list[Message] = progress.messages or [question(orphan.run.input)]
    closed = close(messages, progress.results, ending)
    await journal.settle(orphan.token, Settlement(outcome=outcome_of(ending, closed), messages=closed), take=False)


def _why_it_ends(orphan: Claim, progress: Progress, max_attempts: int) -> str | None:
    if orphan.run.opaque:
        return "the server died while the run executed; what it had done by then is unknown"
    if tools := progress.open_tools():
        return f"the server died while a tool worked ({', '.join(tools.values())}); what the tool did is unknown"
    if orphan.run.attempt >= max_attempts:
        times = "" if orphan.run.attempt == 1 else f" in each of its {orphan.run.attempt} attempts"
        return f"the server died while the run executed{times}"
    return None
