"""What the errors of PostgreSQL mean to the caller of an operation."""

from typing import Final

from strandline._journal.checksums import damaged_record
from strandline._journal.postgres.rows import DAMAGE, MISMATCH
from strandline._journal.postgres.wire import ConnectionLost, Refused
from strandline._printable import without_passwords
from strandline.errors import InvariantBroken, JournalUnavailable, StrandlineError

FENCED: Final = "SL001"
LOCK_TIMEOUT: Final = "55P03"
UNREACHABLE: Final = "the database cannot be reached"
TAKEN_OVER: Final = "another server has taken the journal over, since this one had not renewed its lease in time"

_UNAVAILABLE: Final = {
    "25006": "it takes no writes (a standby, perhaps)",
    "40001": "it has undone the transaction",
    "40P01": "it has undone the transaction",
    "42P01": "its tables are gone",
    "53": "it is out of resources",
    "55P03": "a row is locked",
    "57014": "it has cancelled the statement",
    "58": "its disk failed",
    "XX": "it is damaged",
}
"""By SQLSTATE, or the class that it begins with."""


def for_operators(error: Exception) -> str:
    """Return what an error says to those who operate the server: with where the database is, but no password."""
    text = str(translated(error))
    return f"{text}: {without_passwords(str(error))}" if isinstance(error, ConnectionLost) else text


def translated(error: Exception) -> StrandlineError:
    """Return what an error of the driver, or of our own statements, means."""
    if isinstance(error, StrandlineError):
        return error
    translated_error: StrandlineError
    if isinstance(error, ConnectionLost):
        translated_error = JournalUnavailable(UNREACHABLE)  # (callers must not learn its address or our user)
    elif isinstance(error, Refused):
        translated_error = _refused(error)
    else:
        translated_error = InvariantBroken(f"the journal refused an operation: {error}")
    translated_error.__cause__ = error
    return translated_error


def _refused(error: Refused) -> StrandlineError:
    if error.state == DAMAGE:
        return damaged_record(str(error))
    if error.state == FENCED:
        return JournalUnavailable(TAKEN_OVER)
    if error.state == MISMATCH:
        return InvariantBroken(f"the journal refused an operation: not one row was changed by: {error}")
    reason = _UNAVAILABLE.get(error.state) or _UNAVAILABLE.get(error.state[:2])
    if reason is None:
        return InvariantBroken(f"the journal refused an operation: {error} ({error.state})")
    return JournalUnavailable(f"the database could not be used: {reason} ({error})")
