"""The times at which a schedule fires: of a cron expression in a time zone, of an interval, or a single one. Pure.

Cron expressions follow Debian's cron (the package `cronsim`), also where clocks change: a time of the day that is left
out comes right after the change, and one that comes twice fires once; expressions with every hour or minute follow the
time that passes.
"""

from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from math import floor, isfinite
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from strandline.errors import Invalid

LEAST_S: Final = 1.0
"""The shortest interval: cron expressions have seconds, too."""
MOST_S: Final = 10 * 366 * 86_400.0
LONGEST_CRON: Final = 100


class Overlap(StrEnum):
    """What a schedule does if its run before has not ended."""

    ENQUEUE = "enqueue"
    """Its run waits, as any other."""
    SKIP = "skip"
    """This time passes without a run."""
    REPLACE = "replace"
    """A run before that still waits for its first start is cancelled."""


class Missed(StrEnum):
    """What a schedule does about times at which no server fired it."""

    ONCE = "once"
    """Fire once for all of them."""
    SKIP = "skip"
    """Let them pass."""
    ALL = "all"
    """Fire once for each, as fast as its session goes."""


class When(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a schedule fires; one of `cron`, `every_s` and `at` is set. `timezone` is that of `cron`. `since`: when it
    was made, and from when on an interval counts."""

    since: float
    cron: str | None = None
    every_s: float | None = None
    at: float | None = None
    timezone: str = "UTC"

    def check(self) -> None:
        """Raise `Invalid` unless it can fire at all."""
        if sum(each is not None for each in (self.cron, self.every_s, self.at)) != 1:
            raise Invalid("a schedule needs one of cron, every and at")
        if self.every_s is not None and not (isfinite(self.every_s) and LEAST_S <= self.every_s <= MOST_S):
            raise Invalid(f"every must be {LEAST_S:g} to {MOST_S:g} seconds")
        if self.cron is None:
            if self.timezone != "UTC":
                raise Invalid("timezone goes with cron: an interval has none, and a time has its own")
            return
        zone_of(self.timezone)
        try:
            first = self.after(self.since)
        except ValueError as error:
            raise Invalid(f"cron is {self.cron!a}: {error}; it must be five fields, such as 0 9 * * MON-FRI") from None
        if first is None:
            raise Invalid(f"cron is {self.cron!a}, which never comes")

    def after(self, at: float) -> float | None:
        """Return the first time after another one (seconds since the epoch); None: there is none."""
        if self.every_s is not None:
            nth = floor((at - self.since) / self.every_s)  # (or beside it: its times are rounded)
            return next(each for n in count(nth) if (each := self.since + n * self.every_s) > at)
        if self.cron is not None:
            return _after(self.cron, self.timezone, at)
        return self.at if self.at is not None and self.at > at else None

    @property
    def first(self) -> float | None:
        """Its first time, which of a single one may have passed."""
        return self.at if self.at is not None else self.after(self.since)

    def upcoming(self, at: float | None, most: int) -> list[float]:
        """Return up to `most` times from one of them on."""
        found: list[float] = []
        while at is not None and len(found) < most:
            found.append(at)
            at = self.after(at)
        return found


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone. Raises `Invalid` for a name that is none."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise Invalid(f"timezone is {name!a}; it must be a name such as Europe/Berlin") from None


def _after(cron: str, timezone: str, at: float) -> float | None:
    """Return the first time of a cron expression after another one. Raises `ValueError` for one that is none."""
    from cronsim import CronSim, CronSimError

    if len(cron) > LONGEST_CRON:
        raise ValueError(f"it is longer than {LONGEST_CRON} characters")
    try:
        found = next(CronSim(cron, datetime.fromtimestamp(at, UTC).astimezone(zone_of(timezone))), None)
    except (CronSimError, RecursionError) as error:
        raise ValueError(str(error) or "it cannot be read") from None
    except OverflowError:
        return None
    return None if found is None else found.timestamp()
