"""What happens to a run that was executing when its process died.

A run whose cancel was accepted ends as cancelled, one whose deadline has passed as timed out. A run with a tool in the
middle (begun, without a checkpointed result; a run that is not resumable counts as one from its start) fails as
`crashed`, and history says that the tool's outcome is unknown, unless a setting allows it to resume: its result says
so, or the tool may be started again. A run that has used up its attempts fails too. Any other returns to the head of
its queue and resumes from its last checkpoint: nothing that finished is done again.
"""

import logging

from msgspec.structs import replace

from strandline._agents.port import Finished
from strandline._engine.execution.completion import closed, completion_of, last_resort, resume_point_of, timed_out
from strandline._engine.options import Options
from strandline._history import Progress, fold, with_collected
from strandline._journal.errors import CancelRequested
from strandline._journal.port import Journal
from strandline._model import Cancelled, Claim, Completion, Ending, ErrorCode, Failed
from strandline.errors import JournalUnavailable, RecordDamaged

_log = logging.getLogger("strandline.recovery")


async def recover(journal: Journal, orphan: Claim, options: Options, now: float) -> Completion | None:
    """Finish the orphan and return its completion, or requeue it and return None.

    Its token is the fresh one of `Journal.open`. `now` is in seconds since the epoch. An orphan that cannot be closed
    properly ends with its prompt alone: one run never keeps a server down. A cancel that was accepted since the orphan
    was read (clients of a gained session are answered before it is recovered) holds.
    """
    run = orphan.run
    given, sender = with_collected(run.input, run.sender, orphan.checkpoints)
    orphan = replace(orphan, run=replace(run, input=given, sender=sender))
    while True:
        try:
            return await _recover_or_end(journal, orphan, options, now)
        except CancelRequested as wanted:
            orphan = replace(orphan, run=replace(orphan.run, cancel_requested=True, discard=wanted.discard))


async def _recover_or_end(journal: Journal, orphan: Claim, options: Options, now: float) -> Completion | None:
    try:
        return await _recover(journal, orphan, options, now)
    except RecordDamaged as error:
        _log.error("run %s cannot be ended: %s", orphan.run.run_id, error)
        return None
    except (JournalUnavailable, CancelRequested):
        raise
    except Exception:
        _log.exception("run %s could not be recovered properly; it ends as failed", orphan.run.run_id)
        ending = Cancelled(discard=orphan.run.discard) if orphan.run.cancel_requested else None
        completion = last_resort(orphan, ending, options)
        await journal.finish(orphan.token, completion, claim_next=False)
        return completion


async def _recover(journal: Journal, orphan: Claim, options: Options, now: float) -> Completion | None:
    progress = fold(orphan.checkpoints, orphan.question)
    ending = _ending(orphan, progress, options, now)
    if ending is None:
        await journal.release(orphan.token, counted=True)
        return None
    left = closed(orphan, progress.messages, progress.results, ending, begun=progress.begun)
    completion = completion_of(Finished(ending=ending), left, options, progress=progress, joined=progress.joined)
    await journal.finish(orphan.token, completion, claim_next=False)
    return completion


def _ending(orphan: Claim, progress: Progress, options: Options, now: float) -> Ending | None:
    """Return how a run ends whose server died, None if it resumes."""
    run = orphan.run
    if run.cancel_requested:
        return Cancelled(discard=run.discard)
    if run.deadline is not None and run.deadline <= now:
        return timed_out(run, "; the server died meanwhile")
    detail = _why_it_ends(orphan, progress, options)
    return None if detail is None else Failed(ErrorCode.CRASHED, detail)


def _why_it_ends(orphan: Claim, progress: Progress, options: Options) -> str | None:
    if not orphan.run.resumable:
        return "the server died while the run executed; what it had done by then is unknown"
    if resume_point_of(orphan.run, progress, options) is None:
        tools = ", ".join(progress.open_tools().values())
        return f"the server died while a tool worked ({tools}); what the tool did is unknown"
    if orphan.run.attempt >= options.max_attempts:
        times = "" if orphan.run.attempt == 1 else f" in each of its {orphan.run.attempt} attempts"
        return f"the server died while the run executed{times}"
    return None
