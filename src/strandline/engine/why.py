"""Why a run waits, or a session does not go on: a code for programs, and words for people. Values only."""

from enum import StrEnum

from msgspec import Struct


class Reason(StrEnum):
    """What keeps a run from starting."""

    SERVER_STOPPING = "server_stopping"
    PAUSED = "paused"
    HELD = "held"
    WAITS_FOR_INPUT = "waits_for_input"
    BEHIND = "behind"
    JOURNAL_UNAVAILABLE = "journal_unavailable"
    NO_WORKER = "no_worker"
    HOLDS_FULL = "holds_full"
    LAST_ATTEMPT = "last_attempt"
    PRINCIPAL_BUSY = "principal_busy"
    SERVER_BUSY = "server_busy"


class Why(Struct, frozen=True):
    """The reason, as a code for programs and in words for people."""

    code: Reason
    text: str
