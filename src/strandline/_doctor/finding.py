"""What a check has found: a level, what was looked at, what is so, and what to do about it."""

from enum import StrEnum

from msgspec import Struct, field


class Level(StrEnum):
    """How it stands. Only a problem keeps a server from starting, or will."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """One line of the doctor's report."""

    level: Level
    about: str
    message: str = field(name="told")
    fix: str | None = None


def ok(about: str, message: str) -> Finding:
    """Make a finding that all is well."""
    return Finding(Level.OK, about, message)


def note(about: str, message: str, fix: str | None = None) -> Finding:
    """Make a finding that is worth knowing."""
    return Finding(Level.NOTE, about, message, fix)


def problem(about: str, message: str, fix: str | None = None) -> Finding:
    """Make a finding that something has to be mended; an error of ours says in its own words what to do."""
    return Finding(Level.PROBLEM, about, message, fix)
