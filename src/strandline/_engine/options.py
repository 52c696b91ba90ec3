"""The limits and policies of a service: its settings, and values that follow from its target and journal.

`strandline._settings` says what each setting means.
"""

from typing import Literal

from strandline._settings import ServiceSettings

ErrorText = Literal["full", "class", "id"]
"""How much of the text of user code's errors callers see."""


class Options(ServiceSettings, frozen=True, kw_only=True):
    """Settings that depend on others have the value in force here."""

    error_text: ErrorText = "full"
    stop_grace_s: float = 1.0
    survives: bool = True
    """Whether the journal's contents outlive the process."""
    self_managed: bool = False
    """Whether the agents keep their history themselves: it is neither given to them nor kept."""
