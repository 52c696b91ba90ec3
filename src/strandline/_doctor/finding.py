"""`Finding`: the result of a check, with a level, a subject, a message and a fix."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """The level of a finding. Only a problem keeps a server from starting, now or later, or clients
    from their answers."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """One line of the doctor's report."""

    level: Level
    about: str
    message: str
    fix: str | None = None


def ok(about: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, about, message)


def note(about: str, message: str, fix: str | None = None) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(Level.NOTE, about, message, fix)


def problem(about: str, message: str, fix: str | None = None) -> Finding:
    """Return a finding that needs a fix; Strandline's own errors already say which."""
    return Finding(Level.PROBLEM, about, message, fix)
