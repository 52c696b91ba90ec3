"""Why a journal did not write what it was asked to. Users never see these errors."""

from strandline.errors import InvariantBroken, StrandlineError


class RunIdTaken(InvariantBroken):
    """A run of this id was accepted before, perhaps by the same request, which was sent again. Nothing was changed."""

    def __init__(self, run_id: str | None = None) -> None:
        super().__init__("a run id is taken" if run_id is None else f"run id {run_id} is taken")


class ClaimLost(StrandlineError):
    """The token is stale: the run has ended, was requeued, or a newer owner fenced it. Nothing was changed."""

    code = "claim_lost"


class CancelRequested(StrandlineError):
    """A cancel of the run was accepted before: it can only end as cancelled now, with `discard` also discarded.

    Nothing was changed.
    """

    code = "cancel_requested"

    def __init__(self, message: str, *, discard: bool) -> None:
        super().__init__(message)
        self.discard = discard
