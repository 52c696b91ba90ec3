"""What the agent will do in one run: drawn when the run is requested, so that it does the same in every attempt."""

from enum import StrEnum

from msgspec import Struct

from simulation.loop import Chance

SECRET = "secret of"
"""How every exception of an agent's own code begins."""


class Ends(StrEnum):
    """How a run ends if nobody ends it."""

    ANSWERS = "answers"
    RAISES = "raises"
    HANGS = "hangs"
    """It never ends by itself."""


class Tool(Struct, frozen=True):
    """One tool of a round."""

    takes_s: float
    name: str = "work"
    """Tools named `look` are idempotent, if anybody cares."""
    fails: bool = False
    """Its result is an error."""
    in_thread: bool = False
    """It works in a thread, which continues whatever becomes of the run."""
    requests_input: int = 0
    """How many questions it puts to a person, one after the other, before it does anything."""


class Script(Struct, frozen=True):
    """One run. Places are numbers of rounds; the one after the last is the answer."""

    rounds: tuple[tuple[Tool, ...], ...]
    ends: Ends
    at: int
    """Where it raises or hangs; -1 in the round that an answer continues."""
    model_s: float
    """How long a call of the model may take."""
    pause_s: float = 0.0
    """How long the model says nothing at `at`."""
    build_s: float = 0.0
    build_fails: bool = False
    swallows: int = 0
    """How many cancellations it swallows."""
    in_tool: bool = False
    """Whether it raises in the last tool of the round `at`, if there is one."""
    heeds: bool = False
    """Whether it looks at its signal, and ends."""


class Traits(Struct, frozen=True):
    """How runs are in one world: how likely it is that they do something, and how long a call of the model may take."""

    model_s: float = 0.5
    tools: float = 0.4
    raises: float = 0.08
    hangs: float = 0.0
    pauses: float = 0.1
    threads: float = 0.0
    swallows: float = 0.1
    slow_builds: float = 0.1
    failing_builds: float = 0.03
    interrupts: float = 0.0
    """How likely it is that a request interrupts its session, rolls it back, or may not wait."""
    pauses_session: float = 0.0
    """How likely it is that a client pauses its session for a while."""
    moves: float = 0.0
    """How likely it is that a client moves its run."""
    keys: float = 0.0
    """How likely it is that a request has an idempotency key, and is sent more than once."""
    cancels: float = 0.0
    """How likely it is that the client of a run cancels it."""
    sweeps: float = 0.0
    """How likely it is that somebody cancels a whole session, for each burst of requests."""
    attached: float = 0.0
    """How likely it is that a run is to be cancelled when its client is lost."""
    deletes: float = 0.0
    """How likely it is that somebody deletes a session, for each burst of requests."""
    priorities: float = 0.0
    """How likely it is that a request has a priority."""
    requests_input: float = 0.0
    """How likely it is that a tool asks a person."""
    on_questions: float = 0.0
    """How likely it is that a message answers what its session asks, or ends the question."""


def draw(chance: Chance, traits: Traits, *, answers: bool = False) -> Script:
    """Draw what one run does; one that answers continues a round of another run before its own."""
    rounds: tuple[tuple[Tool, ...], ...] = ()
    requests_input = traits.requests_input / 3 if answers else traits.requests_input
    if chance.happens(traits.tools):
        rounds = tuple(
            tuple(_tool(chance, traits, requests_input) for _ in range(1 + chance.up_to(2) * chance.up_to(1)))
            for _ in range(1 + chance.up_to(2))
        )
    ends = Ends.ANSWERS
    fate = chance.random()
    if fate < traits.raises:
        ends = Ends.RAISES
    elif fate < traits.raises + traits.hangs:
        ends = Ends.HANGS
    return Script(
        rounds=rounds,
        ends=ends,
        at=chance.up_to(len(rounds) + answers) - answers,
        model_s=traits.model_s * chance.random() ** 2,
        pause_s=chance.between(1.0, 15.0) if chance.happens(traits.pauses) else 0.0,
        build_s=chance.between(0.1, 3.0) if chance.happens(traits.slow_builds) else 0.0,
        build_fails=chance.happens(traits.failing_builds),
        swallows=1 + chance.up_to(2) if chance.happens(traits.swallows) else 0,
        in_tool=chance.happens(0.5),
        heeds=chance.happens(0.3),
    )


def _tool(chance: Chance, traits: Traits, requests_input: float) -> Tool:
    in_thread = chance.happens(traits.threads)
    takes_s = chance.between(1.0, 10.0) if chance.happens(0.4 if in_thread else 0.05) else 0.3 * chance.random() ** 2
    return Tool(
        takes_s,
        "look" if chance.happens(0.4) else "work",
        fails=chance.happens(0.1),
        in_thread=in_thread,
        requests_input=1 + chance.happens(0.2) if requests_input and chance.happens(requests_input) else 0,
    )
