"""What the errors of PostgreSQL mean to the caller of an operation."""

from typing import Final

from strandline._journal.checksums import damaged_record
from strandline._journal.errors import RunIdTaken
from strandline._journal.postgres.rows import DAMAGE, MISMATCH
from strandline._journal.postgres.wire import ConnectionLost, Refused
from strandline._printable import without_passwords
from strandline.errors import InvariantBroken, JournalUnavailable, StrandlineError

FENCED: Final = "SL001"
UNREACHABLE: Final = "the database cannot be reached"
REFUSED: Final = "the journal refused an operation"
TAKEN_OVER: Final = "another server has taken the journal over, since this one had not renewed its lease in time"
_TAKEN: Final = "runs_run_id_key"

_UNAVAILABLE: Final = {
    "25006": "it takes no writes (a standby, perhaps)",
    "40001": "it has undone the transaction",
    "40P01": "it has undone the transaction",
    "42501": "its role may not use the tables",
    "42703": "its tables are of another version",
    "42P01": "its tables are gone",
    "53": "it is out of resources",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has no connection left",
    "55P03": "a row is locked",
    "57014": "it has cancelled the statement",
    "58": "its disk failed",
    "XX": "it is damaged",
}
"""By SQLSTATE, or the class that it begins with."""


def for_operators(error: Exception) -> str:
    """Return what an error says to those who operate the server: with what the database has said, but no password."""
    text = str(translated(error))
    if isinstance(error, StrandlineError):
        return text
    state = f" ({error.state})" if isinstance(error, Refused) else ""
    return f"{text}: {without_passwords(str(error) or repr(error))}{state}"


def translated(error: Exception) -> StrandlineError:
    """Return what an error of the driver, or of our own statements, means to callers.

    They learn nothing of statements, names of tables, or the database's address: `for_operators` has these.
    """
    if isinstance(error, StrandlineError):
        return error
    translated_error: StrandlineError
    if isinstance(error, ConnectionLost):
        translated_error = JournalUnavailable(UNREACHABLE)
    elif isinstance(error, Refused):
        translated_error = _refused(error)
    else:
        translated_error = InvariantBroken(REFUSED)
    translated_error.__cause__ = error
    return translated_error


def _refused(error: Refused) -> StrandlineError:
    if error.state == DAMAGE:
        return damaged_record(str(error))
    if error.state == FENCED:
        return JournalUnavailable(TAKEN_OVER)
    if error.constraint == _TAKEN:
        return RunIdTaken()
    if error.state == MISMATCH:
        return InvariantBroken(f"{REFUSED}: it would not have changed exactly one row")
    reason = _UNAVAILABLE.get(error.state) or _UNAVAILABLE.get(error.state[:2])
    if reason is None:
        return InvariantBroken(REFUSED)
    return JournalUnavailable(f"the database could not be used: {reason}")
