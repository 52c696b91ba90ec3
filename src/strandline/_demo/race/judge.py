"""Says what is wrong about a play, from its record alone: the same questions to every server.

What an act breaks on purpose is not held against a server: the failing request's own error, and that the clients of a
killed server get nothing. Everything else is.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from strandline._demo.race.agent import seat_of
from strandline._demo.race.record import Asked, Got, Play
from strandline.testing._checker import check_history

FOREVER: Final = float("inf")


class Judgement(Struct, frozen=True, kw_only=True):
    """What was found about one play. Seats stand for the requests that asked for them."""

    own: Sequence[int]
    """Who got an answer of their own."""
    others: Sequence[int]
    """Who got the answer of somebody else."""
    errors: Sequence[int]
    """Who got an error that was not theirs."""
    refused: Sequence[int]
    """Who of these, or of those whose failure was asked for, never got into the agent, and was told so."""
    nothing: Sequence[int]
    """Whose connection broke."""
    at_once: int
    """How many invocations of the agent were in flight at one moment, at most."""
    faults: Sequence[str]
    """What a provider refuses in the conversation."""
    lost: Sequence[int]
    """Whose question is not in the conversation."""
    unfinished: Sequence[int]
    """Who is in the conversation without an answer or the sentence that says how it ended."""
    twice: Sequence[int]
    """Whose tool was started more than once."""
    goes_on: bool
    """Whether the next message got its answer."""

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        wrong = (self.others, self.errors, self.refused, self.faults, self.lost, self.unfinished, self.twice)
        return self.at_once <= 1 and self.goes_on and not any(wrong)


def judge(play: Play) -> Judgement:
    """Judge one play that is over."""
    answered = [asked for asked in play.asked if asked.got is Got.ANSWER]
    told = _told(play)
    inside = {spell.seat for spell in play.spells}
    refused = [
        asked.seat
        for asked in play.asked
        if asked.got is Got.ERROR and asked.seat not in inside and asked.question not in told
    ]
    return Judgement(
        own=[asked.seat for asked in answered if _is_own(asked)],
        others=[asked.seat for asked in answered if not _is_own(asked)],
        errors=[asked.seat for asked in play.asked if asked.got is Got.ERROR and not asked.fails],
        refused=refused,
        nothing=[asked.seat for asked in play.asked if asked.got is Got.NOTHING],
        at_once=_at_once(play),
        faults=check_history(play.history),
        lost=[asked.seat for asked in play.asked if asked.question not in told and asked.seat not in refused],
        unfinished=[asked.seat for asked in play.asked if told.get(asked.question) == ""],
        twice=[seat for seat, starts in sorted(Counter(play.tools).items()) if starts > 1],
        goes_on=play.following is not None and play.following.got is Got.ANSWER and _is_own(play.following),
    )


def _is_own(asked: Asked) -> bool:
    return seat_of(asked.text) == asked.seat


def _at_once(play: Play) -> int:
    """Return the largest number of spells that have a moment in common; one that was cut off ended with its server."""
    ends = [
        spell.ended_at if spell.ended_at is not None
        else play.killed_at if play.killed_at is not None and spell.begun_at <= play.killed_at
        else FOREVER
        for spell in play.spells
    ]  # fmt: skip
    spans = list(zip((spell.begun_at for spell in play.spells), ends, strict=True))
    return max((sum(begun <= at < end for begun, end in spans) for at, _ in spans), default=0)


def _told(play: Play) -> dict[str, str]:
    """Return every question in the conversation with the last text that the assistant said before the next one."""
    told: dict[str, str] = {}
    asked = ""
    for message in play.history:
        texts = [block["text"] for block in message["content"] if "text" in block]
        calls = any("toolUse" in block for block in message["content"])
        if message["role"] == "user" and texts:
            asked = texts[0]
            told[asked] = ""
        elif message["role"] == "assistant" and texts and not calls and asked:
            told[asked] = texts[-1]
    return told
