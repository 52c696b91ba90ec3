"""What one whole run of the benchmark found: records that are kept as JSON. Knows nothing of how they are shown."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Five:
    """Five requests to one session at once, and one after them."""

    answered: int
    refused: int
    at_once: int
    """How many calls of the model overlapped."""
    order: list[int]
    """Which of the five the *model* was shown afterwards, in that order."""
    well_formed: bool
    """Whether the conversation that it was shown then alternates."""
    next_answered: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A turn whose model call failed, and the next turn."""

    next_answered: bool
    well_formed: bool
    told: bool
    """Whether the model was shown the failed turn's message then."""


@dataclass(frozen=True, slots=True)
class Killed:
    """`kill -9` while one of five executes, a restart, and one more turn."""

    accepted: int
    """Sent, and not refused when the server was killed."""
    ran: int
    """Of these, how many the model has answered in the end."""
    earlier_kept: bool
    """Whether the model was shown the turn before the kill."""
    next_answered: bool


@dataclass(slots=True)
class Figures:
    """What was measured of one subject; None is what it cannot do, or what failed (`failures` says how)."""

    key: str
    versions: dict[str, str]
    one_p50_ms: float | None = None
    one_p95_ms: float | None = None
    many_per_s: float | None = None
    many_cpu_us: float | None = None
    health_p50_ms: float | None = None
    health_max_ms: float | None = None
    hot_per_s: float | None = None
    hot_refused: float | None = None
    """Which share of the requests was refused."""
    first_text_p50_ms: float | None = None
    idle_mb: float | None = None
    session_kb: float | None = None
    five: Five | None = None
    failed: Failed | None = None
    killed: Killed | None = None
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when."""

    date: str
    system: str
    processor: str
    cores: int
    python: str
    load_before: float
    load_during: float
    """The highest that was seen between two steps; the benchmark itself makes about 2 of it."""
    load_after: float


@dataclass(frozen=True, slots=True)
class Record:
    """One run."""

    machine: Machine
    quick: bool
    took_s: float
    spread: list[float]
    """The loop's answers a second in each repetition, of their median: how quiet the machine was."""
    figures: list[Figures]

    def dump(self) -> str:
        """Return the JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def load(text: str) -> Record:
    """Read a record. Raises `TypeError` or `KeyError` on another shape."""
    kept: dict[str, Any] = json.loads(text)
    machine = Machine(**kept.pop("machine"))
    figures = [_figures(each) for each in kept.pop("figures")]
    return Record(machine=machine, figures=figures, **kept)


def _figures(kept: dict[str, Any]) -> Figures:
    five, failed, killed = (kept.pop(each) for each in ("five", "failed", "killed"))
    return Figures(
        **kept,
        five=None if five is None else Five(**five),
        failed=None if failed is None else Failed(**failed),
        killed=None if killed is None else Killed(**killed),
    )
