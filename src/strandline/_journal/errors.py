"""Why a journal did not write what the owner of a claim asked it to. Users never see these errors."""

from strandline.errors import StrandlineError


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
