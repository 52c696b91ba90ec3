"""Nothing that was accepted is lost, ends twice or becomes two runs; nothing that was refused happens."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from judging.evidence import ENDED, Evidence, Run, Session


def lost(evidence: Evidence) -> Iterator[str]:
    """Yield the acknowledged runs that are not stored, or have not ended."""
    for run_id, how in evidence.acknowledged.items():
        if run_id not in evidence.runs and not evidence.is_gone(run_id):
            yield f"run {run_id} ({evidence.name_of.get(run_id)}) was {how}, and is lost"
    for run_id in sorted(evidence.missing):
        if run_id in evidence.runs or not evidence.is_gone(run_id):
            yield f"run {run_id} ({evidence.name_of.get(run_id)}) was known, and could not be found"
    for run in evidence.runs.values():
        if run.status not in ENDED or run.end is None:
            yield f"run {run.label} has no outcome: {run.status}"
        if run.attempts > evidence.limits.max_attempts:
            yield f"run {run.label} had {run.attempts} attempts"


def refused(evidence: Evidence) -> Iterator[str]:
    """Yield the requests that were refused and carried out."""
    for name in sorted(evidence.refused & evidence.happened):
        yield f"{name} was refused, and ran"


def deleted(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that are stored although their session was deleted after they had been accepted."""
    for deletion in evidence.deletions:
        for run in evidence.by_session.get(deletion.session, ()) if deletion.answered > 0 else ():
            if deletion.is_certain and not run.request.resent and 0 <= run.accepted < deletion.sent:
                yield f"run {run.label} was deleted with {deletion.session}, and is still stored"


def resumed(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that ended as crashed and could have resumed."""
    for run in evidence.runs.values():
        if run.kind == "crashed" and run.can_resume and run.attempts < evidence.limits.max_attempts:
            yield f"run {run.label} is crashed at attempt {run.attempts}, though it could have continued"


def one_outcome(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that were reported to end in two ways, or otherwise than they are stored."""
    for each in evidence.runs.values():
        outcome = each.kind if each.kind in ENDED else "failed"
        if each.end is not None and each.status in ENDED and each.status != outcome:
            yield f"run {each.label} is stored as {each.status}, and its outcome as {each.kind}"
    for run_id, ends in evidence.reported.items():
        run = evidence.runs.get(run_id)
        if len(ends) > 1:
            yield f"run {run_id} ended in more than one way: {sorted(f'{end.kind} {end.text!r}' for end in ends)}"
        if run is None and evidence.is_gone(run_id):
            continue
        if run is None or run.end is None:
            yield f"run {run_id} was reported to have ended, and has not"
        elif others := ends - {run.end}:
            yield f"run {run.label} was reported as {sorted(others)}, and is stored as {run.end}"


def one_run(evidence: Evidence) -> Iterator[str]:
    """Yield the requests and the keys that became two runs."""
    stored: dict[str, set[str]] = defaultdict(set)
    by_key: dict[tuple[Session, str], list[Run]] = defaultdict(list)
    for run in evidence.runs.values():
        stored[run.request.name].add(run.id)
        if run.request.key is not None:
            by_key[run.session, run.request.key].append(run)
    became = {name: set(ids) for name, ids in stored.items()}
    for name, run_id in evidence.became:
        became.setdefault(name, set()).add(run_id)
        if run_id in evidence.runs and evidence.runs[run_id].request.name != name:
            yield f"request {name} was answered by run {evidence.runs[run_id].label}, which is another one"
    for name, ids in became.items():
        if len(ids if name not in evidence.gone else stored[name]) > 1:
            yield f"request {name} became {len(ids)} runs: {', '.join(sorted(ids))}"
    for (_, key), runs in by_key.items():
        for earlier, later in pairwise(sorted(runs, key=lambda run: run.sequence)):
            if earlier.end is None or _is_remembered(evidence, earlier, later):
                yield f"the key {key} belonged to run {earlier.id}, and run {later.id} was accepted with it"


def _is_remembered(evidence: Evidence, earlier: Run, later: Run) -> bool:
    """Return whether a key has to be known when it comes again; a clock that is set back may forget it."""
    if earlier.ended_s is None or later.created_s is None:
        return False
    return earlier.ended_s >= later.created_s - evidence.limits.key_retention_s
