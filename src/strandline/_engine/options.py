"""The limits and policies of a service: its settings, and what follows from its target and journal.

`strandline._settings` says what each setting means.
"""

from typing import Literal

from strandline._settings import ServiceSettings

ErrorText = Literal["full", "class", "id"]
"""How much is told of what user code has raised."""


class Options(ServiceSettings, frozen=True, kw_only=True):
    """Settings of which one depends on others have here what is in force."""

    error_text: ErrorText = "full"
    stop_grace_s: float = 1.0
    survives: bool = True
    """Whether what the journal keeps outlives the process."""
    self_managed: bool = False
    """Whether the agents keep their history themselves: it is neither given to them nor kept."""
