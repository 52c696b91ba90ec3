"""The sentences for a judgement, shared by terminal and picture."""

from collections.abc import Sequence
from typing import Final

from strandline._demo.race.agent import PROVIDER_FAILED
from strandline._demo.race.judge import Judgement
from strandline._demo.race.record import ClientResult, Request, Scenario, Server, Trial

NAMES: Final = {
    Server.DEFAULT: "Starlette, Strands as it comes",
    Server.UNPROTECTED: "Starlette, all calls let in",
    Server.LOCK: "Starlette and a lock per session",
    Server.STRANDLINE: "Strandline",
}
SCENARIOS: Final = {
    Scenario.TOGETHER: "Five at once",
    Scenario.FAILURE: "One of them fails in the middle",
    Scenario.KILL: "kill -9 in the middle, then start again",
}
MEANINGS: Final = {
    Scenario.TOGETHER: "Five requests to one session, all there before the model says its first word.",
    Scenario.FAILURE: "The same; for request 2 the model fails after its tool has booked.",
    Scenario.KILL: "The same; the server is killed while the tool of request 2 works.",
}


def fate(play: Trial, request: Request, judgement: Judgement | None) -> str:
    """Return the fate of one request in a few words; without a judgement, only what its client got."""
    got = {
        ClientResult.WAITS: "",
        ClientResult.ANSWER: "answered",
        ClientResult.ERROR: "failed" if request.fails and PROVIDER_FAILED in request.text else "error",
        ClientResult.NOTHING: "cut off",
    }[request.got]
    if judgement is None:
        return got
    if request.seat in judgement.refused:
        return "refused"
    if request.seat in judgement.others:
        got = "another's answer"
    if request.seat in judgement.lost:
        return f"{got}, then forgotten" if request.got is ClientResult.ANSWER else f"{got}, lost"
    if request.seat in judgement.unfinished:
        return f"{got}, left open"
    if request.got is ClientResult.ANSWER:
        return got
    later = any(
        invocation.seat == request.seat and invocation.begun_at > (play.killed_at or 0)
        for invocation in play.invocations
    )
    return f"{got}, ran later" if request.got is ClientResult.NOTHING and later else f"{got}, and reported"


def findings(play: Trial, judgement: Judgement) -> list[tuple[bool, str]]:
    """Return the findings about a trial, as sentences, each with whether it is good."""
    count = len(play.requests)
    said: list[tuple[bool, str]] = []
    if judgement.at_once > 1:
        said.append((False, f"{judgement.at_once} requests in one agent at the same time"))
    else:
        said.append((True, "one at a time"))
    errors = [seat for seat in judgement.errors if seat not in judgement.refused]
    if judgement.refused:
        said.append((False, f"{len(judgement.own)} answered, {len(judgement.refused)} refused"))
    else:
        good = not judgement.others and not errors
        said.append((good, f"{len(judgement.own)} of {count} got their answer"))
    if judgement.others:
        said.append((False, f"{len(judgement.others)} got the answer of another"))
    if errors:
        said.append((False, f"{len(errors)} got an error that is not theirs"))
    if judgement.nothing:
        ran = {
            invocation.seat
            for invocation in play.invocations
            if play.ready_at is not None and invocation.begun_at > play.ready_at
        }
        later = len(ran & set(judgement.nothing))
        said.append(
            (True, f"{len(judgement.nothing)} were cut off" + (f", {later} of them ran later" if later else ""))
        )
    if judgement.twice:
        said.append((False, f"the tool of {_seats(judgement.twice)} was started twice"))
    if judgement.lost:
        said.append((False, f"the conversation has lost {len(judgement.lost)} of {count} requests"))
    elif judgement.faults:
        said.append((False, f"the conversation is broken: {_short(judgement.faults[0])}"))
    elif judgement.unfinished:
        said.append((False, f"the conversation leaves {_seats(judgement.unfinished)} open"))
    elif judgement.refused:
        said.append((True, f"the conversation has the {count - len(judgement.refused)} that got in, well formed"))
    else:
        said.append((True, f"the conversation has all {count}, well formed"))
    said.append((judgement.goes_on, "the next message " + ("is answered" if judgement.goes_on else "is refused")))
    return said


def _seats(seats: Sequence[int]) -> str:
    return ("request " if len(seats) == 1 else "requests ") + ", ".join(map(str, seats))


def _short(fault: str) -> str:
    if fault.startswith("the roles do not go"):
        return "roles do not alternate"
    return fault if len(fault) <= 60 else f"{fault[:57]}..."
