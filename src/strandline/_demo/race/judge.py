"""Finds the faults of a trial from its record alone, by the same rules for every server.

What a scenario breaks on purpose does not count: the failing request's own error, and that clients of a killed server
get no answer. Everything else does.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from strandline._demo.race.agent import seat_of
from strandline._demo.race.record import ClientResult, Request, Trial
from strandline.testing._checker import check_history

FOREVER: Final = float("inf")


class Judgement(Struct, frozen=True, kw_only=True):
    """The findings about one trial. A seat identifies its request."""

    own: Sequence[int]
    """Requests that got their own answer."""
    others: Sequence[int]
    """Requests that got another one's answer."""
    errors: Sequence[int]
    """Requests that got an error they did not cause."""
    refused: Sequence[int]
    """Requests that were refused: they never reached the agent, and their clients know it."""
    nothing: Sequence[int]
    """Requests whose connection broke."""
    at_once: int
    """The most invocations of the agent at one moment."""
    faults: Sequence[str]
    """What a provider would refuse in the conversation."""
    lost: Sequence[int]
    """Requests whose question is missing in the conversation."""
    unfinished: Sequence[int]
    """Requests in the conversation without an answer, or a sentence that says how they ended."""
    twice: Sequence[int]
    """Requests whose tool was started more than once."""
    goes_on: bool
    """Whether the next message got its answer."""

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        wrong = (self.others, self.errors, self.refused, self.faults, self.lost, self.unfinished, self.twice)
        return self.at_once <= 1 and self.goes_on and not any(wrong)


def judge(play: Trial) -> Judgement:
    """Judge a finished trial."""
    answered = [request for request in play.requests if request.got is ClientResult.ANSWER]
    answers = _answers_in_history(play)
    executing = {invocation.seat for invocation in play.invocations}
    refused = [
        request.seat
        for request in play.requests
        if request.got is ClientResult.ERROR and request.seat not in executing and request.question not in answers
    ]
    return Judgement(
        own=[request.seat for request in answered if _is_own(request)],
        others=[request.seat for request in answered if not _is_own(request)],
        errors=[request.seat for request in play.requests if request.got is ClientResult.ERROR and not request.fails],
        refused=refused,
        nothing=[request.seat for request in play.requests if request.got is ClientResult.NOTHING],
        at_once=_at_once(play),
        faults=check_history(play.history),
        lost=[
            request.seat for request in play.requests if request.question not in answers and request.seat not in refused
        ],
        unfinished=[request.seat for request in play.requests if answers.get(request.question) == ""],
        twice=[seat for seat, starts in sorted(Counter(play.tools).items()) if starts > 1],
        goes_on=play.following is not None and play.following.got is ClientResult.ANSWER and _is_own(play.following),
    )


def _is_own(request: Request) -> bool:
    return seat_of(request.text) == request.seat


def _at_once(play: Trial) -> int:
    """Return the most invocations that overlap; one that was cut off ended with its server."""
    ends = [
        invocation.ended_at if invocation.ended_at is not None
        else play.killed_at if play.killed_at is not None and invocation.begun_at <= play.killed_at
        else FOREVER
        for invocation in play.invocations
    ]  # fmt: skip
    spans = list(zip((invocation.begun_at for invocation in play.invocations), ends, strict=True))
    return max((sum(begun <= at < end for begun, end in spans) for at, _ in spans), default=0)


def _answers_in_history(play: Trial) -> dict[str, str]:
    """Return each question in the conversation with the assistant's last text before the next one."""
    answers: dict[str, str] = {}
    question = ""
    for message in play.history:
        texts = [block["text"] for block in message["content"] if "text" in block]
        calls = any("toolUse" in block for block in message["content"])
        if message["role"] == "user" and texts:
            question = texts[0]
            answers[question] = ""
        elif message["role"] == "assistant" and texts and not calls and question:
            answers[question] = texts[-1]
    return answers
