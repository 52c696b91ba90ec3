"""What a seed has clients say: who says what when, hangs up when, and answers which questions how.

The same seed gives the same schedule. What comes of it depends on real time too, so it comes near to, and is not, the
same once more. Pure: knows no clock, no server and no client.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any, Final, Literal

from msgspec import Struct

from soak.message import ASKING

CHATTERS: Final = 6
"""Clients that share sessions, one message at a time each."""
ASKERS: Final = 3
"""Clients that share sessions whose agents ask, and that answer what they are asked."""
FOLLOWERS: Final = 2
"""Clients that read the events of their runs; they share the chatters' sessions."""
WATCHERS: Final = 1
"""Clients that read the events of runs of others."""
DELETERS: Final = 1
"""Clients with a session of their own that they delete again and again."""
LINERS: Final = 2
"""Clients with sessions of their own, that send one message after the other without waiting for answers."""
SHARED: Final = 4
"""Sessions that chatters share at a time."""
LONG_MS: Final = 4000
"""How long a run continues that is to be cancelled because its client has left: longer than that takes."""
REQUESTED: Final = 2
"""Sessions that askers share at a time."""
QUESTIONS: Final = 3
"""How many questions of one run a client answers."""
DELETED: Final = "gone-"
"""How the names of sessions begin that are deleted."""
MESSAGES_OF_A_SESSION: Final = 10
"""How many messages a client sends into a session before it takes a new one: histories stay short."""

STEERS: Final = 0.35
"""How often what a chatter says is to join the run that executes, if it would only wait."""

Policy = Literal["enqueue", "reject", "interrupt", "rollback", "steer"]
POLICIES: Final[tuple[Policy, ...]] = ("enqueue", "reject", "interrupt", "rollback")


OnDisconnect = Literal["continue", "cancel", "cancel_if_queued"]


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
    on_disconnect: OnDisconnect = "continue"


class Reply(Struct, frozen=True, kw_only=True):
    """What a client does about a question that its message led to, `after_ms` later.

    `never`: nothing; `once`: it answers, under the first label; `twice`: it answers again, whatever came of the first
    answer; `both`: it sends two answers at once; `unknown`: it answers a question that nobody asked, and then this one.
    """

    how: Literal["never", "once", "twice", "both", "unknown"]
    labels: tuple[str, str]
    after_ms: float
    leave_ms: float | None = None
    timeout_s: float | None = None
    keyed: bool = False


class Exchange(Struct, frozen=True, kw_only=True):
    """A message that may lead to questions, and what its client does about the first of them, the second, ..."""

    say: Say
    replies: tuple[Reply, ...]


class Life(Struct, frozen=True, kw_only=True):
    """A session from its first message to its deletion, which is tried first `after_ms` after the last message."""

    says: tuple[Say, ...]
    after_ms: float


def chatter(seed: int, number: int, *, timeouts: bool, control: bool) -> Iterator[Say]:
    """Yield what a client says to sessions that others talk to as well, for ever."""
    chance, joins = random.Random(f"{seed} chatter {number}"), random.Random(f"{seed} joins of {number}")
    for n in itertools.count():
        label = f"c{number}-{n}"
        leaves = chance.random() < 0.2
        text = message(chance, label)
        options = _options(chance) if control else {}
        if options.get("if_busy") == "enqueue" and joins.random() < STEERS:
            options["if_busy"] = "steer"
        if leaves and options.get("on_disconnect", "continue") != "continue" and chance.random() < 0.15:
            text = f"{label} think.{LONG_MS}{text.removeprefix(label)}"
        yield Say(
            label=label,
            text=text,
            session=f"shared-{chance.randrange(SHARED)}.{n // MESSAGES_OF_A_SESSION}",
            pause_ms=chance.expovariate(1 / 120),
            leave_ms=chance.uniform(0, 150) if leaves else None,
            **(_timeouts(chance, text) if timeouts else {}),
            **options,
        )


def follower(seed: int, number: int, *, timeouts: bool) -> Iterator[Say]:
    """Yield what a client says that follows its runs to their ends, for ever."""
    chance = random.Random(f"{seed} follower {number}")
    for n in itertools.count():
        label = f"f{number}-{n}"
        text = message(chance, label)
        yield Say(
            label=label,
            text=text,
            session=f"shared-{chance.randrange(SHARED)}.{n // MESSAGES_OF_A_SESSION}",
            pause_ms=chance.expovariate(1 / 120),
            keyed=True,
            **(_timeouts(chance, text) if timeouts else {}),
        )


def asker(seed: int, number: int, *, timeouts: bool) -> Iterator[Exchange]:
    """Yield what a client says to sessions whose agents ask, and how it answers, for ever."""
    chance = random.Random(f"{seed} asker {number}")
    answers = itertools.count()
    for n in itertools.count():
        label = f"q{number}-{n}"
        text = _asking(chance, message(chance, label)) if chance.random() < 0.6 else message(chance, label)
        say = Say(
            label=label,
            text=text,
            session=f"asked-{chance.randrange(REQUESTED)}.{n // MESSAGES_OF_A_SESSION}",
            pause_ms=chance.expovariate(1 / 120),
            leave_ms=chance.uniform(0, 150) if chance.random() < 0.1 else None,
            **(_timeouts(chance, text) if timeouts else {}),
            **_options(chance),
        )
        replies = tuple(
            Reply(
                how=chance.choices(("never", "once", "twice", "both", "unknown"), (4, 10, 3, 3, 1))[0],
                labels=(f"a{number}-{next(answers)}", f"a{number}-{next(answers)}"),
                after_ms=chance.uniform(300, 1800) if chance.random() < 0.25 else chance.expovariate(1 / 60),
                leave_ms=chance.uniform(0, 150) if chance.random() < 0.15 else None,
                timeout_s=round(chance.uniform(0.02, 0.4), 3) if timeouts and chance.random() < 0.1 else None,
                keyed=chance.random() < 0.4,
            )
            for _ in range(QUESTIONS)
        )
        yield Exchange(say=say, replies=replies)


def _asking(chance: random.Random, text: str) -> str:
    """Return a message in which one tool asks, sometimes two in one round or one after the other."""
    label, *words = text.split()
    at = chance.randint(0, len(words))
    one, other = (f"{chance.choices(ASKING, (3, 2))[0]}.{_ms(chance, 'requests_input')}" for _ in range(2))
    match chance.choices(("alone", "two", "beside", "again"), (5, 1, 3, 1))[0]:
        case "two":
            new = [f"{one}+{other}"]
        case "beside":
            new = [f"{_tool(chance)}.{_ms(chance, 'work')}+{one}"]
        case "again":
            new = [one, other]
        case _:
            new = [one]
    if words and words[-1] == "error":
        at = min(at, len(words) - 1)
    return " ".join([label, *words[:at], *new, *words[at:]])


def deleter(seed: int, number: int) -> Iterator[Life]:
    """Yield the lives of the sessions that a client deletes, for ever; some of one name after the other."""
    chance = random.Random(f"{seed} deleter {number}")
    numbers = itertools.count()
    for life in itertools.count():
        labels = [f"d{number}-{next(numbers)}" for _ in range(chance.randint(1, 3))]
        says = tuple(
            Say(
                label=label,
                text=message(chance, label),
                session=f"{DELETED}{number}.{life // 3}",
                pause_ms=chance.expovariate(1 / 100),
                leave_ms=chance.uniform(0, 150) if chance.random() < 0.1 else None,
                keyed=chance.random() < 0.4,
            )
            for label in labels
        )
        yield Life(says=says, after_ms=chance.expovariate(1 / 60))


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


def _options(chance: random.Random) -> dict[str, Any]:
    """Some messages have a key, some do something about a busy session, some have a priority."""
    options: dict[str, Any] = {"keyed": chance.random() < 0.4, "if_busy": chance.choices(POLICIES, (16, 2, 2, 1))[0]}
    options["on_disconnect"] = chance.choices(("continue", "cancel", "cancel_if_queued"), (3, 1, 1))[0]
    return options | ({"priority": chance.randint(1, 5)} if chance.random() < 0.2 else {})
