"""Judges forced cancels, as only the soak can see it: nothing of the run is held after that. Pure."""

from collections.abc import Iterator

from soak.case import Case


def judge_cancels(case: Case) -> Iterator[str]:
    """Yield the runs that are still held."""
    for cancel in case.records.cancels:
        if cancel.held:
            yield f"run {cancel.run_id} was cancelled by force, and is still held"
