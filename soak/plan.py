"""The schedule that a seed stands for: who says what when, and at which instants servers are ended.

The same seed gives the same schedule. What comes of it depends on real time too, so it comes near to, and is not, the
same once more. Pure: knows no clock, no server and no client.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any, Final, Literal

from msgspec import Struct

CHATTERS: Final = 6
"""Clients that share sessions, one message at a time each."""
LINERS: Final = 2
"""Clients with sessions of their own, that send one message after the other without waiting for answers."""
SHARED: Final = 4
"""Sessions that chatters share at a time."""
MESSAGES_OF_A_SESSION: Final = 10
"""How many messages a client sends into a session before it takes a new one: histories stay short."""


How = Literal["kill", "stop", "both"]
HOWS: Final[tuple[How, ...]] = ("kill", "stop", "both")
Policy = Literal["enqueue", "reject", "interrupt", "rollback"]
POLICIES: Final[tuple[Policy, ...]] = ("enqueue", "reject", "interrupt", "rollback")


class Say(Struct, frozen=True, kw_only=True):
    """A message to send. `leave_ms`: the client hangs up that long after; None: it waits for its answer."""

    label: str
    text: str
    session: str
    pause_ms: float
    """How long the client thinks before."""
    leave_ms: float | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    keyed: bool = False
    """Whether it has an idempotency key, and is sent again until there is an answer."""
    if_busy: Policy = "enqueue"
    priority: int | None = None


class Kill(Struct, frozen=True, kw_only=True):
    """An end to be made of servers, `after_s` seconds after the last end or (`ready`) after a server got ready.

    `whom`: the one that owns the journal; one of those that wait for it or are about to take it over; or all of them.
    `how`: SIGKILL; SIGTERM; or SIGTERM and, `then_s` later, SIGKILL.
    """

    whom: Literal["owner", "waiting", "all"]
    how: How
    ready: bool
    after_s: float
    then_s: float = 0.0


def chatter(seed: int, number: int, *, timeouts: bool, control: bool) -> Iterator[Say]:
    """Yield what a client says to sessions that others talk to as well, for ever."""
    chance = random.Random(f"{seed} chatter {number}")
    for n in itertools.count():
        label = f"c{number}-{n}"
        leaves = chance.random() < 0.2
        text = message(chance, label)
        yield Say(
            label=label,
            text=text,
            session=f"shared-{chance.randrange(SHARED)}.{n // MESSAGES_OF_A_SESSION}",
            pause_ms=chance.expovariate(1 / 120),
            leave_ms=chance.uniform(0, 150) if leaves else None,
            **(_timeouts(chance, text) if timeouts else {}),
            **(_wishes(chance) if control else {}),
        )


def liner(seed: int, number: int, *, timeouts: bool) -> Iterator[list[Say]]:
    """Yield what a client says to a session of its own, some messages at a time, for ever."""
    chance = random.Random(f"{seed} liner {number}")
    numbers = itertools.count()
    for round_ in itertools.count():
        labels = [f"l{number}-{next(numbers)}" for _ in range(chance.randint(2, 4))]
        session = f"own-{number}.{round_ // 4}"
        pause_ms = chance.expovariate(1 / 150)
        texts = {label: message(chance, label) for label in labels}
        yield [
            Say(
                label=label,
                text=text,
                session=session,
                pause_ms=0 if place else pause_ms,
                **(_timeouts(chance, text) if timeouts else {}),
            )
            for place, (label, text) in enumerate(texts.items())
        ]


def message(chance: random.Random, label: str) -> str:
    """Return a message of up to three rounds of up to three tools; one in ten ends in an error of the model."""
    words = [label]
    for _ in range(chance.choices((0, 1, 2, 3), (2, 4, 2, 1))[0]):
        if chance.random() < 0.2:
            words.append(f"think.{chance.randint(1, 80)}")
        calls = chance.choices((1, 2, 3), (5, 3, 1))[0]
        tools = [_tool(chance) for _ in range(calls)]
        words.append("+".join(f"{tool}.{_ms(chance, tool)}" for tool in tools))
    if chance.random() < 0.3:
        words.append(f"think.{chance.randint(1, 120)}")
    if chance.random() < 0.1:
        words.append("error")
    return " ".join(words)


def _tool(chance: random.Random) -> str:
    tools = ("work", "awork", "again", "stubborn", "fails", "afails")
    return chance.choices(tools, (20, 16, 12, 3, 4, 4))[0]


def _ms(chance: random.Random, tool: str) -> int:
    return round(min(chance.expovariate(1 / (600 if tool == "stubborn" else 25)), 2500))


def _timeouts(chance: random.Random, text: str) -> dict[str, Any]:
    """Most messages have none; some a time to run, some a time to wait, that is often too short."""
    often = 16 if "stubborn" in text else 2
    match chance.choices(("none", "run", "wait"), (16, often, 1))[0]:
        case "run":
            return {"timeout_s": round(chance.uniform(0.02, 0.4), 3)}
        case "wait":
            return {"queue_timeout_s": round(chance.uniform(0.02, 0.4), 3)}
        case _:
            return {}


def _wishes(chance: random.Random) -> dict[str, Any]:
    """Some messages have a key, some do something about a busy session, some have a priority."""
    wishes: dict[str, Any] = {"keyed": chance.random() < 0.4, "if_busy": chance.choices(POLICIES, (16, 2, 2, 1))[0]}
    return wishes | ({"priority": chance.randint(1, 5)} if chance.random() < 0.2 else {})


def kills(seed: int, count: int) -> Iterator[Kill]:
    """Yield the ends of servers."""
    chance = random.Random(f"{seed} kills")
    for _ in range(count):
        how = chance.choices(HOWS, (80, 12, 8))[0]
        then_s = chance.uniform(0, 0.6) if how == "both" else 0.0
        match chance.choices(("at once", "soon", "late", "handover", "all"), (15, 55, 12, 14, 4))[0]:
            case "at once":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0, 0.02), then_s=then_s)
            case "soon":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0.02, 0.8), then_s=then_s)
            case "late":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0.8, 2.5), then_s=then_s)
            case "handover":
                yield Kill(whom="waiting", how="kill", ready=False, after_s=chance.uniform(0.002, 0.25))
            case _:
                yield Kill(whom="all", how="kill", ready=False, after_s=chance.uniform(0.002, 1.0))
